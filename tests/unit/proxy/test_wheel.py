from __future__ import annotations

import gc
import random
import weakref
from itertools import pairwise
from math import inf

from shadowcat.proxy.wheel import TICK, Timed, Wheel

START = 1000.0
EPSILON = 1e-6


class Alarm(Timed):
    """Notes when it rings."""

    def __init__(self) -> None:
        self.deadline = self.filed = inf
        self.rung: list[float] = []

    def on_deadline(self, now: float) -> None:
        self.rung.append(now)


def run(wheel: Wheel, seconds: float, step: float = TICK) -> None:
    end = wheel.now + seconds
    while wheel.now < end - EPSILON:
        catch_up(wheel, wheel.tick(wheel.now + step))


def catch_up(wheel: Wheel, more: bool) -> None:
    """As the loop does, in its further turns."""
    while more:
        more = wheel.catch_up(wheel.now)


def test_never_early_and_late_by_a_tick_at_most() -> None:
    source = random.Random(3)
    for step in (0.1, 0.033, 0.07):
        wheel = Wheel(START)
        alarms = []
        for _ in range(300):
            alarm = Alarm()
            wheel.set(alarm, START + source.uniform(0.0, 20.0))
            alarms.append((alarm, alarm.deadline))
        run(wheel, 21.0, step)
        for alarm, deadline in alarms:
            assert len(alarm.rung) == 1
            assert deadline <= alarm.rung[0] <= deadline + TICK + step + EPSILON


def test_deadlines_on_the_tick_itself() -> None:
    wheel = Wheel(START)
    alarms = []
    for number in range(100):
        alarm = Alarm()
        wheel.set(alarm, START + number * TICK)
        alarms.append((alarm, alarm.deadline))
    run(wheel, 11.0)
    for alarm, deadline in alarms:
        assert len(alarm.rung) == 1
        assert deadline <= alarm.rung[0] <= deadline + 2 * TICK + EPSILON


def test_random_moves_ring_once_at_the_last_deadline() -> None:
    source = random.Random(4)
    wheel = Wheel(START)
    alarms = [Alarm() for _ in range(60)]
    expected = dict.fromkeys(alarms, inf)
    for _ in range(1500):
        alarm = source.choice(alarms)
        deadline = wheel.now + source.choice((source.uniform(0.5, 2), source.uniform(5, 30), inf))
        wheel.set(alarm, deadline)
        expected[alarm] = deadline
        before = len(alarm.rung)
        wheel.tick(wheel.now + 0.01)
        assert len(alarm.rung) == before
        for other, deadline in expected.items():
            if other.rung and other.deadline == inf and deadline != inf:
                assert deadline <= other.rung.pop() <= deadline + TICK + 0.02
                expected[other] = inf
    for alarm in alarms:
        assert not alarm.rung


def test_a_deadline_moved_later_is_one_store() -> None:
    wheel = Wheel(START)
    alarm = Alarm()
    wheel.set(alarm, START + 0.5)
    alarm.deadline = START + 3.0  # What the hot path does.
    run(wheel, 2.9)
    assert not alarm.rung
    run(wheel, 0.3)
    assert len(alarm.rung) == 1


def test_a_deadline_moved_earlier_is_filed_again() -> None:
    wheel = Wheel(START)
    alarm = Alarm()
    wheel.set(alarm, START + 4.0)
    wheel.set(alarm, START + 1.0)
    run(wheel, 1.2)
    assert len(alarm.rung) == 1
    run(wheel, 5.0)
    assert len(alarm.rung) == 1


def test_back_and_forth_between_two_slots_rings_once() -> None:
    wheel = Wheel(START)
    alarm = Alarm()
    for _ in range(3):
        wheel.set(alarm, START + 4.0)
        wheel.set(alarm, START + 2.0)
    wheel.set(alarm, START + 4.0)
    run(wheel, 6.0)
    assert len(alarm.rung) == 1
    assert alarm.rung[0] >= START + 4.0


