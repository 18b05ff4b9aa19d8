"""The state table of a supervised process."""

from __future__ import annotations

import pytest

from shadowcat.supervisor.slots import Action, Event, Slot, State, backoff
from shadowcat.supervisor.timing import Timing

TIMING = Timing()


def slot(*, stop_after: float = 32.0, jitter: float = 0.0) -> Slot:
    return Slot(TIMING, stop_after, lambda: jitter)


def up(now: float = 0.0) -> Slot:
    one = slot()
    one.handle(Event.START, now)
    one.handle(Event.READY, now)
    assert one.state is State.UP
    return one


def test_start_forks_and_ready_makes_it_up():
    one = slot()
    assert one.handle(Event.START, 0.0) == (Action.FORK,)
    assert one.alive
    assert one.handle(Event.READY, 0.5) == ()
    assert one.state is State.UP


def test_exit_before_the_first_ready_gives_up():
    one = slot()
    one.handle(Event.START, 0.0)
    assert one.handle(Event.EXIT, 0.1) == (Action.REPAIR, Action.GIVE_UP)
    assert one.state is State.GONE
    assert not one.alive


def test_never_ready_gives_up_after_the_start_timeout_and_is_killed():
    one = slot()
    one.handle(Event.START, 0.0)
    assert not one.due(29.9)
    assert one.due(30.0)
    assert one.handle(Event.TIMER, 30.0) == (Action.ABORT, Action.GIVE_UP)
    assert one.due(31.0)
    assert one.handle(Event.TIMER, 31.0) == (Action.KILL,)
    assert one.handle(Event.EXIT, 31.1) == (Action.REPAIR,)
    assert one.state is State.GONE


def test_the_first_restart_is_immediate_and_repairs_first():
    one = up()
    assert one.handle(Event.EXIT, 5.0) == (Action.REPAIR,)
    assert one.state is State.BACKOFF
    assert one.due(5.0)
    assert one.handle(Event.TIMER, 5.0) == (Action.FORK,)
    assert one.state is State.STARTING


def test_repeated_deaths_wait_longer_and_never_give_up():
    one = up()
    waits = []
    now = 0.0
    for _ in range(12):
        one.handle(Event.EXIT, now)
        assert one.deadline is not None
        waits.append(one.deadline - now)
        now = one.deadline
        assert one.handle(Event.TIMER, now) == (Action.FORK,)
    assert waits[:4] == pytest.approx([0.0, 0.05, 0.1, 0.2])
    assert waits[-1] == pytest.approx(5.0)  # half of 10 s: the jitter here is 0


def test_a_minute_of_service_forgets_failures():
    one = up()
    for _ in range(5):
        one.handle(Event.EXIT, 0.0)
        one.handle(Event.TIMER, 0.0)
        one.handle(Event.READY, 0.0)
    assert one.failures == 5
    assert not one.due(59.9)
    assert one.due(60.0)
    one.handle(Event.TIMER, 60.0)
    one.handle(Event.EXIT, 61.0)
    assert one.deadline == 61.0


def test_a_crash_within_the_minute_does_not_forget():
    one = up()
    one.handle(Event.EXIT, 1.0)
    one.handle(Event.TIMER, 1.0)
    one.handle(Event.READY, 1.2)
    one.handle(Event.EXIT, 2.0)
    assert one.deadline is not None
    assert one.deadline > 2.0


def test_hung_process_is_aborted_then_killed_then_replaced():
    one = up()
    assert one.handle(Event.STALE, 20.0) == (Action.ABORT,)
    assert one.handle(Event.STALE, 20.1) == ()
    assert one.due(21.0)
    assert one.handle(Event.TIMER, 21.0) == (Action.KILL,)
    assert not one.due(1000.0)
    assert one.handle(Event.EXIT, 21.1) == (Action.REPAIR,)
    assert one.state is State.BACKOFF


def test_replacement_that_is_never_ready_is_aborted_and_tried_again():
    one = up()
    one.handle(Event.EXIT, 0.0)
    one.handle(Event.TIMER, 0.0)
    assert one.handle(Event.TIMER, 30.0) == (Action.ABORT,)
    assert one.handle(Event.EXIT, 30.5) == (Action.REPAIR,)
    assert one.state is State.BACKOFF


def test_stop_terminates_and_kills_after_the_deadline():
    one = up()
    assert one.handle(Event.STOP, 10.0) == (Action.TERMINATE,)
    assert one.handle(Event.STOP, 20.0) == ()
    assert not one.due(41.9)
    assert one.due(42.0)
    assert one.handle(Event.TIMER, 42.0) == (Action.KILL,)
    assert one.handle(Event.EXIT, 42.1) == (Action.REPAIR,)
    assert one.state is State.GONE


@pytest.mark.parametrize("stop", [Event.STOP, Event.KILL])
def test_stopping_a_dead_process_needs_nothing(stop):
    one = up()
    one.handle(Event.EXIT, 0.0)
    assert one.handle(stop, 0.0) == ()
    assert one.state is State.GONE


def test_a_hung_process_is_not_asked_politely():
    one = up()
    one.handle(Event.STALE, 0.0)
    assert one.handle(Event.STOP, 0.1) == (Action.KILL,)


@pytest.mark.parametrize(
    "events", [(), (Event.READY,), (Event.READY, Event.STALE), (Event.READY, Event.STOP)]
)
def test_kill_ends_every_living_state(events):
    one = slot()
    one.handle(Event.START, 0.0)
    for event in events:
        one.handle(event, 0.0)
    assert one.handle(Event.KILL, 0.0) == (Action.KILL,)
    assert one.handle(Event.EXIT, 0.0) == (Action.REPAIR,)
    assert one.state is State.GONE


def test_no_event_revives_what_is_gone():
    one = slot()
    one.handle(Event.STOP, 0.0)
    assert one.state is State.GONE
    for event in Event:
        assert one.handle(event, 1.0) == ()
        assert one.state is State.GONE


def test_every_living_state_can_exit_and_be_killed():
    one = slot()
    for state in State:
        one.state = state
        if one.alive:
            for event in (Event.EXIT, Event.KILL):
                other = slot()
                other.state = state
                assert other.handle(event, 0.0), (state, event)


def test_jitter_keeps_the_wait_between_half_and_whole():
    assert backoff(0, TIMING, 0.999) == 0.0
    assert backoff(1, TIMING, 0.0) == pytest.approx(0.05)
    assert backoff(1, TIMING, 1.0) == pytest.approx(0.1)
    assert backoff(10_000, TIMING, 1.0) == pytest.approx(10.0)
