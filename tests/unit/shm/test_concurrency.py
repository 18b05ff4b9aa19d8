from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from shadowcat.config.model import Limits
from shadowcat.config.units import Limit
from shadowcat.shm.concurrency import Concurrency, Seats, clear, plan_concurrency
from shadowcat.shm.limiter import SECRET, WAYS, Tier
from shadowcat.shm.locks import LockBusyError, Locks
from shadowcat.shm.region import LINE, Plan, Region
from tests.children import in_child

PROCESSES = 6


class Host:
    """The table, and a worker for each process."""

    def __init__(self, capacity: int = 1024) -> None:
        plan = Plan()
        plan.add(LINE)
        self.areas = plan_concurrency(plan, capacity, PROCESSES)
        self.region = Region(plan.size)
        self._locks = [Locks(self.region) for _ in range(PROCESSES)]
        self.workers = [
            Concurrency(self.region, self.areas, bytes(SECRET), locks, process)
            for process, locks in enumerate(self._locks)
        ]

    def close(self) -> None:
        for locks in self._locks:
            locks.close()
        self.region.close()


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.close()


def of(worker: Concurrency, key: bytes = b"somebody", most: int = 5) -> Seats:
    return worker.seats(Tier.PER_USER, Limit(f"concurrent {most}"), key)


def test_no_more_than_the_limit_in_all_workers_together(host: Host) -> None:
    taken = [worker.take(of(worker), 1) for worker in host.workers]
    assert [place is not None for place in taken] == [True] * 5 + [False]
    assert taken[0] is not None
    host.workers[0].give_back(taken[0], 1)
    assert host.workers[5].take(of(host.workers[5]), 2) is None
    assert host.workers[5].take(of(host.workers[5]), 1) == taken[0]
    assert host.workers[3].under_way(of(host.workers[3])) == 5


def test_what_a_dead_process_had_is_free_and_the_rest_is_not(host: Host) -> None:
    one, two = host.workers[2:4]
    place = one.take(of(one), 3)
    assert two.take(of(two), 2) == place
    clear(host.region, host.areas, 2)
    assert two.under_way(of(two)) == 2
    assert two.take(of(two), 3) is not None
    assert two.take(of(two), 1) is None


def test_an_entry_changes_its_owner_only_when_nothing_is_under_way(host: Host) -> None:
    worker = host.workers[2]
    base = of(worker).base
    same = [each for number in range(10**4) if (each := of(worker, b"%d" % number)).base == base]
    places = [worker.take(each, 1) for each in same[:WAYS]]
    assert len(set(places)) == WAYS
    with pytest.raises(LockBusyError):
        worker.take(same[WAYS], 1)
    assert places[4] is not None
    worker.give_back(places[4], 1)
    assert worker.take(same[WAYS], 1) == places[4]
    assert worker.under_way(same[4]) == 0
    with pytest.raises(LockBusyError):  # Where it had been is another's place now.
        worker.take(same[4], 1)


def test_never_more_however_many_take_and_give_back_at_once(host: Host) -> None:
    """Each child looks, whenever it has a seat, how many are taken."""

    def work(process: int) -> None:
        worker = Concurrency(host.region, host.areas, bytes(SECRET), Locks(host.region), process)
        seats, chance = of(worker, most=2), random.Random(process)
        had = 0
        for _ in range(1_000_000):
            try:
                place = worker.take(seats, 1)
            except LockBusyError:
                place = None
            if place is None:
                os.sched_yield()  # Whoever has the seats may be waiting for this very CPU.
                continue
            assert worker.taken(place) <= 2
            had += 1
            if chance.random() < 0.1:
                os.sched_yield()
            worker.give_back(place, 1)
            if had == 1000:
                return
        pytest.fail(f"{had} seats in all")

    children = [in_child(lambda process=process: work(process)) for process in (2, 3, 4, 5)]  # type: ignore[misc]
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
    assert host.workers[0].under_way(of(host.workers[0])) == 0


def test_thousands_have_something_under_way_and_no_bucket_is_full() -> None:
    host = Host(Limits().capacity)
    worker = host.workers[2]
    # None of them is refused because of others.
    assert all(worker.take(of(worker, b"%d" % number), 1) is not None for number in range(5_000))
    host.close()
