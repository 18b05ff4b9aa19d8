from __future__ import annotations

import base64

import pytest
from msgspec.structs import replace

from shadowcat.config.validate import PATH_LIMIT
from shadowcat.shm.locks import LockBusyError
from shadowcat.shm.sessions import ids, layout
from shadowcat.shm.sessions.record import RecordTooLargeError
from tests.unit.shm.sessions import END, IDLE, NOW, NS, PARAMS, create, free_slots, record


def test_what_one_process_creates_all_find(host) -> None:
    one = host()
    mine, other = one.table(2), one.table(3)
    session = create(mine, capabilities=("tools", "logging"))
    found = other.find(session.id, NOW)
    assert found is not session
    assert (found.slot, found.id, found.version, found.incarnation, found.record) == (
        session.slot, session.id, session.version, session.incarnation, session.record,
    )  # fmt: skip
    assert len(found.record.key) == ids.KEY_CHARS
    assert other.params(found) == PARAMS
    assert other.find(session.id, NOW) is found
    assert other.at(session.slot).id == session.id


def test_keys_are_drawn_from_the_given_source_or_taken_from_the_record(host) -> None:
    table = host().table(2, urandom=lambda count: b"k" * count)
    session = create(table)
    assert base64.urlsafe_b64decode(session.id)[3:] == b"k" * ids.KEY_BYTES
    assert session.id.endswith(session.record.key)
    slot = table.reserve(NOW)
    assert table.create(slot, replace(record(), key=b"m" * 24), b"", END, NOW).record.key == b"m" * 24


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:-1],
        lambda text: text + b"A",
        lambda text: text[:-1] + b"=",
        lambda text: b"\xff" + text[1:],
        lambda text: text[:-1] + b"\n",
        lambda text: text.replace(b"_", b"/"),
        lambda text: text.replace(b"-", b"+"),
        lambda text: text + b"\n",
        lambda text: text + b"====",
        lambda text: text[:4] + b" " + text[5:],
        lambda text: text[:3] + b" " + text[4:],
        lambda text: text[:3],
        lambda _: b"",
    ],
)
@pytest.mark.parametrize("cached", [False, True])
def test_an_id_has_one_spelling(host, spoil, cached: bool) -> None:
    one = host(capacity=4)
    mine, other = one.table(2, urandom=lambda count: b"\xfb\xef\xff" * (count // 3)), one.table(3)
    session = create(mine)
    assert b"_" in session.id
    assert b"-" in session.id
    table = mine if cached else other
    assert table.find(spoil(session.id), NOW) is None
    assert table.find(session.id, NOW).id == session.id


def test_another_id_of_the_same_slot_finds_nothing(host) -> None:
    table = host().table(2)
    session = create(table)
    assert table.find(ids.encode(session.slot, b"A" * ids.KEY_CHARS), NOW) is None
    assert table.find(ids.encode(session.slot + 1, session.record.key), NOW) is None
    assert table.find(ids.encode(2**23, session.record.key), NOW) is None
    assert table.find(b"nonsense", NOW) is None
    assert table.find(session.id, NOW) is session


def test_a_session_that_was_used_just_before_its_hard_end_ends_with_it(host) -> None:
    one = host(idle=7_200)
    mine, other = one.table(2), one.table(3)
    session = create(mine)
    for table in (mine, other):
        found = table.find(session.id, END - 1)
        assert table.use(found, END - 1)
        assert not table.use(found, END)
        assert table.find(session.id, END) is None


def test_a_session_decoded_before_a_change_is_not_used_after_it(host) -> None:
    one = host()
    mine, other = one.table(2), one.table(3)
    session = create(mine)
    theirs = other.find(session.id, NOW)
    theirs.note = "derived"
    assert other.use(theirs, NOW)
    changed = mine.update(session, lambda was: replace(was, log_level="debug"))
    assert not other.use(theirs, NOW)
    found = other.find(session.id, NOW)
    assert (found.record.log_level, found.note, found.incarnation) == ("debug", None, session.incarnation)
    assert mine.use(changed, NOW)
    assert mine.params(changed) == PARAMS


def test_an_update_sees_the_present_record_and_not_the_callers(host) -> None:
    one = host()
    mine, other = one.table(2), one.table(3)
    session = create(mine)
    theirs = other.find(session.id, NOW)
    mine.update(session, lambda was: replace(was, row=was.row + 1))
    assert other.update(theirs, lambda was: replace(was, row=was.row + 1)).record.row == 2


def test_a_failing_change_leaves_the_session_as_it_was(host) -> None:
    one = host()
    table = one.table(2)
    session = create(table)

    def fail(_was: object) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        table.update(session, fail)
    with pytest.raises(RecordTooLargeError, match="shorten the route"):
        table.update(session, lambda was: replace(was, route="/" + "x" * 600))
    assert table.use(session, NOW)
    assert one.table(3).update(session, lambda was: was) is not None


def test_a_record_that_is_too_large_loses_its_capabilities_and_its_recovery(host) -> None:
    table = host().table(2)
    session = create(table, capabilities=("x" * 300, "y" * 300))
    assert (session.record.capabilities, session.record.recoverable) == ((), False)
    assert table.at(session.slot).record == session.record


def test_what_makes_a_record_too_large_is_given_up_one_by_one(host) -> None:
    table = host().table(2)
    fields = {"capabilities": ("c" * 100,), "suffix": b"/" + b"s" * 127}
    few = create(table, upstream_id=b"u" * 100, **fields)
    assert (few.record.capabilities, few.record.suffix, few.record.recoverable) == (*fields.values(), True)
    more = table.update(few, lambda was: replace(was, route="/" + "x" * 130))
    assert (more.record.capabilities, more.record.suffix, more.record.recoverable) == (
        (), fields["suffix"], False,
    )  # fmt: skip
    most = table.update(more, lambda was: replace(was, route="/" + "x" * 230))
    assert (most.record.capabilities, most.record.suffix, most.record.recoverable) == ((), b"", False)


def test_the_longest_route_and_the_longest_of_all_else_fit(host) -> None:
    session = create(host().table(2), upstream_id=b"u" * 128, owner="f" * 32)
    longest = replace(
        session.record, principal="p" * 32, route="/" + "r" * (PATH_LIMIT - 1), row=2**16, generation=2**32,
        created_ns=2**63, version="2025-11-25", declared=7, initialized=True, log_level="emergency",
        capabilities=("c" * 60,) * 9, recoveries=(2**63,) * 3, suffix=b"s" * 128,
    )  # fmt: skip
    table = host().table(2)
    kept = table.create(table.reserve(NOW), longest, PARAMS, END, NOW).record
    assert kept == replace(longest, capabilities=(), suffix=b"", recoverable=False)


def test_a_record_may_grow_to_its_limit_beside_inline_params(host) -> None:
    one = host()
    table = one.table(2)
    longest = b"p" * layout.INLINE_LIMIT
    session = create(table, params=longest)
    grown = table.update(session, lambda was: replace(was, capabilities=("c" * 380,)))
    assert grown.record.capabilities == ("c" * 380,)
    assert one.table(3).params(grown) == longest


def test_delete_ends_a_session_for_all_and_gives_its_slot_back(host) -> None:
    one = host()
    mine, other = one.table(2), one.table(3)
    session = create(mine)
    theirs = other.find(session.id, NOW)
    changed = mine.update(session, lambda was: replace(was, row=3))
    assert other.delete(theirs) == changed.record
    assert mine.delete(changed) is None
    assert mine.update(changed, lambda was: was) is None
    assert not mine.use(changed, NOW)
    assert mine.find(session.id, NOW) is None
    assert mine.at(session.slot) is None
    assert mine.params(changed) is None
    assert free_slots(mine) == list(range(8))


def test_a_slot_used_again_knows_nothing_of_the_session_before(host) -> None:
    one = host(capacity=1)
    table = one.table(2)
    before = create(table)
    table.expect(before, 5)
    table.set_delivered(before)
    table.subscribe(before, b"file:///a")
    table.take_stream(before, 2)
    table.take_lease(before, 2, END, NOW)
    table.delete(before)
    after = create(table)
    assert after.slot == before.slot
    assert after.version > before.version
    assert after.incarnation != before.incarnation
    assert not table.answered(after, 5)
    assert not table.delivered(after)
    assert table.subscriptions(after) == []
    assert table.stream(after)[0] == 0
    assert table.lease(after, NOW) == 0
    # Nor does who still has the one before in hand disturb the new one.
    assert table.delete(before) is None
    assert not table.take_lease(before, 2, END, NOW)
    assert table.take_stream(before, 2) == (0, 0, 0)
    table.expect(before, 9)
    assert not table.answered(after, 9)
    assert not table.subscribe(before, b"file:///b")
    assert table.subscriptions(after) == []
    assert table.find(before.id, NOW) is None


def test_sessions_expire_by_idleness_and_by_age(host) -> None:
    one = host()
    table = one.table(2)
    session = create(table)
    last = NOW + IDLE * NS
    assert table.expires_at(session) == last
    assert table.use(session, last - 1)
    assert table.expires_at(session) == last - 1 + IDLE * NS
    assert not table.use(session, table.expires_at(session))
    assert table.find(session.id, table.expires_at(session)) is None
    assert table.at(session.slot) is not None
    # A longer life from an update, then its hard end, however busy it is.
    shorter = table.update(session, lambda was: was, expiry_ns=last + NS)
    assert table.use(shorter, last)
    assert table.expires_at(shorter) == last + NS
    assert table.use(shorter, last + NS - 1)
    assert not table.use(shorter, last + NS)
    assert one.table(3).find(session.id, last + NS) is None


def test_use_is_noted_once_a_second_and_keeps_a_session_alive_for_all(host) -> None:
    one = host()
    mine, other = one.table(2), one.table(3)
    session = create(mine)
    assert mine.use(session, NOW + 5)
    assert mine.use(session, NOW + NS - 1)
    assert other.last_seen(session) == NOW + 5 == session.touched
    assert mine.use(session, NOW + NS + 5)
    assert other.last_seen(session) == NOW + NS + 5
    for minute in range(1, 20):
        now = NOW + minute * (IDLE - 1) * NS
        assert (mine, other)[minute % 2].find(session.id, now) is not None


def test_a_short_idle_timeout_is_noted_more_often(host) -> None:
    table = host(idle=0.1).table(2)
    session = create(table)
    for step in range(1, 20):
        assert table.use(session, NOW + step * 30_000_000)
    assert not table.use(session, NOW + 19 * 30_000_000 + 100_000_000)


def test_the_cache_is_bounded_and_forgets_nothing_that_matters(host, monkeypatch) -> None:
    monkeypatch.setattr("shadowcat.shm.sessions.table._KEPT", 4)
    table = host(capacity=40, workers=1).table(2)
    sessions = [create(table, upstream_id=b"u%d" % index) for index in range(30)]
    for session in sessions * 2:
        assert table.find(session.id, NOW).record == session.record
    assert len(table._young) + len(table._old) <= 8


def test_long_params_go_into_blocks_and_what_does_not_fit_is_not_recoverable(host) -> None:
    one = host(capacity=32)
    table = one.table(2)
    whole = b"p" * 4096
    kept = [create(table, params=whole) for _ in range(8)]
    assert all(one.table(3).params(session) == whole for session in kept)
    assert all(session.record.recoverable for session in kept)
    for params in (whole, b"p" * 4097):
        session = create(table, params=params)
        assert table.params(session) is None
        assert not session.record.recoverable
    table.delete(kept.pop())
    again = create(table, params=b"q" * 1000)
    assert table.params(again) == b"q" * 1000


def test_subscriptions_are_kept_in_order_and_bounded(host) -> None:
    one = host()
    mine, other = one.table(2), one.table(3)
    session = create(mine)
    uris = [b"file:///%d" % index for index in range(5)]
    for uri in [*uris, uris[2]]:
        assert mine.subscribe(session, uri)
    mine.unsubscribe(session, uris[1])
    mine.unsubscribe(session, b"file:///never")
    del uris[1]
    theirs = other.find(session.id, NOW)
    assert other.subscriptions(theirs) == uris
    assert not other.subscribe(theirs, b"x" * 2040)
    assert other.subscriptions(theirs) == uris
    for uri in uris:
        other.unsubscribe(theirs, uri)
    assert mine.subscriptions(session) == []
    assert not list(mine._blocks.taken())


def test_with_no_block_left_a_subscription_does_not_fit(host) -> None:
    table = host(capacity=32).table(2)
    for _ in range(8):
        create(table, params=b"p" * 1000)
    assert not table.subscribe(create(table), b"file:///a")


def test_sessions_are_counted_by_owner(host) -> None:
    one = host()
    mine, other = one.table(2), one.table(3)
    first, _, third = create(mine), create(mine), create(other, owner="10.0.0.2")
    assert [other.owned_by(f"10.0.0.{index}") for index in (1, 2, 3)] == [2, 1, 0]
    other.delete(first)
    mine.delete(third)
    mine.delete(third)
    assert [mine.owned_by(f"10.0.0.{index}") for index in (1, 2, 3)] == [1, 0, 0]
    assert mine.recount() == 0


def test_a_held_lock_is_an_error_and_changes_nothing(host) -> None:
    one = host()
    mine, other = one.table(2), one.table(3)
    session = create(mine, params=b"p" * 1000)
    slot = mine.reserve(NOW)
    for held in (slot, session.slot):
        other._slots.lock(held)
    changes = (
        lambda: mine.create(slot, record(), b"", END, NOW),
        lambda: mine.update(session, lambda was: replace(was, row=9)),
        lambda: mine.delete(session),
        lambda: mine.subscribe(session, b"file:///a"),
        lambda: mine.expect(session, 1),
        lambda: mine.answered(session, 1),
        lambda: mine.take_stream(session, 2),
        lambda: mine.take_lease(session, 2, END, NOW),
    )
    for change in changes:
        with pytest.raises(LockBusyError):
            change()
    assert mine.use(session, NOW)  # Reading needs no lock.
    assert one.table(1).find(session.id, NOW).record == session.record
    for held in (slot, session.slot):
        other._slots.unlock(held)
    created = mine.create(slot, record(), b"", END, NOW)
    assert mine.owned_by("10.0.0.1") == 2
    assert {session.id, created.id} == {one.id for one in mine.live(0, 8)}
    # The count of the owner is taken before anything is written.
    bucket = other._owners._offset + other._owners._place(other._owners.digest("10.0.0.1"))[0] * 128
    other.locks.acquire(bucket)
    slot = mine.reserve(NOW)
    with pytest.raises(LockBusyError):
        mine.create(slot, record(), b"p" * 1000, END, NOW)
    assert len(list(mine._blocks.taken())) == 1
    assert mine.delete(created) is not None  # The session is over all the same,
    assert mine.owned_by("10.0.0.1") == 2
    other.locks.release(bucket)
    assert mine.recount() == 1  # and the count corrected later.
    assert mine.owned_by("10.0.0.1") == 1


def test_a_slot_must_be_reserved_to_be_created_in(host) -> None:
    table = host().table(2)
    with pytest.raises(ValueError, match="slot 3 is not reserved"):
        table.create(3, record(), b"", END, NOW)
