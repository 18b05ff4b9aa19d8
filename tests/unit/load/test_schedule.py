from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shadowcat.testing.load.schedule import SECOND, Schedule

rates = st.floats(0.1, 1_000_000)


@given(rates, st.integers(0, 5000))
def test_a_request_is_due_exactly_from_its_time_on(rate: float, index: int) -> None:
    schedule = Schedule(rate, 1e6)
    at = schedule.due_at(index)
    assert schedule.due_by(at) >= index + 1
    assert schedule.due_by(at - 1) <= index


def test_nothing_is_due_before_the_start_and_no_more_than_all_after_the_end() -> None:
    schedule = Schedule(100, 2)
    assert schedule.due_by(-1) == 0
    assert schedule.due_by(0) == 1
    assert schedule.due_by(SECOND) == 101
    assert schedule.due_by(100 * SECOND) == schedule.total == 200


def test_spacing_is_even() -> None:
    schedule = Schedule(3, 10)
    gaps = {schedule.due_at(i + 1) - schedule.due_at(i) for i in range(29)}
    assert gaps <= {333_333_333, 333_333_334}


def test_tick_follows_the_rate_down_to_its_limit() -> None:
    assert Schedule(1000, 1).tick() == 1_000_000
    assert Schedule(1_000_000, 1).tick() == 50_000


def test_even_the_shortest_run_has_a_request() -> None:
    assert Schedule(0.1, 0.1).total == 1
