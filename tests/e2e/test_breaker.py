"""Breakers and ejections through the front door, counted by what the upstreams received."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from mcp.client import Client
from mcp.shared.exceptions import MCPError

from shadowcat.testing.raw_client import RawClient
from tests.e2e import sdk
from tests.e2e.harness import PATIENCE, SLACK, Shadowcat, eventually
from tests.e2e.sessions import Session, exchange, initialize
from tests.e2e.traffic import Answer, Clients, Connection, modern, samples, tool
from tests.e2e.upstreams import Upstream, running

WORKERS = 4
FAILURES = 4
TRIALS = 2
BREAKER = {
    "consecutive_failures": FAILURES,
    "half_open_requests": TRIALS,
    "open_for": "60s",  # Longer than anything takes; who waits for the end of it says how long.
    "min_requests": 1000,
}

Trio = tuple[Upstream, Upstream, Upstream]


@pytest.fixture(scope="module")
def trio() -> Iterator[Trio]:
    three = Upstream("a"), Upstream("b"), Upstream("c")
    with running(*three):
        yield three


@pytest.fixture(autouse=True)
def _fresh(trio: Trio) -> None:
    for upstream in trio:
        upstream.control.clear_faults()
        upstream.control.clear()


def started(*upstreams: Upstream, path: str = "/mcp", **route: Any) -> Shadowcat:
    """With one route, which answers with JSON objects."""
    servers = [{"name": one.name, "url": one.url} for one in upstreams]
    return Shadowcat({"workers": WORKERS, "routes": [{"path": path, "upstreams": servers, **route}]})


def calls(cat: Shadowcat, count: int, name: str = "echo", **arguments: Any) -> list[Any]:
    """Calls one after the other, each over a connection of its own: they reach all workers."""
    data = tool(name, arguments or {"text": "x"}).wire("/mcp")
    return [exchange(cat.address, data) for _ in range(count)]


def received(upstream: Upstream) -> int:
    return len(upstream.seen(method="POST"))


def metric(cat: Shadowcat, name: str, upstream: str = "a") -> float:
    found = samples(cat.admin("/metrics")[1])
    return found[f'shadowcat_{name}{{route="/mcp",upstream="{upstream}"}}']


def opens(cat: Shadowcat, upstream: Upstream, most: int = 20 * WORKERS) -> int:
    """Send calls until the breaker opens; how many the upstream got of them."""
    upstream.control.clear()
    for _ in range(most):
        (answer,) = calls(cat, 1)
        if answer.status == 503 and b"nothing was sent" in answer.body:
            return received(upstream)
    raise AssertionError("the breaker does not open")


def test_it_opens_once_per_host(trio: Trio) -> None:
    upstream = trio[0]
    with started(upstream, breaker=BREAKER) as cat:
        assert metric(cat, "breaker_state") == 0
        upstream.control.add_fault("reset", tool="echo")
        sent = opens(cat, upstream)
        # In a row at one worker; the others may each have seen one less.
        assert FAILURES <= sent <= WORKERS * (FAILURES - 1) + 1
        refused = [answer.status for answer in calls(cat, 12 * WORKERS)]
        assert refused == [503] * 12 * WORKERS
        assert received(upstream) == sent
        assert (metric(cat, "breaker_opened_total"), metric(cat, "breaker_state")) == (1, 1)
        assert cat.stderr.count("its breaker has opened") == 1
        accepted = [worker["connections_accepted"] for worker in cat.status()["workers"]]
        assert min(accepted) > 0
        eventually(lambda: metric(cat, "breaker_refusals_total") >= 12 * WORKERS)


def at_one_worker(cat: Shadowcat, count: int) -> list[int]:
    """The statuses of calls over one connection, so that all of them are counted by the same worker."""
    data = tool("echo", {"text": "x"}).wire("/mcp")
    with RawClient(cat.address[1], timeout=PATIENCE) as client:
        statuses = []
        for _ in range(count):
            client.send(data)
            statuses.append(client.read_response().status)
        return statuses


def test_it_closes_again_by_itself(trio: Trio) -> None:
    upstream = trio[0]
    with started(upstream, breaker=BREAKER | {"open_for": "2s"}) as cat:
        # As many as open it: whenever it is tried again, the upstream answers.
        upstream.control.add_fault("reset", tool="echo", times=FAILURES)
        assert at_one_worker(cat, FAILURES) == [502] * FAILURES
        eventually(lambda: metric(cat, "breaker_opened_total") == 1)
        eventually(lambda: calls(cat, 1)[0].status == 200)
        eventually(lambda: metric(cat, "breaker_state") == 0 or not calls(cat, 1))
        assert {answer.status for answer in calls(cat, 8)} == {200}
        eventually(lambda: "its breaker has closed" in cat.stderr)
        for change in ("its breaker has opened", "its breaker is half-open", "its breaker has closed"):
            assert cat.stderr.count(change) == 1


@pytest.mark.parametrize(
    "fault",
    [
        {"fault": "truncate", "bytes": 10},
        {"fault": "status", "status": 502},
        {"fault": "status", "status": 503},
        {"fault": "hang"},
    ],
    ids=["truncated", "502", "503", "hanging"],
)
def test_every_way_to_fail_opens_it(trio: Trio, fault: dict[str, Any]) -> None:
    upstream = trio[0]
    with started(upstream, breaker=BREAKER, timeouts={"first_byte": "100ms"}, retry={"attempts": 1}) as cat:
        upstream.control.add_fault(**fault)
        asked = modern("tools/list", {}).wire("/mcp")
        statuses: Counter[int] = Counter()
        eventually(
            lambda: (
                statuses.update([exchange(cat.address, asked).status]) or metric(cat, "breaker_state") == 1
            ),
            timeout=20,
        )
        got = received(upstream)
        assert FAILURES <= got <= WORKERS * (FAILURES - 1) + 1
        assert exchange(cat.address, asked).status == 503
        assert received(upstream) == got
        assert metric(cat, "breaker_opened_total") == 1


def test_what_servers_may_do_leaves_it_closed(trio: Trio) -> None:
    upstream = trio[0]
    with (
        started(upstream, breaker=BREAKER, timeouts={"request": "6s", "first_byte": "5s"}) as cat,
        ThreadPoolExecutor(FAILURES + 1) as pool,
    ):
        session = Session.open(cat.address)
        upstream.control.add_fault("status", status=404, rpc="resources/list", body="?")
        upstream.control.add_fault("status", status=500, rpc="prompts/list", body="?")
        upstream.control.add_fault("status", status=503, rpc="initialize", body="full")
        upstream.control.add_fault("refuse_get")
        slow = [pool.submit(calls, cat, 1, "slow", seconds=9) for _ in range(FAILURES + 1)]
        for _ in range(FAILURES + 1):
            assert session.send("GET", {"Accept": "text/event-stream"}).status == 405
            assert exchange(cat.address, modern("resources/list", {}).wire("/mcp")).status == 404
            assert exchange(cat.address, modern("prompts/list", {}).wire("/mcp")).status == 500
            assert initialize(cat.address).status == 503
            assert calls(cat, 1, "error")[0].status == 200
        assert [answer.status for each in slow for answer in each.result()] == [504] * (FAILURES + 1)
        assert (metric(cat, "breaker_opened_total"), metric(cat, "breaker_state")) == (0, 0)
        assert calls(cat, 1)[0].status == 200


class Knocking(Clients):
    """Clients that send the same call again and again, each over fresh connections, to whichever worker."""

    def __init__(self, cat: Shadowcat, clients: int) -> None:
        super().__init__()
        self._address = cat.address
        self._clients = clients
        self.cut_off = 0
        self.let_through: list[Answer] = []
        """Answers that are no refusals."""
        self.under_way = 0
        self.is_quiet = False
        """Whether nothing new is sent."""

    async def _run(self) -> None:
        tasks = [asyncio.create_task(self._client()) for _ in range(self._clients)]
        while not self._end:  # noqa: ASYNC110 - which is set by another thread
            await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _client(self) -> None:
        data = tool("echo", {"text": "x"}).wire("/mcp")
        while True:
            if self.is_quiet:
                await asyncio.sleep(0.01)
                continue
            self.under_way += 1
            with suppress(ConnectionRefusedError):
                async with await Connection.open(self._address) as connection:
                    try:
                        answer = await connection.exchange(data)
                        if answer.status != 503:
                            self.let_through.append(answer)
                    except (OSError, asyncio.IncompleteReadError):
                        self.cut_off += 1
            self.under_way -= 1
            await asyncio.sleep(0.05)


def test_trials_are_bounded_also_when_their_worker_is_killed(trio: Trio) -> None:
    upstream = trio[0]
    with started(upstream, breaker=BREAKER | {"open_for": "20s"}) as cat:
        upstream.control.add_fault("reset", tool="echo")
        opens(cat, upstream)
        upstream.control.clear_faults()
        upstream.control.clear()
        upstream.control.add_fault("hang", tool="echo")
        with Knocking(cat, 4 * WORKERS) as clients:
            for number in range(1, 3):
                timeout = 60 if number == 1 else 15
                eventually(lambda: received(upstream) == number * TRIALS, timeout)  # noqa: B023
                refused = metric(cat, "breaker_refusals_total")
                eventually(lambda: metric(cat, "breaker_refusals_total") > refused + 40)  # noqa: B023
                assert received(upstream) == number * TRIALS
                assert metric(cat, "breaker_state") == 2
                assert clients.cut_off == (number - 1) * TRIALS
                # Somebody holds them: all are killed, and nobody waits for the deadline of the leases.
                clients.is_quiet = True  # Whoever else is under way would be cut off, too.
                eventually(lambda: clients.under_way == TRIALS)
                for name, process in cat.children().items():
                    if name.startswith("worker"):
                        process.kill()
                clients.is_quiet = False
            eventually(lambda: received(upstream) == 3 * TRIALS, timeout=15)
        assert clients.let_through == []
        assert metric(cat, "breaker_opened_total") == 1


def test_an_sdk_client_reads_when_to_come_back(trio: Trio) -> None:
    upstream = trio[0]
    # So long that it is still open when the client calls.
    open_for = 2 + SLACK
    with started(upstream, breaker=BREAKER | {"half_open_requests": 1, "open_for": f"{open_for}s"}) as cat:

        async def use(client: Client) -> None:
            upstream.control.add_fault("reset", tool="echo")
            await asyncio.to_thread(opens, cat, upstream)
            upstream.control.clear_faults()
            upstream.control.clear()
            with pytest.raises(MCPError) as caught:
                await client.call_tool("echo", {"text": "x"})
            error = caught.value.error
            assert error.code == -32603
            assert "a; try again in" in error.message
            assert error.data["upstream"] == "a"
            wait = error.data["retryAfterSeconds"]
            assert 1 <= wait <= open_for
            assert received(upstream) == 0
            await asyncio.sleep(wait)
            assert sdk.text_of(await client.call_tool("echo", {"text": "back"})) == "back"

        sdk.run(f"{cat.url}/mcp", sdk.MODERN, use, timeout=60)


class Calling(Clients):
    """Clients that call a tool over kept connections, with an account of all requests."""

    def __init__(self, cat: Shadowcat, clients: int) -> None:
        super().__init__()
        self._address = cat.address
        self.requests: list[list[tuple[float, Answer]]] = [[] for _ in range(clients)]
        """Of each client: when each one was sent, on the monotonic clock, and what came of it."""
        self.answered = 0

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for requests in self.requests:
                group.create_task(self._client(requests))

    async def _client(self, requests: list[tuple[float, Answer]]) -> None:
        data = tool("slow", {"seconds": 0.05}).wire("/mcp")
        async with await Connection.open(self._address) as connection:
            while not self._end:
                began = time.monotonic()
                answer = await connection.exchange(data)
                requests.append((began, answer))
                self.answered += answer.status == 200


def test_one_of_three_that_dies_under_load_costs_what_was_in_flight(trio: Trio) -> None:
    victim = Upstream("victim")
    with victim, started(victim, *trio[1:], breaker=BREAKER) as cat, Calling(cat, 12) as clients:
        eventually(lambda: clients.answered > 100)
        eventually(lambda: len(victim.seen(outcome=None)) > 1, what="requests in flight")
        victim.kill()
        dead = time.monotonic()
        answered = clients.answered
        eventually(lambda: clients.answered > answered + 200)
        assert {metric(cat, "breaker_state", name) for name in "bc"} == {0}
    failures = [answer for requests in clients.requests for _, answer in requests if answer.status != 200]
    assert 0 < len(failures) < 12
    for answer in failures:
        assert (answer.status, b"closed before answering: victim" in answer.body) == (502, True)
    # Who has just lost a request may lose the next one, too: its worker may read that one before it hears of
    # the end of the other connections, or with it, however late that is. Once it has answered a request that
    # was sent when they all had ended, it knows.
    for requests in clients.requests:
        later = [answer.status for began, answer in requests if began >= dead]
        assert set(later[1:]) <= {200}


# Ejections


OUTLIER = {
    "consecutive_failures": 3,
    "interval": "1s",
    "min_requests": 5,
    "ejection_time": "60s",  # Longer than anything takes.
    "max_ejection_time": "60s",
}
# A machine that stands still for a second makes whoever is asked just then slow: one more to be ejected.
NEVER_SLOW = {"min_latency": "30s"}
FOR_A_WHILE = OUTLIER | {"ejection_time": "2s", "max_ejection_time": "8s"}


def shares(cat: Shadowcat, trio: Trio, count: int = 30) -> list[int]:
    for upstream in trio:
        upstream.control.clear()
    calls(cat, count)
    return [received(upstream) for upstream in trio]


def test_one_that_fails_gets_nothing_new(trio: Trio) -> None:
    outlier = OUTLIER | NEVER_SLOW
    with started(*trio, outlier=outlier, balance={"strategy": "round_robin"}, retry={"attempts": 1}) as cat:
        session = next(
            one for one in iter(lambda: Session.open(cat.address), None) if one.whoami()["server"] == "a"
        )
        trio[0].control.add_fault("status", status=502, tool="echo")
        eventually(lambda: calls(cat, 3) and metric(cat, "upstream_ejections_total") == 1)
        assert metric(cat, "upstream_ejected") == 1
        trio[0].control.clear_faults()
        first, *others = shares(cat, trio)
        assert first == 0
        assert min(others) > 0
        # Its sessions stay.
        assert session.whoami()["server"] == "a"
        assert cat.stderr.count("upstream a: nothing new for 60 s: 3 failures in a row") == 1


def test_one_that_has_failed_is_tried_again_after_a_while(trio: Trio) -> None:
    outlier = FOR_A_WHILE | NEVER_SLOW
    with started(*trio, outlier=outlier, balance={"strategy": "round_robin"}, retry={"attempts": 1}) as cat:
        # As many failures as eject it, at the worker that counts them: whenever it comes back, it answers.
        trio[0].control.add_fault("status", status=502, tool="echo", times=3)
        assert Counter(at_one_worker(cat, 9)) == {502: 3, 200: 6}
        eventually(lambda: metric(cat, "upstream_ejections_total") == 1)
        eventually(lambda: shares(cat, trio, 12)[0] > 0)
        assert metric(cat, "upstream_ejected") == 0
        assert cat.stderr.count("upstream a: nothing new for 2 s: 3 failures in a row") == 1


def test_one_that_is_slow_gets_nothing_new(trio: Trio) -> None:
    with started(*trio, outlier=OUTLIER, balance={"strategy": "round_robin"}) as cat:
        trio[1].control.add_fault("delay", tool="echo", seconds=0.15)
        eventually(lambda: calls(cat, 6) and metric(cat, "upstream_ejected", "b") == 1, timeout=20)
        assert shares(cat, trio, 12)[1] == 0
        told = re.search(r"upstream b: nothing new for 60 s: it takes ([0-9.]+) s on average", cat.stderr)
        assert told is not None
        assert float(told[1]) >= 0.14
        document = json.loads(cat.admin("/api/status")[1])
        means = [one["mean_response_seconds"] for one in document["routes"][0]["upstreams"]]
        assert means[1] > max(means[0], means[2])


def test_one_that_was_slow_is_tried_again_after_a_while(trio: Trio) -> None:
    with started(*trio, outlier=FOR_A_WHILE, balance={"strategy": "round_robin"}) as cat:
        trio[1].control.add_fault("delay", tool="echo", seconds=0.15)
        eventually(lambda: calls(cat, 6) and metric(cat, "upstream_ejections_total", "b") > 0, timeout=20)
        trio[1].control.clear_faults()
        eventually(lambda: shares(cat, trio, 12)[1] > 0)
