from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial

import pytest

from shadowcat.shm.connections import Connections, Slots
from shadowcat.shm.locks import LockBusyError, Locks
from shadowcat.shm.region import LINE, Area, Plan, Region
from tests.children import in_child

WORKERS = (2, 3, 4, 5)
ROWS = 3
LIMIT = 5
SECOND = 1_000_000_000
NOW = 1000 * SECOND


class Host:
    """The area, and each worker's own use of it."""

    def __init__(self) -> None:
        plan = Plan()
        plan.add(LINE)
        self.area: Area = Connections.plan(plan, ROWS, 2 + len(WORKERS))
        self.region = Region(plan.size)
        self.connections = Connections(self.region, self.area, ROWS, 2 + len(WORKERS))
        self.locks = {process: Locks(self.region) for process in WORKERS}
        self.slots = {process: Slots(self.connections, process, self.locks[process]) for process in WORKERS}

    def close(self) -> None:
        for locks in self.locks.values():
            locks.close()
        self.region.close()


@pytest.fixture
def shared() -> Iterator[Host]:
    host = Host()
    yield host
    host.close()


def take(slots: Slots, row: int = 1, limit: int = LIMIT, since: int = NOW, now: int = NOW) -> bool:
    return slots.take(row, limit, since, now)


def wait(slots: Slots, count: int, since: int, row: int = 1, now: int = NOW) -> None:
    slots.wait(row, count, since)
    slots.look(1 if count else 0, now)


def test_there_are_never_more_than_the_limit_however_many_take_some(shared: Host) -> None:
    """Each child takes and gives back over and over, then keeps what it gets."""

    def work(process: int) -> None:
        slots = Slots(shared.connections, process, Locks(shared.region))
        tries = 400
        while True:
            try:
                taken = take(slots)
            except LockBusyError:
                os.sched_yield()  # To whoever holds it.
                continue
            assert slots.free(1, LIMIT) >= 0
            tries -= 1
            if taken and tries > 0:
                os.sched_yield()
                slots.give(1)
            elif tries <= 0 and not taken:
                return

    children = [in_child(partial(work, process)) for process in WORKERS]
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * len(WORKERS)
    assert sum(slots.own(1) for slots in shared.slots.values()) == LIMIT


def test_rows_have_limits_of_their_own(shared: Host) -> None:
    two, three = shared.slots[2], shared.slots[3]
    assert [take(two, row=0, limit=2) for _ in range(3)] == [True, True, False]
    assert take(three, row=1, limit=1)
    assert not take(three, row=0, limit=2)
    two.give(0)
    assert take(three, row=0, limit=2)
    assert (two.own(0), three.own(0), three.own(1), three.own(2)) == (1, 1, 1, 0)


def test_what_a_dead_process_had_is_free_again(shared: Host) -> None:
    two, three = shared.slots[2], shared.slots[3]
    while take(two):
        pass
    assert take(three, row=2)
    wait(two, 7, NOW)
    two.set_busy(1, 9)
    assert not take(three)
    shared.connections.clear(2)
    assert three.free(1, LIMIT) == LIMIT
    assert (three.own(2), three.waiting(1), three.busy_elsewhere(1)) == (1, 0, 0)
    assert not three.others_wait(NOW)


def test_a_limit_that_was_lowered_is_exceeded_for_a_while(shared: Host) -> None:
    while take(shared.slots[2]):
        pass
    assert shared.slots[3].free(1, 3) == -2


def test_a_held_line_is_an_error_and_takes_nothing(shared: Host) -> None:
    line = shared.area.offset + LINE + 1 * 32
    shared.locks[3].acquire(line)
    with pytest.raises(LockBusyError):
        take(shared.slots[2])
    assert shared.slots[2].own(1) == 0
    assert take(shared.slots[2], row=0)
    shared.locks[3].release(line)
    assert take(shared.slots[2])


def test_what_is_free_is_for_those_who_wait_longest(shared: Host) -> None:
    two, three, four = shared.slots[2], shared.slots[3], shared.slots[4]
    assert take(four, limit=2)
    wait(three, 4, NOW - 2 * SECOND)
    assert not take(two, limit=2, since=NOW - SECOND)
    assert take(three, limit=2, since=NOW - 2 * SECOND)
    four.give(1)
    assert take(two, limit=2, since=NOW - 3 * SECOND)


def test_there_may_be_enough_for_all(shared: Host) -> None:
    wait(shared.slots[3], 4, NOW - SECOND)
    assert take(shared.slots[2], limit=2)
    assert not take(shared.slots[2], limit=2)


def test_nothing_is_kept_for_a_worker_that_does_not_look(shared: Host) -> None:
    two, three = shared.slots[2], shared.slots[3]
    wait(three, 4, NOW - SECOND, now=NOW - SECOND // 2)
    assert not two.others_wait(NOW)
    assert two.demand(1, NOW).requests == 0
    assert take(two, limit=1)


def test_what_others_wait_for(shared: Host) -> None:
    two = shared.slots[2]
    wait(two, 9, NOW - 9 * SECOND)
    assert not two.others_wait(NOW)
    assert two.demand(1, NOW) == (0, 0)
    wait(shared.slots[3], 2, NOW - 2 * SECOND)
    wait(shared.slots[4], 3, NOW - 3 * SECOND)
    assert two.others_wait(NOW)
    assert two.demand(1, NOW) == (5, NOW - 3 * SECOND)
    assert two.demand(0, NOW) == (0, 0)
    assert two.waiting(1) == 14
    wait(shared.slots[4], 0, 0)
    assert two.demand(1, NOW) == (2, NOW - 2 * SECOND)


def test_how_busy_the_others_are(shared: Host) -> None:
    shared.slots[2].set_busy(1, 3)
    shared.slots[3].set_busy(1, 5)
    shared.slots[4].set_busy(1, 7)
    shared.slots[4].set_busy(2, 100)
    assert shared.slots[2].busy_elsewhere(1) == 12
    assert shared.slots[5].busy_elsewhere(1) == 15
