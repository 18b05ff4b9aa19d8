from __future__ import annotations

import os
import select

import pytest

from shadowcat.shm.mailboxes import CAPACITY, Mail
from shadowcat.shm.shared import CONTROL, SUPERVISOR, Shared, worker_number

ME = worker_number(0)
MESSAGES = 3_000


def dropped(shared: Shared, process: int) -> int:
    return shared.page(process).cells[shared.layout.cell("mail_dropped_total")]


def readable(descriptor: int, timeout: float = 0) -> bool:
    return bool(select.select([descriptor], [], [], timeout)[0])


def test_mail_arrives_once_with_sender_kind_and_argument(shared: Shared) -> None:
    assert shared.mail.send(SUPERVISOR, ME, Mail.ADOPT_SLOT, 1)
    assert shared.mail.send(CONTROL, ME, Mail.RELEASE_SLOT, 2**48 - 1)
    assert readable(shared.mail.fileno(ME))
    assert shared.mail.receive(ME) == [
        (SUPERVISOR, Mail.ADOPT_SLOT, 1),
        (CONTROL, Mail.RELEASE_SLOT, 2**48 - 1),
    ]
    assert not readable(shared.mail.fileno(ME))
    assert shared.mail.receive(ME) == []


def test_mail_goes_to_its_receiver_only(shared: Shared) -> None:
    shared.mail.send(SUPERVISOR, ME, Mail.ADOPT_SLOT, 1)
    for other in (SUPERVISOR, CONTROL, worker_number(1)):
        assert not readable(shared.mail.fileno(other))
        assert shared.mail.receive(other) == []


def test_an_argument_too_large_is_refused(shared: Shared) -> None:
    for argument in (-1, 2**48):
        with pytest.raises(ValueError, match="48 bits"):
            shared.mail.send(SUPERVISOR, ME, Mail.ADOPT_SLOT, argument)
    assert shared.mail.receive(ME) == []


def test_a_full_ring_drops_and_counts_in_the_senders_page(shared: Shared) -> None:
    sent = [shared.mail.send(CONTROL, ME, Mail.ADOPT_SLOT, n) for n in range(CAPACITY + 3)]
    assert sent == [True] * CAPACITY + [False] * 3
    assert (dropped(shared, CONTROL), dropped(shared, ME)) == (3, 0)
    # Another sender's ring is not full.
    assert shared.mail.send(SUPERVISOR, ME, Mail.ADOPT_SLOT, 7)
    received = shared.mail.receive(ME)
    assert [argument for sender, _, argument in received if sender == CONTROL] == list(range(CAPACITY))
    assert shared.mail.send(CONTROL, ME, Mail.ADOPT_SLOT)


def test_the_ring_goes_round_for_ever(shared: Shared) -> None:
    # More laps than the lap number in an entry has values.
    for number in range(257 * CAPACITY + 5):
        assert shared.mail.send(CONTROL, ME, Mail.ADOPT_SLOT, number)
        assert shared.mail.receive(ME) == [(CONTROL, Mail.ADOPT_SLOT, number)]


def test_mail_between_processes_arrives_complete_and_in_order(shared: Shared, fork) -> None:
    senders = (SUPERVISOR, CONTROL, worker_number(1))

    def send(sender: int) -> None:
        for number in range(MESSAGES):
            while not shared.mail.send(sender, ME, Mail.RELEASE_SLOT, number):
                os.sched_yield()

    for sender in senders:
        fork(lambda sender=sender: send(sender))
    received: dict[int, list[int]] = {sender: [] for sender in senders}
    while sum(map(len, received.values())) < MESSAGES * len(senders):
        assert readable(shared.mail.fileno(ME), 10), "the receiver was not woken"
        for sender, kind, argument in shared.mail.receive(ME):
            assert kind is Mail.RELEASE_SLOT
            received[sender].append(argument)
    assert all(numbers == list(range(MESSAGES)) for numbers in received.values())


def test_a_replacement_does_not_obey_mail_for_the_dead(shared: Shared) -> None:
    shared.mail.send(SUPERVISOR, ME, Mail.ADOPT_SLOT, 1)
    shared.mail.send(CONTROL, worker_number(1), Mail.ADOPT_SLOT, 0)
    shared.mail.clear(ME)
    assert not readable(shared.mail.fileno(ME))
    assert shared.mail.receive(ME) == []
    assert shared.mail.receive(worker_number(1)) == [(CONTROL, Mail.ADOPT_SLOT, 0)]
    shared.mail.send(SUPERVISOR, ME, Mail.RELEASE_SLOT, 5)
    assert shared.mail.receive(ME) == [(SUPERVISOR, Mail.RELEASE_SLOT, 5)]


def test_what_a_replaced_sender_sends_is_not_lost(shared: Shared, fork) -> None:
    def first() -> None:
        for number in range(10):
            shared.mail.send(CONTROL, ME, Mail.ADOPT_SLOT, number)

    def second() -> None:
        shared.mail.send(CONTROL, ME, Mail.ADOPT_SLOT, 10)

    for work in (first, second):
        os.waitid(os.P_PID, fork(work), os.WEXITED | os.WNOWAIT)
    assert [argument for _, _, argument in shared.mail.receive(ME)] == list(range(11))
