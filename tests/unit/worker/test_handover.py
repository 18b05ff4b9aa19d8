"""Two workers, one of which gets all connections: what it hands over, to whom, and what becomes of it."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator

import pytest
import uvloop

from shadowcat.shm.mailboxes import Mail
from shadowcat.shm.page import State
from shadowcat.shm.shared import SUPERVISOR, worker_number
from shadowcat.supervisor.inboxes import Inboxes
from shadowcat.supervisor.process import Child
from shadowcat.worker.acceptors import Acceptors
from shadowcat.worker.handover import Handover
from tests.unit.worker.host import Host, Plane, eventually, exit_of


@pytest.fixture
def host() -> Iterator[Host]:
    one = Host(spread=True)
    for slot in (0, 1):
        one.shared.host.set_served(slot, worker_number(slot), 1)
    yield one
    one.close()


def connect(host: Host, count: int) -> list[socket.socket]:
    return [socket.create_connection(host.address, timeout=5) for _ in range(count)]


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


def stop(host: Host, second: Child) -> None:
    """Stop the second worker, and have it look as if it went on: on a busy machine a test outlasts its last
    heartbeat.
    """
    second.signal(signal.SIGSTOP)
    os.waitid(os.P_PID, second.pid, os.WSTOPPED | os.WNOWAIT)
    host.shared.page(worker_number(1)).beat(time.monotonic_ns() + 60_000_000_000)


def left_in_the_inbox(host: Host, second: Child) -> list[socket.socket]:
    """Clients of whom some were handed to the second worker, which is stopped and has not taken them."""
    stop(host, second)
    clients = connect(host, 12)
    eventually(lambda: inboxes(host).waiting(1) >= 4)
    return clients


def test_both_get_their_share(host: Host):
    first, second = host.start(0), host.start(1)
    clients = connect(host, 40)
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
        clients = connect(host, 20)
        for client in clients:
            client.sendall(b"echo\n")
        for client in clients:
            with client.makefile("rb") as lines:
                served[int(lines.readline())] += 1
                assert lines.readline() == b"echo\n"
        close(clients)
    assert set(served) == {first.pid, second.pid}
    assert served.total() == 2000
    assert served[second.pid] > 500


@pytest.mark.parametrize("reason", ["host drains", "adopted", "starting", "hangs"])
def test_who_does_not_accept_is_handed_nothing(host: Host, reason: str):
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
            second.signal(signal.SIGSTOP)
            eventually(lambda: time.monotonic_ns() - page.heartbeat > 1_000_000_000)
    clients = connect(host, 20)
    assert servers(clients) == {first.pid: 20}
    close(clients)


def test_with_a_full_inbox_the_worker_keeps_them(host: Host):
    first, second = host.start(0), host.start(1)
    stop(host, second)
    with socket.socket() as filler:
        while inboxes(host).put(1, filler.fileno()):
            pass
    # What lies there counts for the second one, which thus has most: let the first one have more.
    page = host.shared.page(worker_number(0))
    page.cells[host.shared.layout.cell("connections_arriving")] += 1000
    clients = connect(host, 5)
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
    with socket.create_connection(host.listeners[0][1].getsockname(), timeout=5) as client:
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
        select.select([client], [], [], 5)
        drained += client.recv(100).startswith(b"%d\n" % second.pid)
    assert drained == left
    close(clients)


def in_process(host: Host, loop: asyncio.AbstractEventLoop) -> tuple[Acceptors, Plane]:
    """The acceptors of a worker that the test itself is."""
    plane = Plane(host.shared, worker_number(1), stubborn=False)
    handover = Handover(loop, plane.client_protocol, host.shared, 1, inboxes(host))
    return Acceptors(loop, plane.client_protocol, host.listeners, 64, handover), plane


def accepted(host: Host) -> tuple[socket.socket, socket.socket]:
    """A client, and its connection as somebody else has accepted it."""
    client = socket.create_connection(host.address, timeout=5)
    assert select.select([host.listeners[0][0]], [], [], 5)[0]
    return client, host.listeners[0][0].accept()[0]


def test_what_comes_at_the_last_moment_is_served(host: Host):
    client, connection = accepted(host)

    async def finish() -> None:
        acceptors, plane = in_process(host, asyncio.get_running_loop())
        await acceptors.open(1)
        assert inboxes(host).put(1, connection.fileno())
        await acceptors.finish()
        assert plane.open_connections == 1
        plane.abort()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, client, connection:
        runner.run(finish())
        assert int(client.recv(100)) == os.getpid()


def test_a_slot_that_was_released_keeps_what_comes(host: Host):
    client, connection = accepted(host)

    async def release() -> None:
        acceptors, plane = in_process(host, asyncio.get_running_loop())
        await acceptors.open(1)
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
    first = host.start(0)
    host.start(1)
    layout, page = host.shared.layout, host.shared.page(worker_number(0))
    stop = time.monotonic() + 0.3
    while time.monotonic() < stop:
        page.cells[layout.cell("connections_accepted_total")] += 1000
        clients = connect(host, 5)
        served = servers(clients)
        close(clients)
    assert served == {first.pid: 5}
