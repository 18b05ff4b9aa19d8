"""Places and bytes that all workers share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shadowcat.shm.pressure import Pressure, clear, plan_pressure
from shadowcat.shm.region import LINE, Area, Plan, Region

WORKERS = range(2, 6)
SECOND = 1_000_000_000


class Host:
    def __init__(self) -> None:
        plan = Plan()
        plan.add(LINE)
        self.area: Area = plan_pressure(plan, WORKERS.stop)
        self.region = Region(plan.size)
        self.workers = [Pressure(self.region, self.area, number, WORKERS) for number in WORKERS]


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host()
    yield made
    made.region.close()


def fill(worker: Pressure, limit: int) -> int:
    """Take all that is to be had."""
    count = 0
    while worker.enter(limit):
        count += 1
    return count


def test_one_alone_can_have_all(host: Host) -> None:
    assert fill(host.workers[0], 10) == 10
    assert [fill(worker, 10) for worker in host.workers] == [0, 0, 0, 0]


def test_the_bound_is_for_all_together(host: Host) -> None:
    a, b, *_ = host.workers
    for _ in range(6):
        assert a.enter(10)
    assert fill(b, 10) == 4
    a.leave()
    assert (fill(b, 10), a.in_flight, b.in_flight) == (1, 5, 5)


def test_who_has_more_than_its_share_yields_to_who_waits(host: Host) -> None:
    a, b, *_ = host.workers
    assert fill(a, 8) == 8
    b.wait(1)
    for has in (7, 6, 5, 4, 3, 2):
        a.leave()
        assert a.enter(8) is (has < 2)
    assert (a.in_flight, b.enter(8)) == (2, True)


def test_who_has_its_share_is_not_yielded_to(host: Host) -> None:
    a, b, *_ = host.workers
    assert b.enter(8)
    assert b.enter(8)
    b.wait(5)
    assert fill(a, 8) == 6


def test_nothing_is_kept_for_who_has_stopped(host: Host) -> None:
    a, b, *_ = host.workers
    b.now_ns = a.now_ns = 100 * SECOND
    b.wait(1)
    assert fill(a, 8) == 2
    a.now_ns += SECOND // 4
    assert fill(a, 8) == 6


def test_a_dead_worker_has_nothing(host: Host) -> None:
    a, b, *_ = host.workers
    assert fill(a, 8) == 8
    assert a.hold(100, 100)
    assert not b.hold(1, 100)
    clear(host.region, host.area, WORKERS[0])
    assert b.enter(8)
    assert b.hold(100, 100)


def test_bytes_are_for_all_together(host: Host) -> None:
    a, b, *_ = host.workers
    assert a.hold(60, 100)
    assert not b.hold(41, 100)
    assert b.hold(40, 100)
    a.change(-10)
    assert b.hold(10, 100)
    a.change(1000)  # Not asked for: it is there.
    assert (a.buffered, b.buffered) == (1050, 50)
    assert not b.hold(1, 100)
