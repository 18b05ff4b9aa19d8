"""Connections to an upstream, as the upstream counts them: never more than the host may have, and renewed."""

from __future__ import annotations

import asyncio
import json
import signal
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any

import psutil
import pytest

from tests.e2e.counting import CountingUpstream
from tests.e2e.harness import Shadowcat, eventually, post
from tests.e2e.load import BODY
from tests.e2e.traffic import Answer, Connection, Traffic, client_ports, samples, tool

CALLS = 50


def call(cat: Shadowcat) -> tuple[int, bytes]:
    """One call over a fresh connection."""
    return post(cat.address, "/mcp", BODY, 30)


def workers_of(cat: Shadowcat) -> list[psutil.Process]:
    return [process for name, process in cat.children().items() if name.startswith("worker")]


def reconfigure(cat: Shadowcat, config: dict[str, Any]) -> None:
    """Have it read another configuration."""
    common = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"}
    cat._config.write_text(json.dumps(common | config))
    cat.signal(signal.SIGHUP)


def waiting(cat: Shadowcat) -> float:
    """Requests that wait for a connection, as the metrics page says."""
    return sum(
        value
        for name, value in samples(cat.admin("/metrics")[1]).items()
        if name.startswith("shadowcat_pool_queue{")
    )


async def calls_over(
    cat: Shadowcat, worker: psutil.Process, count: int, upstream: CountingUpstream
) -> list[Answer]:
    """So many calls at once, all of them over connections to one worker; answered when five have come."""
    async with AsyncExitStack() as stack:
        mine: list[Connection] = []
        for _ in range(40 * count):
            connection = await stack.enter_async_context(await Connection.open(cat.address))
            await connection.exchange(tool("echo", {"text": "where am I"}).wire("/mcp"))
            if connection.port in client_ports(worker, cat.address[1]):
                mine.append(connection)
            if len(mine) == count:
                break
        assert len(mine) == count
        wire = tool("echo", {"text": "all at once"}).wire("/mcp")
        upstream.most_requests = 0
        upstream.hold()
        answers = asyncio.gather(*(connection.exchange(wire) for connection in mine))
        await asyncio.to_thread(eventually, lambda: upstream.most_requests == 5, what="five calls")
        upstream.release()
        return await answers


@pytest.mark.parametrize(("limit", "workers"), [(5, 4), (2, 4)])
def test_the_bound_is_for_all_workers_together(limit: int, workers: int) -> None:
    with CountingUpstream(0.05, held=True) as upstream:
        config = upstream.route(max_connections=limit, queue_timeout="20s") | {"workers": workers}
        with Shadowcat(config) as cat, ThreadPoolExecutor(CALLS) as pool:
            calls = [pool.submit(call, cat) for _ in range(CALLS)]
            eventually(lambda: upstream.most_requests == limit, what="as many as are allowed")
            upstream.release()
            assert [each.result(30) for each in calls] == [(200, BODY)] * CALLS
            # All of what is allowed was used, and no more.
            assert (upstream.most, upstream.most_requests) == (limit, limit)
            assert upstream.requests == CALLS


def test_one_worker_can_have_all_of_it() -> None:
    with CountingUpstream(0.05) as upstream:
        config = upstream.route(max_connections=5, queue_timeout="20s") | {"workers": 4}
        with Shadowcat(config) as cat:
            for worker in workers_of(cat)[:2]:  # The second one gets what the first one leaves idle.
                answers = asyncio.run(calls_over(cat, worker, 12, upstream))
                assert {answer.status for answer in answers} == {200}
                assert (upstream.most, upstream.most_requests) == (5, 5)


def test_what_a_killed_worker_had_is_free_again() -> None:
    with CountingUpstream(held=True) as upstream:
        config = upstream.route(max_connections=3, queue_timeout="20s") | {"workers": 2}
        with Shadowcat(config) as cat, ThreadPoolExecutor(16) as pool:

            def one() -> tuple[int, bytes]:
                try:
                    return call(cat)
                except OSError:
                    return 0, b""

            calls: list[Future[tuple[int, bytes]]] = [pool.submit(one) for _ in range(12)]
            eventually(lambda: waiting(cat) == 9, what="the queue")
            # For the other three connections were being opened, or are there.
            eventually(lambda: upstream.requests == 3, what="the calls that take all connections")
            assert upstream.open == 3
            killed = max(workers_of(cat), key=lambda each: len(_to_upstream(each, upstream)))
            killed.kill()
            upstream.release()
            outcomes = [each.result(30) for each in calls]
            assert set(outcomes) == {(200, BODY), (0, b"")}
            assert upstream.most == 3
            # All of them, by whichever worker.
            upstream.most_requests = 0
            upstream.hold()
            calls = [pool.submit(call, cat) for _ in range(12)]
            eventually(lambda: upstream.most_requests == 3, what="three calls")
            upstream.release()
            assert [each.result(30) for each in calls] == [(200, BODY)] * 12
            assert (upstream.most, upstream.most_requests) == (3, 3)


