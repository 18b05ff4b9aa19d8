"""The life of a session, and what becomes of a message whose session is gone."""

from __future__ import annotations

from itertools import product

import pytest

from shadowcat.config.model import Sessions
from shadowcat.config.units import Duration
from shadowcat.mcp.envelope import Kind
from shadowcat.policy.sessions import (
    Action,
    Event,
    Loss,
    State,
    Step,
    Trouble,
    Verdict,
    allows_batch,
    judge_version,
    may_recover,
    recent,
    step,
    what_now,
)

HOUR = 3600 * 10**9
NOW = 5 * HOUR
SECTION = Sessions(recovery_wait=Duration(3))


def live(*events: Event) -> tuple[State, list[Action]]:
    """Where a session stands after these events, and what was done for it."""
    state, actions = State.RESERVED, list[Action]()
    for event in events:
        state, more = step(state, event)
        actions += more
    return state, actions


OPENED = (Event.ISSUED, Event.RESULT)
LOST = (*OPENED, Event.GONE)


def test_a_session_from_start_to_delete() -> None:
    assert live(*OPENED, Event.USED, Event.DELETED) == (
        State.ENDED,
        [Action.CREATE, Action.COMMIT, Action.FORWARD, Action.DELETE, Action.END_STREAMS],
    )


def test_without_an_id_there_is_no_session() -> None:
    assert live(Event.NOT_ISSUED) == (State.ENDED, [Action.RELEASE])


@pytest.mark.parametrize("event", [Event.ERROR, Event.BROKEN_OFF, Event.EXPIRED])
def test_an_opening_without_result_is_rolled_back_on_both_sides(event: Event) -> None:
    state, actions = live(Event.ISSUED, event)
    assert state is State.ENDED
    assert {Action.DELETE, Action.DELETE_UPSTREAM} <= set(actions)
    assert Action.COMMIT not in actions


def test_a_client_may_be_earlier_than_the_result() -> None:
    assert live(Event.ISSUED, Event.USED, Event.RESULT)[1] == [Action.CREATE, Action.FORWARD, Action.COMMIT]
    assert live(Event.ISSUED, Event.DELETED, Event.RESULT) == (
        State.ENDED,
        [Action.CREATE, Action.DELETE, Action.END_STREAMS],
    )


def test_only_an_open_session_is_recovered() -> None:
    assert live(Event.ISSUED, Event.GONE) == (State.OPENING, [Action.CREATE])
    assert live(Event.ISSUED, Event.LOST)[0] is State.ENDED
    assert live(*LOST) == (State.RECOVERING, [Action.CREATE, Action.COMMIT, Action.REINITIALIZE])


@pytest.mark.parametrize("event", [Event.DELETED, Event.EXPIRED, Event.LOST])
def test_an_open_session_ends(event: Event) -> None:
    assert live(*OPENED, event)[0] is State.ENDED


def test_expiry_tells_the_upstream_and_loss_does_not() -> None:
    assert Action.DELETE_UPSTREAM in live(*OPENED, Event.EXPIRED)[1]
    assert Action.DELETE_UPSTREAM not in live(*OPENED, Event.LOST)[1]
    assert Action.DELETE_UPSTREAM not in live(*OPENED, Event.DELETED)[1]


def test_requests_are_held_until_the_session_is_back() -> None:
    assert step(State.RECOVERING, Event.USED) == Step(State.RECOVERING, (Action.HOLD,))
    state, actions = step(State.RECOVERING, Event.RECOVERED)
    assert state is State.OPEN
    assert set(actions) == {Action.RE_PIN, Action.END_STREAMS, Action.DELETE_UPSTREAM, Action.WAKE}
    assert live(*LOST, Event.RECOVERED, Event.GONE)[0] is State.RECOVERING


def test_a_recovery_is_taken_over() -> None:
    assert step(State.RECOVERING, Event.GONE) == Step(State.RECOVERING, (Action.REINITIALIZE,))


def test_without_an_upstream_the_session_stays() -> None:
    assert step(State.RECOVERING, Event.NO_UPSTREAM) == Step(State.OPEN, (Action.WAKE,))


@pytest.mark.parametrize("event", [Event.UNLIKE, Event.DELETED, Event.EXPIRED, Event.LOST])
def test_whoever_waits_is_told_of_the_end(event: Event) -> None:
    state, actions = step(State.RECOVERING, event)
    assert state is State.ENDED
    assert actions[:3] == (Action.DELETE, Action.END_STREAMS, Action.WAKE)


@pytest.mark.parametrize("state", [State.OPEN, State.ENDED])
def test_a_recovery_that_comes_too_late_leaves_nothing_behind(state: State) -> None:
    assert step(state, Event.RECOVERED) == Step(state, (Action.DELETE_UPSTREAM,))
    assert Action.DELETE_UPSTREAM in step(State.RECOVERING, Event.UNLIKE).actions


def test_an_end_deletes_the_record_and_nothing_follows_it() -> None:
    for state, event in product(State, Event):
        after, actions = step(state, event)
        if state is State.ENDED:
            assert after is State.ENDED
            assert set(actions) <= {Action.DELETE_UPSTREAM}
        elif after is State.ENDED and state is not State.RESERVED:
            assert actions[:2] == (Action.DELETE, Action.END_STREAMS)
        else:
            assert Action.DELETE not in actions


