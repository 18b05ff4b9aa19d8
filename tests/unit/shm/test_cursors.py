from __future__ import annotations

import os

import pytest

from shadowcat.shm.cursors import Cursors
from shadowcat.shm.locks import LockBusyError, Locks
from shadowcat.shm.region import Plan, Region

PER_PROCESS = 300


def take(cursors: Cursors, route: int) -> int:
    while True:
        try:
            return cursors.take(route)
        except LockBusyError:
            os.sched_yield()  # To whoever holds it.


def test_each_number_is_taken_once_by_all_processes() -> None:
    plan = Plan()
    area = Cursors.plan(plan, 2)
    region = Region(plan.size)
    source, sink = os.pipe()
    children = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            cursors = Cursors(region, area, Locks(region))
            found = [take(cursors, 1) for _ in range(PER_PROCESS)]
            os.write(sink, b"".join(number.to_bytes(4, "big") for number in found))
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    data = os.read(source, 12 * PER_PROCESS)
    numbers = [int.from_bytes(data[at : at + 4], "big") for at in range(0, len(data), 4)]
    assert sorted(numbers) == list(range(3 * PER_PROCESS))
    locks = Locks(region)
    mine = Cursors(region, area, locks)
    assert (mine.take(0), mine.take(0), mine.take(1)) == (0, 1, 3 * PER_PROCESS)
    locks.close()
    os.close(source)
    os.close(sink)
    region.close()


def test_a_held_line_is_an_error_and_takes_no_number() -> None:
    plan = Plan()
    area = Cursors.plan(plan, 2)
    region = Region(plan.size)
    mine, others = Locks(region), Locks(region)
    cursors = Cursors(region, area, mine)
    others.acquire(area.offset)
    with pytest.raises(LockBusyError):
        cursors.take(0)
    assert cursors.take(1) == 0
    others.release(area.offset)
    assert cursors.take(0) == 0
    mine.close()
    others.close()
    region.close()
