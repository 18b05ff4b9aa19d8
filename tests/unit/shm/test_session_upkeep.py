from __future__ import annotations

import pytest

from shadowcat.shm.locks import LockBusyError
from shadowcat.shm.sessions import layout
from tests.unit.shm.sessions import END, IDLE, NOW, NS, create, free_slots

KIB = 1024


def test_the_table_takes_no_more_than_1_5_kib_per_slot(host) -> None:
    one = host(capacity=65_536, workers=8)
    areas = one.areas
    whole = sum(area.length for area in areas if not isinstance(area, int))
    assert whole / areas.capacity <= 1.5 * KIB
    assert one.region.size / areas.capacity <= 1.5 * KIB
    assert layout.RECORD + layout.RECORD_LIMIT + layout.INLINE_LIMIT == layout.SLOT
    assert all(area.offset % 64 == 0 for area in areas if not isinstance(area, int))


def test_a_sweep_finds_what_has_expired_and_touches_nothing(host) -> None:
    one = host(capacity=20)
    worker, control = one.table(2), one.table(1)
    idle, busy, old = create(worker), create(worker), create(worker)
    now = NOW + IDLE * NS
    worker.use(busy, now - 1)
    worker.use(old, now - 1)
    old = worker.update(old, lambda was: was, expiry_ns=now)
    swept = control.sweep(0, 20, now)
    assert [session.id for session in swept] == [
        session.id for session in sorted((idle, old), key=lambda session: session.slot)
    ]
    assert [session.id for session in control.sweep(idle.slot, 1, now)] == [idle.id]
    assert control.sweep(0, 0, now) == []
    assert len(control.sweep(0, 1000, now)) == 2
    assert {session.id for session in control.live(0, 1000)} == {idle.id, busy.id, old.id}
    assert control.last_seen(busy) == now - 1


def test_a_slot_left_marked_as_used_is_freed_by_the_sweep(host) -> None:
    one = host(capacity=3)
    table = one.table(2)
    for slot in [table.reserve(NOW) for _ in range(3)]:
        table._free.set_used(slot)  # as by a process killed between emptying a slot and freeing it
    assert table.reserve(NOW) is None
    one.table(1).sweep(0, 3, NOW)
    assert free_slots(table) == [0, 1, 2]


def test_damaged_bytes_are_no_session_and_free_their_slot(host) -> None:
    one = host(capacity=2)
    table, other = one.table(2), one.table(3)
    session, whole = create(table), create(table)
    start = session.slot * layout.SLOT + layout.RECORD + 20
    table._slots.view[start] ^= 1
    assert other.find(session.id, NOW) is None
    assert other.find(whole.id, NOW).record == whole.record
    one.table(1).sweep(0, 2, NOW)
    assert free_slots(table) == [session.slot]
    assert table.recount() == 1


def test_a_version_left_odd_is_mended_by_the_sweep(host) -> None:
    one = host()
    table = one.table(2)
    session = create(table)
    table._words[session.base + layout.VERSION] += 1
    one.table(1).sweep(0, 8, NOW)
    assert not table._words[session.base + layout.VERSION] & 1
    assert free_slots(table) == list(range(8))


def test_counts_are_corrected_only_where_nobody_changed_them_meanwhile(host) -> None:
    one = host()
    table = one.table(2)
    sessions = [create(table) for _ in range(3)]
    digest = table._owners.digest("10.0.0.1")
    stray = table._owners.digest("10.0.0.9")
    table._owners.add(digest, 1)
    table._owners.add(stray, 1)
    read, reads = table._upkeep._owner_digests, []

    def busy() -> list[int]:
        reads.append(1)
        if len(reads) == 2:
            table._owners.add(digest, 1)
            table._owners.add(digest, -1)
        return read()

    assert table._owners.recount(busy) == (table._owners._place(digest)[0] != table._owners._place(stray)[0])
    assert table.owned_by("10.0.0.1") == 4
    table.recount()
    assert (table.owned_by("10.0.0.1"), table.owned_by("10.0.0.9")) == (3, 0)
    assert table.recount() == 0
    for session in sessions:
        table.delete(session)
    assert table.owned_by("10.0.0.1") == 0


def test_a_bucket_that_is_full_counts_nobody_else_and_breaks_nothing(host) -> None:
    one = host(capacity=40)
    table = one.table(2)
    sessions = [create(table, owner=f"10.1.0.{index}") for index in range(40)]
    assert all(table.owned_by(f"10.1.0.{index}") in (0, 1) for index in range(40))
    table.recount()
    for session in sessions:
        assert table.delete(session) is not None
    assert all(table.owned_by(f"10.1.0.{index}") == 0 for index in range(40))
    assert table.recount() == 0


def test_repair_takes_back_what_a_dead_process_had_and_nothing_else(host) -> None:
    one = host(capacity=64)
    dead, alive, supervisor = one.table(2), one.table(3), one.table(0)
    session = create(alive)
    theirs = dead.find(session.id, NOW)
    dead.take_stream(theirs, 2)
    dead.take_lease(theirs, 2, END, NOW)
    other = create(alive)
    alive.take_stream(other, 3)
    alive.take_lease(other, 3, END, NOW)
    dead_slot, live_slot = dead.reserve(NOW), alive.reserve(NOW)
    assert dead_slot is not None
    assert live_slot is not None
    dead.close()
    one.tables.remove(dead)
    supervisor.repair(2)
    assert alive.stream(session) == (0, 1)
    assert alive.lease(session, NOW) == 0
    assert alive.stream(other) == (3, 1)
    assert alive.lease(other, NOW) == 3
    assert alive._free.reserved(live_slot)
    assert all(not one.table(2)._free.reserved(slot) for slot in range(64))
    # Its batch is in nobody's hands any more: to be had without taking it over.
    assert not alive._free._marked(0x8003)
    assert free_slots(alive) == sorted(set(range(64)) - {session.slot, other.slot, live_slot})


@pytest.mark.parametrize("created", [False, True])
def test_a_reservation_that_was_locked_when_its_process_was_repaired_goes_to_the_sweep(host, created) -> None:
    one = host(capacity=3)
    dead, other, supervisor, control = one.table(2), one.table(3), one.table(0), one.table(1)
    if created:  # and killed before the mark
        slot = create(dead).slot
        dead._free._cells[slot] = dead._free._reserved
    else:
        slot = dead.reserve(NOW)
    other._slots.lock(slot)
    dead.close()
    one.tables.remove(dead)
    supervisor.repair(2)
    successor = one.table(2)
    assert not successor._free.reserved(slot)
    assert slot not in free_slots(other)
    other._slots.unlock(slot)
    control.sweep(0, 3, NOW)
    assert free_slots(successor) == [each for each in range(3) if each != slot or not created]
    assert bool(created) == (other.at(slot) is not None)


def test_repair_does_not_wait_for_a_lock(host) -> None:
    one = host()
    worker, other, supervisor = one.table(2), one.table(3), one.table(0)
    session = create(worker)
    worker.take_stream(session, 2)
    other._slots.lock(session.slot)
    supervisor.repair(2)
    with pytest.raises(LockBusyError):
        worker.take_stream(session, 2)
    other._slots.unlock(session.slot)
    supervisor.repair(2)
    assert other.stream(session) == (0, 1)
