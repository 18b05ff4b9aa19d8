"""A worker process around a data plane that answers every connection with its pid."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable

import pytest

from shadowcat.config.addresses import Address
from shadowcat.config.model import Config, Route, Upstream
from shadowcat.shm.mailboxes import Mail
from shadowcat.shm.page import State
from shadowcat.shm.shared import SUPERVISOR, Shared, worker_number
from shadowcat.supervisor.process import Child, spawn
from shadowcat.supervisor.sockets import Listeners
from shadowcat.supervisor.timing import Timing
from shadowcat.worker.main import run


class Greeter(asyncio.Protocol):
    """Says its pid, and holds the connection until the client closes or the plane drains."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane

    def connection_made(self, transport) -> None:
        self.transport = transport
        self.plane.connections.add(self)
        transport.write(b"%d\n" % os.getpid())

    def connection_lost(self, exc) -> None:
        self.plane.connections.discard(self)


class Plane:
    """The data plane's double. A connection that was told about the drain may still be held open."""

    def __init__(self, *, stubborn: bool) -> None:
        self.connections: set[Greeter] = set()
        self.stubborn = stubborn

    @property
    def open_connections(self) -> int:
        return len(self.connections)

    def client_protocol(self) -> Greeter:
        return Greeter(self)

    def begin_drain(self) -> None:
        for one in self.connections:
            one.transport.write(b"drain\n")
            if not self.stubborn:
                one.transport.close()

    def abort(self) -> None:
        for one in self.connections:
            one.transport.abort()

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass


class Host:
    """Two slots on one port, and the workers that a test starts."""

    def __init__(self, drain_timeout: float = 30.0) -> None:
        self.config = Config(
            routes=[Route(upstreams=[Upstream(url="http://127.0.0.1:1/mcp")])],
            workers=2,
            drain_timeout=drain_timeout,
        )
        self.shared = Shared.create(self.config)
        self.listeners = Listeners([Address("127.0.0.1", 0)], 2, 64)
        self.address = self.listeners.by_address[0][0].getsockname()
        self.children: list[Child] = []

    def start(self, slot: int, *, stubborn: bool = False, window: float = 0.05) -> Child:
        def main(lifeline) -> int:
            return run(
                self.config,
                self.shared,
                slot,
                self.listeners.by_address,
                lifeline,
                Timing(accept_window=window),
                lambda *_: Plane(stubborn=stubborn),
            )

        child = spawn(f"shadowcat: test worker {slot}", main, lambda: None)
        self.children.append(child)
        assert select.select([child.lifeline], [], [], 10)[0]
        assert child.receive().ready
        return child

    def greetings(self, count: int) -> Counter[int]:
        """Who answers fresh connections; 0 for those that nobody has answered after 0.3 s."""
        clients = [socket.create_connection(self.address, timeout=5) for _ in range(count)]
        answered: Counter[int] = Counter()
        deadline = time.monotonic() + 0.3
        for client in clients:
            readable, _, _ = select.select([client], [], [], max(0.0, deadline - time.monotonic()))
            answered[int(client.recv(100)) if readable else 0] += 1
            client.close()
        return answered

    def close(self) -> None:
        for child in self.children:
            child.signal(signal.SIGKILL)
            child.reap()
            child.close()
        self.listeners.close()
        self.shared.close()


@pytest.fixture
def host():
    one = Host()
    yield one
    one.close()


def exit_of(host: Host, child: Child) -> str:
    assert select.select([child.pidfd], [], [], 10)[0], "it does not end"
    host.children.remove(child)
    how = child.reap()
    child.close()
    return how


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_shows_signs_of_life(host):
    child = host.start(0)
    page = host.shared.page(worker_number(0))
    assert page.pid == child.pid
    assert page.state is State.READY
    before = page.heartbeat
    eventually(lambda: page.heartbeat > before)
    assert time.monotonic_ns() - page.heartbeat < 2_000_000_000


def test_it_accepts_for_its_own_slot_and_for_others_only_when_told(host):
    child = host.start(0)
    alone = host.greetings(60)
    assert alone[child.pid] > 5
    assert alone[0] > 5  # these wait in the queue of slot 1
    host.shared.mail.send(SUPERVISOR, worker_number(0), Mail.ADOPT_SLOT, 1)
    eventually(lambda: host.greetings(20) == {child.pid: 20})
    host.shared.mail.send(SUPERVISOR, worker_number(0), Mail.RELEASE_SLOT, 1)
    eventually(lambda: host.greetings(20)[0] > 0)
    assert host.greetings(60)[child.pid] > 5  # still there for its own


def test_who_waited_in_the_queue_of_an_orphan_is_served_after_adoption(host):
    child = host.start(0)
    clients = [socket.create_connection(host.address, timeout=5) for _ in range(40)]
    host.shared.mail.send(SUPERVISOR, worker_number(0), Mail.ADOPT_SLOT, 1)
    for client in clients:
        assert int(client.recv(100)) == child.pid
        client.close()


def test_drain_takes_who_is_in_the_queue_and_ends(host):
    child = host.start(0, window=0.0)
    child.signal(signal.SIGSTOP)
    clients = [socket.create_connection(host.address, timeout=5) for _ in range(40)]
    child.signal(signal.SIGTERM)
    child.signal(signal.SIGCONT)
    page = host.shared.page(worker_number(0))
    eventually(lambda: page.state is State.DRAINING)
    told, deadline = 0, time.monotonic() + 0.5
    for client in clients:
        if select.select([client], [], [], max(0.0, deadline - time.monotonic()))[0]:
            with client.makefile("rb") as lines:
                assert lines.read() == b"%d\ndrain\n" % child.pid
            told += 1
        client.close()
    assert told > 5
    assert exit_of(host, child) == "exit status 0"


def test_drain_has_a_deadline():
    host = Host(drain_timeout=0.3)
    child = host.start(0, stubborn=True)
    other = host.start(1)
    clients = [socket.create_connection(host.address, timeout=5) for _ in range(20)]
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