def _to_upstream(worker: psutil.Process, upstream: CountingUpstream) -> list[Any]:
    port = int(upstream.url.rpartition(":")[2].partition("/")[0])
    return [each for each in worker.net_connections("tcp") if each.raddr and each.raddr.port == port]


def test_who_waits_too_long_is_told_when_to_come_again() -> None:
    with CountingUpstream(held=True) as upstream:
        config = upstream.route(max_connections=2, queue_timeout="300ms") | {"workers": 2}
        with Shadowcat(config) as cat, ThreadPoolExecutor(2) as pool:
            held = [pool.submit(call, cat) for _ in range(2)]
            eventually(lambda: upstream.requests == 2, what="the calls that take both connections")

            async def late() -> Answer:
                async with await Connection.open(cat.address) as connection:
                    return await connection.exchange(tool("echo", {"text": "late"}, "seven").wire("/mcp"))

            answer = asyncio.run(late())
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            error = json.loads(answer.body)
            assert (error["id"], error["error"]["code"]) == ("seven", -32603)
            assert error["error"]["data"]["retryAfterSeconds"] == 1
            assert error["error"]["message"].endswith(": u")
            upstream.release()
            assert [each.result(10) for each in held] == [(200, BODY)] * 2
            label = '{route="/mcp",upstream="u"}'
            page = samples(cat.admin("/metrics")[1])
            assert page[f"shadowcat_pool_queue_timeouts_total{label}"] == 1


def test_a_queue_has_an_end() -> None:
    with CountingUpstream(held=True) as upstream:
        config = upstream.route(max_connections=1, max_queue=3, queue_timeout="20s") | {"workers": 1}
        with Shadowcat(config) as cat, ThreadPoolExecutor(6) as pool:
            first = pool.submit(call, cat)
            eventually(lambda: upstream.requests == 1, what="the call that takes the connection")
            others = [pool.submit(call, cat) for _ in range(5)]
            eventually(lambda: sum(each.done() for each in others) == 2, what="two refusals")
            assert [each.result()[0] for each in others if each.done()] == [503, 503]
            upstream.release()
            assert first.result(10)[0] == 200
            assert sorted(each.result(10)[0] for each in others) == [200, 200, 200, 503, 503]


def test_connections_are_renewed_under_load() -> None:
    with CountingUpstream() as upstream:
        config = upstream.route(max_age="300ms", max_connections=4) | {"workers": 2}
        with Shadowcat(config) as cat, Traffic(cat.address) as traffic:
            eventually(lambda: upstream.connections >= 20, timeout=20, what="new connections")
            eventually(lambda: traffic.answered >= 500, timeout=20, what="many calls")
        assert set(traffic.outcomes) == {"answered"}, traffic.failures
        assert upstream.most <= 4


def test_another_credential_under_load() -> None:
    """All connections are replaced; no request fails, and none is lost between the two."""
    with CountingUpstream(0.002) as upstream:
        config = upstream.route(max_connections=6) | {"workers": 2}
        with Shadowcat(config) as cat, Traffic(cat.address) as traffic:
            for number in range(1, 4):
                before = upstream.connections
                key = b"x-key: %d\r\n" % number
                config["routes"][0]["upstreams"][0]["credential"] = {"headers": {"x-key": str(number)}}
                reconfigure(cat, config)
                eventually(
                    lambda key=key: sum(key in head for head in upstream.fields[-50:]) == 50,  # type: ignore[misc]
                    what=f"credential {number} in all requests",
                )
                eventually(lambda before=before: upstream.connections >= before + 2, what="new connections")  # type: ignore[misc]
        assert set(traffic.outcomes) == {"answered"}, traffic.failures
        assert upstream.most <= 6
