from __future__ import annotations

import os

import pytest

from shadowcat.shm.host import ADDRESSES_LIMIT
from shadowcat.shm.shared import CONTROL, SUPERVISOR, Shared, worker_number


def test_children_see_what_the_supervisor_writes_after_the_fork(shared: Shared, fork) -> None:
    host = shared.host
    read_end, write_end = os.pipe()

    def look() -> None:
        assert os.read(read_end, 1) == b"x"
        assert host.fully_started
        assert host.draining
        assert (host.served_by(1), host.served_since(1)) == (worker_number(0), 99)
        assert host.restarts(CONTROL) == 2
        assert host.addresses() == b'{"listen":["127.0.0.1:43121"]}'

    assert not host.fully_started
    assert not host.draining
    fork(look)
    host.set_fully_started(5)
    host.set_draining()
    host.set_served(1, worker_number(0), 99)
    host.count_restart(CONTROL)
    host.count_restart(CONTROL)
    host.set_addresses(b'{"listen":["127.0.0.1:43121"]}')
    os.write(write_end, b"x")
    os.close(read_end)
    os.close(write_end)


def test_fields_do_not_overlap(shared: Shared) -> None:
    host = shared.host
    host.set_addresses(b"a" * ADDRESSES_LIMIT)
    for slot in range(2):
        host.set_served(slot, 10 + slot, 20 + slot)
    for process in (SUPERVISOR, CONTROL, worker_number(0), worker_number(1)):
        for _ in range(process + 1):
            host.count_restart(process)
    assert host.started > 0
    assert [host.restarts(process) for process in range(4)] == [1, 2, 3, 4]
    assert [(host.served_by(slot), host.served_since(slot)) for slot in range(2)] == [(10, 20), (11, 21)]
    assert host.addresses() == b"a" * ADDRESSES_LIMIT
    # The first mailbox follows.
    assert shared.mail.receive(SUPERVISOR) == []
    host.set_addresses(b"short")
    assert host.addresses() == b"short"


def test_too_many_addresses_are_refused(shared: Shared) -> None:
    with pytest.raises(ValueError, match="fit"):
        shared.host.set_addresses(b"a" * (ADDRESSES_LIMIT + 1))
