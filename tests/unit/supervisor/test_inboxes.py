from __future__ import annotations

import errno
import logging
import os
import resource
import socket
from collections.abc import Iterator

import pytest

from shadowcat.errors import StartError
from shadowcat.supervisor.inboxes import Inboxes


@pytest.fixture
def inboxes() -> Iterator[Inboxes]:
    one = Inboxes(2)
    yield one
    one.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=512) as one:
        yield one


def connect(listener: socket.socket) -> tuple[socket.socket, socket.socket]:
    client = socket.create_connection(listener.getsockname(), timeout=5)
    return client, listener.accept()[0]


def test_connections_come_out_whole_and_in_order(inboxes: Inboxes, listener: socket.socket):
    clients = []
    for number in range(50):
        client, accepted = connect(listener)
        client.sendall(b"%d\n" % number)
        assert inboxes.put(1, accepted.fileno())
        accepted.close()
        clients.append(client)
        assert (inboxes.waiting(0), inboxes.waiting(1)) == (0, number + 1)
    for number, client in enumerate(clients):
        taken = inboxes.take(1)
        assert taken is not None
        assert inboxes.waiting(1) == 49 - number
        assert not taken.get_inheritable()
        assert not taken.getblocking()
        assert taken.recv(100) == b"%d\n" % number
        taken.sendall(b"hello")
        assert client.recv(100) == b"hello"
        taken.close()
        client.close()
    assert inboxes.take(1) is None
    assert inboxes.take(0) is None


def test_a_full_one_takes_no_more(inboxes: Inboxes, listener: socket.socket):
    client, accepted = connect(listener)
    put = 0
    while inboxes.put(0, accepted.fileno()):
        put += 1
    assert put >= 100
    assert inboxes.waiting(0) == put
    assert inboxes.put(1, accepted.fileno())
    while (taken := inboxes.take(0)) is not None:
        taken.close()
    accepted.close()
    client.close()
    taken = inboxes.take(1)
    assert taken is not None
    taken.close()


def test_what_cannot_be_taken_for_want_of_descriptors_is_an_error_and_gone(
    inboxes: Inboxes, listener: socket.socket
):
    client, accepted = connect(listener)
    inboxes.put(0, accepted.fileno())
    accepted.close()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
    try:
        with pytest.raises(OSError, match="limit of open files"):
            inboxes.take(0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert inboxes.take(0) is None
    assert client.recv(1) == b""
    client.close()


def test_what_is_left_at_the_end_is_closed_and_said(
    listener: socket.socket, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(logging.getLogger("shadowcat"), "propagate", True)
    inboxes = Inboxes(2)
    clients = []
    for slot in (0, 1, 1):
        client, accepted = connect(listener)
        inboxes.put(slot, accepted.fileno())
        accepted.close()
        clients.append(client)
    inboxes.close()
    for client in clients:
        assert client.recv(1) == b""
        client.close()
    assert "3 connections handed over" in caplog.text


def test_too_few_descriptors_for_them_are_a_failed_start(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(socket, "socketpair", fail)
    with pytest.raises(StartError, match="8 workers: Too many open files; raise the limit"):
        Inboxes(8)
