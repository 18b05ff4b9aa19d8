"""Two workers, one of which gets all connections: what it hands over, to whom, and what becomes of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import uvloop

from shadowcat.shm.mailboxes import Mail
from shadowcat.shm.page import State
from shadowcat.shm.shared import SUPERVISOR, worker_number
from shadowcat.supervisor.inboxes import Inboxes
from shadowcat.supervisor.process import Child
from shadowcat.worker.acceptors import Acceptors
from shadowcat.worker.handover import Handover
from tests.unit.worker.host import PATIENCE, Host, Plane, eventually, exit_of

HOUR_NS = 3_600_000_000_000
BEAT_NS = 50_000_000


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    # On a busy machine workers that do not hang may miss beats, which has a test of its own.
    monkeypatch.setattr("shadowcat.worker.handover._FRESH_NS", HOUR_NS)
    one = Host(spread=True)
    for slot in (0, 1):
        one.shared.host.set_served(slot, worker_number(slot), 1)
    yield one
    one.close()


def servers(clients: list[socket.socket]) -> Counter[int]:
    """The pids that serve these clients."""
    return Counter(int(client.recv(100)) for client in clients)


def close(clients: list[socket.socket]) -> None:
    for client in clients:
        client.close()


def inboxes(host: Host) -> Inboxes:
    assert host.inboxes is not None
    return host.inboxes


def counted(host: Host, family: str, slot: int) -> int:
    return host.shared.page(worker_number(slot)).cells[host.shared.layout.cell(family)]


def stop(child: Child) -> None:
    """Stop a worker."""
    child.signal(signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)


def left_in_the_inbox(host: Host, second: Child) -> list[socket.socket]:
    """Clients of whom some were handed to the second worker, which is stopped and has not taken them."""
    stop(second)
    clients = host.connect(12)
    eventually(lambda: counted(host, "connections", 0) + inboxes(host).waiting(1) == 12)
    assert inboxes(host).waiting(1) >= 4
    return clients


def test_both_get_their_share(host: Host):
    first, second = host.start(0), host.start(1)
    clients = host.connect(40)
    served = servers(clients)
    assert served[first.pid] + served[second.pid] == 40
    assert served[second.pid] < served[first.pid] <= 23  # 1.1 * 20 + 1
    given = served[second.pid]
    eventually(lambda: counted(host, "connections_taken_over_total", 1) == given)
    assert counted(host, "connections_handed_over_total", 0) == given
    assert counted(host, "connections_handed_over_total", 1) == 0
    assert counted(host, "connections_arriving", 1) == 0
    close(clients)


def test_what_the_client_has_sent_already_is_not_lost(host: Host):
    first, second = host.start(0), host.start(1)
    served: Counter[int] = Counter()
    for _ in range(100):
        clients = host.connect(20)
        for client in clients:
            client.sendall(b"echo\n")
        for client in clients:
            with client.makefile("rb") as lines:
                served[int(lines.readline())] += 1
                assert lines.readline() == b"echo\n"
        close(clients)
        # Else the next ones go to whoever learns of it first.
        eventually(lambda: counted(host, "connections", 0) == counted(host, "connections", 1) == 0)
    assert set(served) == {first.pid, second.pid}
    assert served.total() == 2000
    assert served[second.pid] > 500


@pytest.mark.parametrize("reason", ["host drains", "adopted", "starting", "hangs"])
def test_who_does_not_accept_is_handed_nothing(host: Host, reason: str, monkeypatch: pytest.MonkeyPatch):
    if reason == "hangs":
        monkeypatch.undo()
    first, second = host.start(0), host.start(1)
    page = host.shared.page(worker_number(1))
    match reason:
        case "host drains":
            host.shared.host.set_draining()
        case "adopted":
            host.shared.host.set_served(1, worker_number(0), 2)
        case "starting":
            page.set_state(State.STARTING)
        case "hangs":
            stop(second)
            eventually(lambda: time.monotonic_ns() - page.heartbeat > 1_000_000_000)
    clients = host.connect(20)
    assert servers(clients) == {first.pid: 20}
    close(clients)


def test_with_a_full_inbox_the_worker_keeps_them(host: Host):
    first, second = host.start(0), host.start(1)
    stop(second)
    with socket.socket() as filler:
        while inboxes(host).put(1, filler.fileno()):
            pass
    # What lies there counts for the second one, which thus has most: let the first one have more.
    page = host.shared.page(worker_number(0))
    page.cells[host.shared.layout.cell("connections_arriving")] += 1000
    clients = host.connect(5)
    assert servers(clients) == {first.pid: 5}
    close(clients)
    second.signal(signal.SIGKILL)


def test_what_is_under_way_counts_for_who_will_get_it(host: Host):
    first, second = host.start(0), host.start(1)
    clients = left_in_the_inbox(host, second)
    assert inboxes(host).waiting(1) <= 6
    second.signal(signal.SIGCONT)
    served = servers(clients)
    assert served[first.pid] <= 7
    assert served[second.pid] >= 5
    close(clients)


def test_the_replacement_serves_what_a_killed_worker_left_in_its_inbox(host: Host):
    first, second = host.start(0), host.start(1)
    clients = left_in_the_inbox(host, second)
    left = inboxes(host).waiting(1)
    second.signal(signal.SIGKILL)
    exit_of(host, second)
    host.shared.page(worker_number(1)).reset_gauges(host.shared.layout)
    replacement = host.start(1)
    assert servers(clients) == {first.pid: 12 - left, replacement.pid: left}
    assert counted(host, "connections_arriving", 1) == 0
    close(clients)


def test_who_adopts_the_slot_serves_its_inbox(host: Host):
    first, second = host.start(0), host.start(1)
    clients = left_in_the_inbox(host, second)
    second.signal(signal.SIGKILL)
    exit_of(host, second)
    host.shared.mail.send(SUPERVISOR, worker_number(0), Mail.ADOPT_SLOT, 1)
    assert servers(clients) == {first.pid: 12}
    host.shared.mail.send(SUPERVISOR, worker_number(0), Mail.RELEASE_SLOT, 1)
    third = host.start(1)
    with socket.create_connection(host.listeners[0][1].getsockname(), timeout=PATIENCE) as client:
        assert int(client.recv(100)) == third.pid
    close(clients)


def test_a_worker_that_stops_serves_what_is_in_its_inbox(host: Host):
    host.start(0)
    second = host.start(1, window=0.0)
    clients = left_in_the_inbox(host, second)
    left = inboxes(host).waiting(1)
    host.shared.host.set_draining()
    second.signal(signal.SIGTERM)
    second.signal(signal.SIGCONT)
    assert exit_of(host, second) == "exit status 0"
    assert inboxes(host).waiting(1) == 0
    drained = 0
    for client in clients:
        select.select([client], [], [], PATIENCE)
        drained += client.recv(100).startswith(b"%d\n" % second.pid)
    assert drained == left
    close(clients)


@contextlib.asynccontextmanager
async def in_process(host: Host, slot: int) -> AsyncIterator[tuple[Acceptors, Plane]]:
    """The acceptors of a worker that the test itself is."""
    loop = asyncio.get_running_loop()
    plane = Plane(host.shared, worker_number(slot), stubborn=False)
    handover = Handover(loop, plane.client_protocol, host.shared, slot, inboxes(host))
    acceptors = Acceptors(loop, plane.client_protocol, host.listeners, 64, handover)
    try:
        await acceptors.open(slot)
        yield acceptors, plane
    finally:
        # uvloop waits for what is open when it is closed, and no time-out ends that.
        acceptors.close(slot)
        plane.abort()


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0)


def accepted(host: Host) -> tuple[socket.socket, socket.socket]:
    """A client, and its connection as somebody else has accepted it."""
    (client,) = host.connect(1)
    assert select.select([host.listeners[0][0]], [], [], PATIENCE)[0]
    return client, host.listeners[0][0].accept()[0]


def test_what_comes_at_the_last_moment_is_served(host: Host):
    client, connection = accepted(host)

    async def finish() -> None:
        async with in_process(host, 1) as (acceptors, plane):
            assert inboxes(host).put(1, connection.fileno())
            await acceptors.finish()
            assert plane.open_connections == 1

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, client, connection:
        runner.run(finish())
        assert int(client.recv(100)) == os.getpid()


def test_a_slot_that_was_released_keeps_what_comes(host: Host):
    client, connection = accepted(host)

    async def release() -> None:
        async with in_process(host, 1) as (acceptors, plane):
            acceptors.close(1)
            assert inboxes(host).put(1, connection.fileno())
            for _ in range(10):
                await asyncio.sleep(0)
            assert plane.open_connections == 0

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, client, connection:
        runner.run(release())
    assert inboxes(host).waiting(1) == 1


def test_connections_that_come_and_go_stay_where_they_are(host: Host):
    """A thousand that end at once make a beat in which more ended than are open."""
    second = host.start(1)

    async def serve() -> list[socket.socket]:
        cells = host.shared.page(worker_number(0)).cells
        async with in_process(host, 0) as (acceptors, plane):
            now = time.monotonic_ns()
            acceptors.beat(now)
            cells[host.shared.layout.cell("connections_accepted_total")] += 1000
            acceptors.beat(now + BEAT_NS)
            clients = host.connect(5)
            await until(lambda: plane.open_connections == 5)
            # None has ended since, so that they are handed over again.
            acceptors.beat(now + 2 * BEAT_NS)
            clients += host.connect(5)
            await until(lambda: plane.open_connections + counted(host, "connections", 1) == 10)
            assert counted(host, "connections_handed_over_total", 0) == counted(host, "connections", 1) > 0
        return clients

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        clients = runner.run(serve())
    served = servers(clients)
    assert served[second.pid] > 0
    assert served.total() == 10
    close(clients)
