from __future__ import annotations

import random

import pytest

from shadowcat.shm.locks import LockBusyError
from shadowcat.shm.shared import worker_number
from tests.unit.shm.sessions import IDLE, NOW, NS, create, free_slots


@pytest.mark.parametrize(("capacity", "workers"), [(1, 1), (4, 4), (5, 3), (100, 4), (3000, 4), (9000, 8)])
def test_all_capacity_is_usable_by_whoever_needs_it(host, capacity: int, workers: int) -> None:
    one = host(capacity=capacity, workers=workers)
    tables = [one.table(worker_number(slot)) for slot in range(workers)]
    chance = random.Random(capacity)
    taken: list[tuple[int, int]] = []
    for _ in range(min(2 * capacity, 2000)):  # churn
        worker = chance.randrange(workers)
        slot = tables[worker].reserve(NOW)
        if slot is not None:
            taken.append((worker, slot))
        if taken and chance.random() < 0.5:
            worker, slot = taken.pop(chance.randrange(len(taken)))
            tables[worker].unreserve(slot)
    last = tables[-1]
    while (slot := last.reserve(NOW)) is not None:
        taken.append((workers - 1, slot))
    assert sorted(slot for _, slot in taken) == list(range(capacity))
    for worker, slot in taken:
        tables[worker].unreserve(slot)
    assert free_slots(tables[0]) == list(range(capacity))


def test_an_idle_slot_that_another_process_took_over_is_not_handed_out_twice(host) -> None:
    one = host(capacity=64, workers=2)
    mine, other = one.table(2), one.table(3)
    got = [mine.reserve(NOW)]
    while (slot := other.reserve(NOW)) is not None:
        got.append(slot)
    assert mine.reserve(NOW) is None
    assert sorted(got) == list(range(64))


def test_giving_back_what_is_not_reserved_does_nothing(host) -> None:
    table = host(capacity=1).table(2)
    session = create(table)
    table.unreserve(session.slot)
    table.unreserve(session.slot)
    assert table.reserve(NOW) is None
    assert table.use(session, NOW)


def test_a_full_table_refuses_and_gives_up_no_live_session(host) -> None:
    one = host(capacity=4)
    mine, other = one.table(2), one.table(3)
    sessions = [create(mine) for _ in range(4)]
    assert other.reserve(NOW) is None
    assert other.reserve(NOW + 10**9) is None
    assert other.reclaimed() == []
    assert all(mine.use(session, NOW + 10**9) for session in sessions)


def test_expired_sessions_give_way_and_are_told_of(host) -> None:
    one = host(capacity=4)
    mine, other = one.table(2), one.table(3)
    sessions = [create(mine, upstream_id=b"u%d" % index) for index in range(4)]
    later = NOW + IDLE * NS - 1
    assert mine.use(sessions[0], later)
    now = NOW + IDLE * NS
    slot = other.reserve(now)
    assert slot in [session.slot for session in sessions[1:]]
    assert {record.upstream_id for _, record in other.reclaimed()} == {b"u1", b"u2", b"u3"}
    assert other.reclaimed() == []
    assert mine.owned_by("10.0.0.1") == 1
    assert mine.use(sessions[0], now)


def test_a_large_full_table_is_searched_a_part_at_a_time(host, monkeypatch) -> None:
    monkeypatch.setattr("shadowcat.shm.sessions.upkeep._LOOK", 2)
    table = host(capacity=6).table(2)
    for _ in range(5):
        create(table, now=NOW)
    live = create(table, now=NOW + NS)
    now = NOW + IDLE * NS
    found = []
    for step in range(40):
        slot = table.reserve(now + step * 1_000_000)
        if slot is not None:
            found.append(slot)
    assert len(found) == 5
    assert table.use(live, now)


def test_a_held_line_is_an_error(host) -> None:
    one = host()
    mine, other = one.table(2), one.table(3)
    other.locks.acquire(one.areas.holders.offset)
    with pytest.raises(LockBusyError):
        mine.reserve(NOW)
    other.locks.release(one.areas.holders.offset)
    assert mine.reserve(NOW) is not None


def test_the_highest_process_numbers_have_marks_of_their_own(host) -> None:
    one = host(capacity=300, workers=256)
    tables = [one.table(worker_number(slot)) for slot in (0, 124, 125, 126, 255)]
    slots = [table.reserve(NOW) for table in tables]
    assert len(set(slots)) == len(tables)
    for table in tables:
        assert [table._free.reserved(slot) for slot in slots].count(True) == 1
    one.table(0).repair(worker_number(255))
    assert [table._free.reserved(slot) for table, slot in zip(tables, slots, strict=True)] == [True] * 4 + [
        False
    ]
