"""Client connections spread over eight workers, whatever the kernel's hash says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psutil
import pytest

from shadowcat.testing.raw_client import RawClient
from tests.e2e.harness import SLACK, EchoUpstream, Shadowcat, eventually
from tests.e2e.traffic import Clients, Connection, client_ports, samples, tool

WORKERS = 8
LONG = 32
CALL = tool("echo", {"text": "x"}).wire("/mcp")
SLOW = tool("echo", {"text": "x"}).wire("/slow")


@pytest.fixture
def cat() -> Iterator[Shadowcat]:
    with EchoUpstream() as quick, EchoUpstream(delay=0.1) as slow:
        routes = [{"path": "/mcp", "upstreams": [{"url": quick.url}]}]
        # For connections that last: who lives for less than 50 ms stays where it is.
        routes.append({"path": "/slow", "upstreams": [{"url": slow.url}]})
        with Shadowcat({"workers": WORKERS, "routes": routes}) as running:
            yield running


def per_worker(cat: Shadowcat, name: str) -> list[int]:
    page = samples(cat.admin("/metrics")[1])
    return [int(page[f'shadowcat_{name}{{worker="{slot}"}}']) for slot in range(WORKERS)]


def total(cat: Shadowcat, name: str) -> int:
    return sum(per_worker(cat, name))


def port(client: RawClient) -> int:
    """The client's own."""
    return client.sock.getsockname()[1]


def called(cat: Shadowcat, stack: ExitStack) -> RawClient:
    """One more connection, over which a call was answered."""
    client = stack.enter_context(RawClient(cat.address[1]))
    client.send(CALL)
    assert client.read_response().status == 200
    return client


def holding(cat: Shadowcat, count: int) -> Callable[[], list[int]]:
    """The connections of each worker as soon as together they have `count`; before that nothing."""

    def check() -> list[int]:
        counts = per_worker(cat, "connections")
        return counts if sum(counts) == count and not total(cat, "connections_arriving") else []

    return check


def test_32_long_connections_in_20_rounds(cat: Shadowcat) -> None:
    for _ in range(20):
        with ExitStack() as stack:
            clients = [called(cat, stack) for _ in range(LONG)]
            counts = eventually(holding(cat, LONG), what="32 connections")
            assert max(counts) / (LONG / WORKERS) <= 1.4, counts
            for client in clients:
                client.send(SLOW)
            assert {client.read_response().status for client in clients} == {200}
        eventually(holding(cat, 0), what="their end")
    # The hash alone leaves nearly no round level; who was handed over was also served.
    given = per_worker(cat, "connections_handed_over_total")
    assert min(given) > 0
    assert sum(given) == total(cat, "connections_taken_over_total") > 5 * 20
    assert total(cat, "connections_accepted_total") == LONG * 20


def test_32_at_once_in_20_rounds(cat: Shadowcat) -> None:
    """Eight workers decide at the same time: now and then two choose the same one in the same instant."""
    worst = []
    for _ in range(20):
        with ExitStack() as stack:
            clients = [stack.enter_context(RawClient(cat.address[1])) for _ in range(LONG)]
            for client in clients:
                client.send(SLOW)
            worst.append(max(eventually(holding(cat, LONG), what="32 connections")) / (LONG / WORKERS))
            assert {client.read_response().status for client in clients} == {200}
        eventually(holding(cat, 0), what="their end")
    assert sorted(worst)[-2] <= 1.4, worst
    assert max(worst) <= 1.5, worst


class Bursts(Clients):
    """Sixteen at a time connect, ask at once, and leave together: a beat of work for every worker."""

    def __init__(self, cat: Shadowcat) -> None:
        super().__init__()
        self._address = cat.address
        self.answered = 0
        self.lost: list[int] = []
        """The ports of clients who got no answer."""

    async def _run(self) -> None:
        while not self._end:
            connections = await asyncio.gather(*(Connection.open(self._address) for _ in range(16)))
            await asyncio.gather(*map(self._ask, connections))
            for connection in connections:
                await connection.__aexit__()

    async def _ask(self, connection: Connection) -> None:
        try:
            async with asyncio.timeout(20):
                assert (await connection.exchange(SLOW)).status == 200
        except (OSError, asyncio.IncompleteReadError):
            self.lost.append(connection.port)
        else:
            self.answered += 1


def test_a_kill_amid_hand_overs_harms_only_the_connections_of_the_killed(cat: Shadowcat) -> None:
    with ExitStack() as stack:
        idle = [called(cat, stack) for _ in range(LONG)]
        dead: set[int] = set()
        with Bursts(cat) as bursts:
            for slot in range(4):
                given = total(cat, "connections_handed_over_total")
                eventually(lambda: total(cat, "connections_handed_over_total") > given + 8)  # noqa: B023
                answered, lost = bursts.answered, len(bursts.lost)
                worker = cat.children()[f"worker {slot}"]
                worker.suspend()
                # So that the list is exact: until it stands, a system call may go on.
                eventually(lambda: worker.status() == psutil.STATUS_STOPPED)  # noqa: B023
                held = client_ports(worker, cat.address[1])
                dead |= held
                worker.kill()
                eventually(lambda: cat.children().get(f"worker {slot}", worker).pid != worker.pid)  # noqa: B023
                eventually(lambda: bursts.answered > answered + 64)  # noqa: B023
                assert len(bursts.lost) - lost <= len(held)
        assert set(bursts.lost) <= dead
        for client in idle:
            if port(client) not in dead:
                client.send(CALL)
                assert client.read_response().status == 200
        survivors = sum(port(client) not in dead for client in idle)
        assert survivors >= LONG * (1.0 - 1.4 * 4 / WORKERS)
        # What the killed had counts for nobody, so the replacements get the next ones.
        eventually(holding(cat, survivors), what="the survivors alone")
        for _ in range(LONG - survivors):
            called(cat, stack)
        counts = eventually(holding(cat, LONG), what="32 connections again")
        assert max(counts) / (LONG / WORKERS) <= 1.4, counts


def test_a_stop_amid_hand_overs_loses_nothing(cat: Shadowcat) -> None:
    """All that were accepted before the stop are answered, and none is left in an inbox."""
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(cat.address[1])) for _ in range(3 * LONG)]
        for client in clients:
            client.send(SLOW)
        started = time.monotonic()
        assert cat.stop() == 0
        assert time.monotonic() - started < 10 + SLACK
        assert [client.read_response().status for client in clients] == [200] * len(clients)
    assert "were closed" not in cat.stderr
    assert "was lost" not in cat.stderr
