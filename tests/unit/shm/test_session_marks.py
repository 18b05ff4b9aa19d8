from __future__ import annotations

from msgspec.structs import replace

from tests.unit.shm.sessions import END, NOW, create


def test_a_second_stream_takes_over_and_the_first_cannot_end_it(host) -> None:
    one = host()
    mine, other = one.table(2), one.table(3)
    session = create(mine)
    theirs = other.find(session.id, NOW)
    assert mine.stream(session) == (0, 0)
    assert mine.take_stream(session, 2) == (0, 0, 1)
    assert other.take_stream(theirs, 3) == (2, 1, 2)
    mine.leave_stream(session, 2, 1)
    assert mine.stream(session) == (3, 2)
    other.leave_stream(theirs, 3, 2)
    assert mine.stream(session) == (0, 2)
    assert mine.take_stream(session, 2) == (0, 2, 3)


def test_stream_and_lease_outlive_a_change_of_the_record(host) -> None:
    table = host().table(2)
    session = create(table)
    table.take_stream(session, 2)
    table.take_lease(session, 2, END, NOW)
    changed = table.update(session, lambda was: replace(was, row=1))
    assert table.stream(changed) == (2, 1)
    assert table.lease(changed, NOW) == 2
    table.drop_lease(changed, 2)
    assert table.lease(changed, NOW) == 0


def test_one_process_recovers_a_session_and_only_until_its_deadline(host) -> None:
    one = host()
    mine, other = one.table(2), one.table(3)
    session = create(mine)
    theirs = other.find(session.id, NOW)
    assert mine.take_lease(session, 2, NOW + 1_500, NOW)
    assert other.lease(theirs, NOW) == 2
    assert not other.take_lease(theirs, 3, NOW + 9_000, NOW)
    assert mine.take_lease(session, 2, NOW + 5_000, NOW + 1)
    other.drop_lease(theirs, 3)
    assert other.lease(theirs, NOW + 4_999) == 2
    assert other.lease(theirs, NOW + 5_000) == 0
    assert other.take_lease(theirs, 3, NOW + 9_000, NOW + 5_000)
    mine.drop_lease(session, 2)
    assert mine.lease(session, NOW + 5_000) == 3


def test_who_comes_late_to_a_recovery_does_not_repeat_it(host) -> None:
    one = host()
    mine, other = one.table(2), one.table(3)
    session = create(mine)
    theirs = other.find(session.id, NOW)
    assert mine.take_lease(session, 2, END, NOW)
    again = mine.update(session, lambda was: replace(was, upstream_id=b"new"), repin=True)
    mine.drop_lease(session, 2)
    assert not other.take_lease(theirs, 3, END, NOW)
    assert other.take_lease(other.find(again.id, NOW), 3, END, NOW)


def test_only_answers_to_outstanding_requests_pass_and_each_once(host) -> None:
    one = host()
    mine, other = one.table(2), one.table(3)
    session = create(mine)
    theirs = other.find(session.id, NOW)
    assert not other.answered(theirs, 7)
    for digest in (7, 7, 0, 2**64 - 1):
        mine.expect(session, digest)
    for digest in (7, 0, 2**64 - 1):
        assert other.answered(theirs, digest)
        assert not mine.answered(session, digest)


def test_a_seventeenth_request_lets_every_answer_pass_until_the_next_re_pin(host) -> None:
    table = host().table(2)
    session = create(table)
    for digest in range(1, 17):
        table.expect(session, digest)
    assert not table.answered(session, 99)
    table.expect(session, 17)
    assert table.answered(session, 99)
    assert table.answered(session, 1)
    assert table.answered(session, 1)
    again = table.update(session, lambda was: was, repin=True)
    assert not table.answered(again, 2)


def test_an_answer_to_the_old_incarnation_never_reaches_the_new_one(host) -> None:
    one = host()
    mine, other = one.table(2), one.table(3)
    session = create(mine)
    theirs = other.find(session.id, NOW)
    mine.expect(session, 5)
    again = mine.update(session, lambda was: replace(was, upstream_id=b"new"), repin=True)
    assert again.incarnation != session.incarnation
    assert not other.answered(theirs, 5)
    assert not mine.answered(again, 5)
    # What the old incarnation still asks is not outstanding at the new one; the new one's own is.
    other.expect(theirs, 6)
    mine.expect(again, 5)
    assert not other.answered(theirs, 5)
    assert not mine.answered(again, 6)
    assert mine.answered(again, 5)


def test_a_change_that_is_no_re_pin_keeps_what_is_outstanding(host) -> None:
    table = host().table(2)
    session = create(table)
    table.expect(session, 5)
    table.set_delivered(session)
    changed = table.update(session, lambda was: replace(was, log_level="error"))
    assert table.delivered(changed)
    assert table.answered(session, 5)


def test_delivered_is_of_one_incarnation(host) -> None:
    one = host()
    mine, other = one.table(2), one.table(3)
    session = create(mine)
    assert not mine.delivered(session)
    mine.set_delivered(session)
    assert other.delivered(other.find(session.id, NOW))
    again = mine.update(session, lambda was: was, repin=True)
    assert not mine.delivered(again)
    mine.set_delivered(again)
    mine.set_delivered(session)  # late
    assert mine.delivered(again)
