"""Worker processes around a data plane that answers every connection with its pid."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable

from shadowcat.config.addresses import Address
from shadowcat.config.model import Config, Route, Upstream
from shadowcat.shm.shared import Shared, worker_number
from shadowcat.supervisor.inboxes import Inboxes
from shadowcat.supervisor.process import Child, spawn
from shadowcat.supervisor.sockets import Listeners
from shadowcat.supervisor.timing import Timing
from shadowcat.worker.main import run

PATIENCE = 30.0
"""Seconds that anything may take on a busy machine."""


class Greeter(asyncio.Protocol):
    """Says its pid, and holds the connection until the client closes or the plane drains."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane

    def connection_made(self, transport) -> None:
        self.transport = transport
        self.plane.connections.add(self)
        self.plane.count()
        transport.write(b"%d\n" % os.getpid())

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def connection_lost(self, exc) -> None:
        self.plane.connections.discard(self)
        self.plane.count()


class Plane:
    """The data plane's double. A connection that was told about the drain may still be held open."""

    def __init__(self, shared: Shared, process: int, *, stubborn: bool) -> None:
        self.connections: set[Greeter] = set()
        self.stubborn = stubborn
        self._cells = shared.page(process).cells
        self._cell = shared.layout.cell("connections")

    def count(self) -> None:
        self._cells[self._cell] = len(self.connections)

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
    """Two slots, and the workers that a test starts.

    As in a real host both have one port; with `spread` the first slot has it alone, so that all connections
    come to its worker, which may hand them over.
    """

    def __init__(self, drain_timeout: float = 30.0, *, spread: bool = False) -> None:
        self.config = Config(
            routes=[Route(upstreams=[Upstream(url="http://127.0.0.1:1/mcp")])],
            workers=2,
            drain_timeout=drain_timeout,
        )
        self.shared = Shared.create(self.config)
        addresses = [Address("127.0.0.1", 0)] * (2 if spread else 1)
        self._open = Listeners(addresses, 1 if spread else 2, 64)
        self.listeners = [self._open.all]
        self.address = self.listeners[0][0].getsockname()
        self.inboxes = Inboxes(2) if spread else None
        self.children: list[Child] = []
        self._clients: list[socket.socket] = []

    def start(self, slot: int, *, stubborn: bool = False, window: float = 0.05) -> Child:
        def main(lifeline) -> int:
            return run(
                self.config,
                self.shared,
                slot,
                self.listeners,
                self.inboxes,
                lifeline,
                Timing(accept_window=window),
                lambda config, shared, process, loop: Plane(shared, process, stubborn=stubborn),
            )

        child = spawn(f"shadowcat: test worker {slot}", main, lambda: None)
        self.children.append(child)
        assert select.select([child.lifeline], [], [], PATIENCE)[0]
        assert child.receive().ready
        return child

    def connect(self, count: int) -> list[socket.socket]:
        """Fresh connections. Those left open are closed with the host, or a test that fails would have others
        fail too.
        """
        clients = [socket.create_connection(self.address, timeout=PATIENCE) for _ in range(count)]
        self._clients += clients
        return clients

    def greetings(self, count: int) -> Counter[int]:
        """Who answers fresh connections, with a worker at the first slot only; 0 for those that wait in the
        queue of a slot nobody serves.
        """
        clients = self.connect(count)
        self.let_beat(0)
        answered, _, _ = select.select(clients, [], [], 0)
        greeted = Counter(int(client.recv(100)) for client in answered)
        greeted[0] = count - greeted.total()
        for client in clients:
            client.close()
        return greeted

    def let_beat(self, slot: int) -> None:
        """Let the loop of a worker come round: afterwards it has done what there was to do."""
        page = self.shared.page(worker_number(slot))
        for _ in range(3):
            beaten = page.heartbeat
            eventually(lambda beaten=beaten: page.heartbeat != beaten)

    def close(self) -> None:
        for client in self._clients:
            client.close()
        for child in self.children:
            child.signal(signal.SIGKILL)
            child.reap()
            child.close()
        self._open.close()
        if self.inboxes is not None:
            self.inboxes.close()
        self.shared.close()


def exit_of(host: Host, child: Child) -> str:
    assert select.select([child.pidfd], [], [], PATIENCE)[0], "it does not end"
    host.children.remove(child)
    how = child.reap()
    child.close()
    return how


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)