def test_every_state_event_and_action_has_a_use() -> None:
    steps = {(state, event): step(state, event) for state, event in product(State, Event)}
    used = {key: found for key, found in steps.items() if found != Step(key[0])}
    assert {event for _, event in used} == set(Event)
    assert {found.state for found in used.values()} | {State.RESERVED} == set(State)
    assert {action for found in used.values() for action in found.actions} == set(Action)


def verdict(
    method: bytes = b"POST",
    kind: Kind | None = Kind.REQUEST,
    loss: Loss = Loss.NOT_FOUND,
    *,
    waited: float = 0.0,
    is_resent: bool = False,
    is_down: bool = False,
    section: Sessions = SECTION,
    is_recoverable: bool = True,
    recoveries: tuple[int, ...] = (),
) -> Verdict:
    trouble = Trouble(method, kind, loss, waited, is_resent, is_down)
    return what_now(trouble, section, is_recoverable=is_recoverable, recoveries=recoveries, now_ns=NOW)


@pytest.mark.parametrize("loss", Loss)
@pytest.mark.parametrize(("method", "kind"), [(b"POST", Kind.REQUEST), (b"GET", None)])
def test_who_waits_for_an_answer_triggers_a_recovery(method: bytes, kind: Kind | None, loss: Loss) -> None:
    assert verdict(method, kind, loss, waited=3.0) is Verdict.RECOVER


def test_an_upstream_that_checks_have_found_down_is_not_waited_for() -> None:
    assert verdict(loss=Loss.REFUSED) is Verdict.RETRY_SAME
    assert verdict(loss=Loss.REFUSED, is_down=True) is Verdict.RECOVER


@pytest.mark.parametrize("loss", Loss)
@pytest.mark.parametrize("kind", [Kind.NOTIFICATION, Kind.RESPONSE])
def test_what_needs_no_answer_is_dropped(kind: Kind, loss: Loss) -> None:
    assert verdict(kind=kind, loss=loss, waited=3.0) is Verdict.DROP


def test_delete_never_recovers() -> None:
    assert verdict(b"DELETE", None) is Verdict.PASS
    assert verdict(b"DELETE", None, Loss.REFUSED, waited=3.0) is Verdict.EXPIRE


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        (b"POST", Kind.REQUEST),
        (b"POST", Kind.NOTIFICATION),
        (b"POST", Kind.RESPONSE),
        (b"GET", None),
        (b"DELETE", None),
    ],
)
def test_an_upstream_that_refuses_is_tried_for_a_while(method: bytes, kind: Kind | None) -> None:
    for waited in (0.0, 2.99):
        assert verdict(method, kind, Loss.REFUSED, waited=waited) is Verdict.RETRY_SAME
    assert verdict(method, kind, Loss.REFUSED, waited=3.0) is not Verdict.RETRY_SAME
    patient = Sessions(recovery_wait=Duration(5))
    assert verdict(method, kind, Loss.REFUSED, waited=3.0, section=patient) is Verdict.RETRY_SAME
    assert verdict(method, kind, Loss.NOT_FOUND) is not Verdict.RETRY_SAME


@pytest.mark.parametrize("kind", [Kind.REQUEST, Kind.NOTIFICATION, Kind.RESPONSE])
def test_what_cannot_be_recovered_expires(kind: Kind) -> None:
    expire = Sessions(recovery="expire", recovery_wait=Duration(3))
    assert verdict(kind=kind, section=expire) is Verdict.EXPIRE
    assert verdict(kind=kind, section=expire, loss=Loss.REFUSED) is Verdict.RETRY_SAME
    assert verdict(kind=kind, is_recoverable=False) is Verdict.EXPIRE
    assert verdict(kind=kind, is_resent=True) is Verdict.EXPIRE
    assert verdict(kind=kind, recoveries=(NOW - 3, NOW - 2, NOW - 1)) is Verdict.EXPIRE


def test_three_recoveries_an_hour() -> None:
    assert may_recover((), NOW)
    assert may_recover((NOW - 2, NOW - 1), NOW)
    assert not may_recover((NOW - HOUR + 1, NOW - 2, NOW - 1), NOW)
    assert may_recover((NOW - HOUR, NOW - 2, NOW - 1), NOW)
    assert recent((NOW - HOUR - 1, NOW - HOUR, NOW - HOUR + 1, NOW), NOW) == (NOW - HOUR + 1, NOW)


@pytest.mark.parametrize("negotiated", ["2025-06-18", "2025-11-25"])
def test_a_session_knows_the_versions_it_may_be_named_by(negotiated: str) -> None:
    assert judge_version(negotiated, None)
    for header in (b"2024-11-05", b"2025-03-26", b"2025-06-18", b"2025-11-25"):
        assert judge_version(negotiated, header)
    for header in (b"", b"2026-07-28", b"2027-01-01", b"2025-06-19", b"1.0", b"2025-06-18, 2025-06-18"):
        assert not judge_version(negotiated, header)


@pytest.mark.parametrize("negotiated", ["", "2024-11-05", "2025-03-26"])
def test_before_the_header_existed_it_means_nothing(negotiated: str) -> None:
    for header in (None, b"", b"2025-03-26", b"1.0", b"2026-07-28"):
        assert judge_version(negotiated, header)


def test_one_revision_has_batches() -> None:
    assert allows_batch("2025-03-26")
    for negotiated in ("", "2024-11-05", "2025-06-18", "2025-11-25"):
        assert not allows_batch(negotiated)