def test_a_cleared_deadline_does_not_ring() -> None:
    wheel = Wheel(START)
    alarm = Alarm()
    wheel.set(alarm, START + 1.0)
    alarm.deadline = inf
    run(wheel, 10.0)
    assert not alarm.rung


def test_the_deadline_is_cleared_before_it_rings_and_may_be_set_again() -> None:
    wheel = Wheel(START)
    seen: list[float] = []

    class Again(Timed):
        def __init__(self) -> None:
            self.deadline = self.filed = inf

        def on_deadline(self, now: float) -> None:
            assert self.deadline == inf
            seen.append(now)
            if len(seen) < 3:
                wheel.set(self, now + 1.0)

    wheel.set(Again(), START + 1.0)
    run(wheel, 10.0)
    assert len(seen) == 3
    assert all(1.0 <= later - earlier <= 1.0 + 2 * TICK for earlier, later in pairwise(seen))


def test_a_round_after_a_stall_is_skipped() -> None:
    wheel = Wheel(START)
    alarm = Alarm()
    wheel.set(alarm, START + 0.5)
    wheel.tick(START + 30.0)
    assert not alarm.rung  # What arrived meanwhile is read first.
    wheel.tick(START + 30.1)
    assert len(alarm.rung) == 1


def test_what_was_moved_in_the_skipped_round_is_spared() -> None:
    wheel = Wheel(START)
    alarm = Alarm()
    wheel.set(alarm, START + 0.5)
    wheel.tick(START + 30.0)
    wheel.set(alarm, wheel.now + 5.0)
    run(wheel, 4.9)
    assert not alarm.rung
    run(wheel, 0.3)
    assert len(alarm.rung) == 1


def test_a_very_long_stall_loses_nobody() -> None:
    wheel = Wheel(START)
    alarms = [Alarm() for _ in range(20)]
    for number, alarm in enumerate(alarms):
        wheel.set(alarm, START + number * 0.7)
    wheel.tick(START + 86_400.0)
    catch_up(wheel, wheel.tick(START + 86_400.1))
    assert [len(alarm.rung) for alarm in alarms] == [1] * 20


def test_holds_on_to_nothing_beyond_its_horizon() -> None:
    wheel = Wheel(START)
    alarm = Alarm()
    wheel.set(alarm, START + 600.0)
    alarm.deadline = inf  # As a connection does when it is closed.
    gone = weakref.ref(alarm)
    del alarm
    run(wheel, 5.2)
    gc.collect()
    assert gone() is None


def test_a_crowd_is_not_dealt_with_in_one_turn() -> None:
    wheel = Wheel(START)
    alarms = [Alarm() for _ in range(100)]
    for number, alarm in enumerate(alarms):
        wheel.set(alarm, START + 0.5 + number / 1000)
    more = [wheel.tick(START + 0.9)]
    assert 0 < sum(len(alarm.rung) for alarm in alarms) < 50
    wheel.set(alarms[-1], START + 5.0)
    alarms[-2].deadline = START + 5.0
    alarms[-3].deadline = inf
    while more[-1]:
        more.append(wheel.catch_up(START + 0.9))
    assert len(more) > 2
    assert [len(alarm.rung) for alarm in alarms] == [1] * 97 + [0] * 3
    run(wheel, 5.0)
    assert [len(alarm.rung) for alarm in alarms] == [1] * 97 + [0, 1, 1]


def test_who_waits_for_a_turn_keeps_it_in_the_next_round() -> None:
    wheel = Wheel(START)
    early, late = [[Alarm() for _ in range(60)] for _ in range(2)]
    for alarm in early:
        wheel.set(alarm, START + 0.2)
    for alarm in late:
        wheel.set(alarm, START + 0.4)
    assert wheel.tick(START + 0.4)
    more = wheel.tick(START + 0.6)
    while any(not alarm.rung for alarm in early):
        assert not any(alarm.rung for alarm in late)
        more = wheel.catch_up(START + 0.6)
    catch_up(wheel, more)
    assert [len(alarm.rung) for alarm in early + late] == [1] * 120
