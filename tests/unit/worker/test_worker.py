"""A worker process, alone and with a sibling."""

from __future__ import annotations

import select
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from shadowcat.shm.mailboxes import Mail
from shadowcat.shm.page import State
from shadowcat.shm.shared import SUPERVISOR, worker_number
from tests.unit.worker.host import Host, eventually, exit_of


@pytest.fixture
def host() -> Iterator[Host]:
    one = Host()
    yield one
    one.close()


def test_it_shows_signs_of_life(host):
    child = host.start(0)
    page = host.shared.page(worker_number(0))
    assert page.pid == child.pid
    assert page.state is State.READY
    now = time.monotonic_ns()
    eventually(lambda: page.heartbeat > now)
    assert page.heartbeat <= time.monotonic_ns()


def test_it_accepts_for_its_own_slot_and_for_others_only_when_told(host):
    child = host.start(0)
    alone = host.greetings(60)
    assert alone[child.pid] > 5
    assert alone[0] > 5  # these wait in the queue of slot 1
    host.shared.mail.send(SUPERVISOR, worker_number(0), Mail.ADOPT_SLOT, 1)
    eventually(lambda: host.greetings(20)[child.pid] == 20)
    host.shared.mail.send(SUPERVISOR, worker_number(0), Mail.RELEASE_SLOT, 1)
    eventually(lambda: host.greetings(20)[0] > 0)
    assert host.greetings(60)[child.pid] > 5  # still there for its own


def test_who_waited_in_the_queue_of_an_orphan_is_served_after_adoption(host):
    child = host.start(0)
    clients = host.connect(40)
    host.shared.mail.send(SUPERVISOR, worker_number(0), Mail.ADOPT_SLOT, 1)
    for client in clients:
        assert int(client.recv(100)) == child.pid
        client.close()


def test_drain_takes_who_is_in_the_queue_and_ends(host):
    child = host.start(0, window=0.0)
    child.signal(signal.SIGSTOP)
    clients = host.connect(40)
    child.signal(signal.SIGTERM)
    child.signal(signal.SIGCONT)
    assert exit_of(host, child) == "exit status 0"
    assert host.shared.page(worker_number(0)).state is State.DRAINING
    # The others wait in the queue of the second slot.
    told, _, _ = select.select(clients, [], [], 0)
    assert len(told) > 5
    for client in told:
        with client.makefile("rb") as lines:
            assert lines.read() == b"%d\ndrain\n" % child.pid
    for client in clients:
        client.close()


def test_drain_has_a_deadline():
    host = Host(drain_timeout=0.3)
    child = host.start(0, stubborn=True)
    other = host.start(1)
    clients = host.connect(20)
    pids = [int(client.recv(100)) for client in clients]
    child.signal(signal.SIGTERM)
    assert exit_of(host, child) == "exit status 0"
    held = [client for client, pid in zip(clients, pids, strict=True) if pid == child.pid]
    assert held
    for client in held:
        assert client.recv(100) == b"drain\n"
        assert client.recv(100) == b""
    for client in clients:
        client.close()
    assert other.pid in pids
    host.close()


def test_sigquit_ends_it_now(host):
    child = host.start(0, stubborn=True)
    child.signal(signal.SIGQUIT)
    assert exit_of(host, child) == "exit status 0"


def test_it_does_not_outlive_the_supervisors_end_of_the_lifeline(host):
    child = host.start(0)
    child.lifeline.shutdown(socket.SHUT_RDWR)
    assert exit_of(host, child) == "exit status 1"
