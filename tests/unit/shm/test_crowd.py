from __future__ import annotations

from collections.abc import Iterator

import pytest

from shadowcat.shm.crowd import Crowd, clear, plan_crowd
from shadowcat.shm.region import Area, Plan, Region

PROCESSES = 4


@pytest.fixture
def memory() -> Iterator[tuple[Region, Area]]:
    plan = Plan()
    area = plan_crowd(plan, PROCESSES)
    region = Region(plan.size)
    yield region, area
    region.close()


def crowds(memory: tuple[Region, Area]) -> list[Crowd]:
    region, area = memory
    return [Crowd(region, area, b"secret", process) for process in range(PROCESSES)]


def test_a_limit_holds_over_all_workers(memory: tuple[Region, Area]) -> None:
    _, _, first, second = crowds(memory)
    places = [crowd.enter("192.0.2.1", 3) for crowd in (first, second, first)]
    assert None not in places
    assert first.enter("192.0.2.1", 3) is None
    assert second.enter("192.0.2.1", 3) is None
    assert second.enter("192.0.2.2", 3) is not None
    assert places[1] is not None
    second.leave(places[1])
    assert first.enter("192.0.2.1", 3) is not None
    assert second.enter("192.0.2.1", 3) is None


def test_a_dead_worker_has_no_connections(memory: tuple[Region, Area]) -> None:
    _, _, first, second = crowds(memory)
    for _ in range(3):
        assert first.enter("192.0.2.1", 3) is not None
    kept = second.enter("192.0.2.9", 1)
    clear(*memory, 2)
    for _ in range(3):
        assert second.enter("192.0.2.1", 3) is not None
    assert second.enter("192.0.2.1", 3) is None
    assert kept is not None
    assert second.enter("192.0.2.9", 1) is None


def test_many_others_are_not_counted_with_one(memory: tuple[Region, Area]) -> None:
    crowd = crowds(memory)[2]
    for number in range(5_000):
        for _ in range(10):
            crowd.enter(f"2001:db8:0:{number:x}::/64", 1_000)
    fresh = [crowd.enter(f"192.0.2.{number}", 10) for number in range(256)]
    assert fresh.count(None) <= 2
