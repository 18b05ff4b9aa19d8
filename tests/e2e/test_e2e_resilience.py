"""Everything that dies, hangs or stops under load, and what clients see of it: nothing, or a clear answer."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from shadowcat.testing.mock_mcp.client import MockProcess
from shadowcat.testing.raw_client import RawClient
from shadowcat.testing.wire import PeerClosedError, PeerResetError
from tests.e2e.harness import SLACK, EchoUpstream, Shadowcat, eventually, post
from tests.e2e.traffic import (
    Connection,
    Message,
    Traffic,
    client_ports,
    ended,
    initialize,
    legacy,
    modern,
    request,
    samples,
    tool,
)
from tests.e2e.traffic import totals as counters
from tests.e2e.upstreams import Upstream

SLOW = 4.0
"""Seconds that requests take which must not be over before the next thing happens."""


@pytest.fixture(scope="module")
def echo() -> Iterator[EchoUpstream]:
    with EchoUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def mock() -> Iterator[MockProcess]:
    with MockProcess("--name=victim") as process:
        yield process


def config(echo: EchoUpstream, mock_url: str | None = None) -> dict[str, Any]:
    """/mcp echoes; the SDK server is at /sdk, at /idle, where it has connections of its own, and, with short
    waits, at /hasty.
    """
    routes: list[dict[str, Any]] = [{"path": "/mcp", "upstreams": [{"name": "echo", "url": echo.url}]}]
    if mock_url:
        upstreams = [{"name": "victim", "url": mock_url}]
        hasty = {"request": "600ms", "first_byte": "300ms"}
        routes += [
            {"path": "/sdk", "upstreams": upstreams},
            {"path": "/idle", "upstreams": upstreams},
            {"path": "/hasty", "upstreams": upstreams, "timeouts": hasty},
        ]
    return {"routes": routes}


@pytest.fixture(scope="module")
def shared_cat(echo: EchoUpstream, mock: MockProcess) -> Iterator[Shadowcat]:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, and nobody listens
        upstream = {"name": "nobody", "url": f"http://127.0.0.1:{nobody.getsockname()[1]}/mcp"}
        routes = [*config(echo, mock.url)["routes"], {"path": "/nobody", "upstreams": [upstream]}]
        with Shadowcat({"routes": routes}) as running:
            yield running


def send(cat: Shadowcat, path: str, message: Message, timeout: float = 10.0) -> tuple[int, Any]:
    status, body = post(cat.address, path, message.body, timeout, **message.headers)
    return status, json.loads(body)


def metrics(cat: Shadowcat) -> dict[str, float]:
    return samples(cat.admin("/metrics")[1])


def totals(cat: Shadowcat) -> dict[str, float]:
    return counters(cat.admin("/metrics")[1])


def light_traffic(cat: Shadowcat) -> Traffic:
    """Where it matters that every request is answered and not how many there are: what starts meanwhile
    gets a share of the CPUs.
    """
    return Traffic(cat.address, kept=3, fresh=1)


# Our own processes


def test_killed_worker_takes_only_its_own_connections_with_it(echo: EchoUpstream) -> None:
    with Shadowcat(config(echo)) as cat:
        started = time.monotonic()
        with Traffic(cat.address, kept=16, fresh=4) as traffic:
            eventually(lambda: traffic.answered > 300)
            before = totals(cat)
            worker = cat.children()["worker 0"]
            worker.suspend()  # so that the list is exact
            lost = client_ports(worker, cat.address[1])
            worker.kill()
            killed = time.monotonic()
            eventually(
                lambda: (
                    cat.status()["workers"][0]["state"] == "ready"
                    and cat.status()["workers"][0]["pid"] != worker.pid
                ),
                what="slot 0 is served again",
            )
            assert time.monotonic() - killed < 1.0 + SLACK
            answered = traffic.answered
            eventually(lambda: traffic.answered > answered + 300)
            after = totals(cat)
        assert set(traffic.outcomes) <= {"answered", "lost"}, traffic.failures
        assert {failure.port for failure in traffic.failures} <= lost
        assert traffic.outcomes["lost"] <= len(lost)
        # REUSEPORT deals 16 kept connections to both workers.
        assert 0 < traffic.outcomes["lost"] < 20
        assert {name: value for name, value in before.items() if after[name] < value} == {}
        # What a worker has counted since its last tick dies with it.
        unpublished = 0.2 * traffic.answered / (time.monotonic() - started)
        least = traffic.answered - unpublished - 1
        served = 'shadowcat_requests_total{route="/mcp",status="200"}'
        # The others' last counts come with a tick.
        final = eventually(
            lambda: not in_flight(cat) and (found := totals(cat))[served] >= least and found,
            what=f"{least} of {traffic.answered} requests in the metrics",
        )
        assert final[served] <= traffic.answered + len(lost)
        assert final['shadowcat_process_restarts_total{process="worker",worker="0"}'] == 1


def in_flight(cat: Shadowcat) -> int:
    return sum(worker["in_flight"] for worker in cat.status()["workers"])


def test_control_killed_again_and_again_fails_no_request(echo: EchoUpstream) -> None:
    with Shadowcat(config(echo)) as cat, light_traffic(cat) as traffic:
        before: dict[str, float] = {}
        for _ in range(3):
            answered = traffic.answered
            control = cat.children()["control"]
            control.kill()
            eventually(lambda: traffic.answered > answered + 100)  # noqa: B023
            eventually(lambda: cat.children().get("control", control).pid != control.pid)  # noqa: B023
            now = eventually(lambda: reachable(lambda: totals(cat)), what="the new control's metrics")
            assert {name: value for name, value in before.items() if now[name] < value} == {}
            before = now
        assert cat.admin("/readyz")[0] == 200
    assert set(traffic.outcomes) == {"answered"}, traffic.failures


def reachable(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except OSError:
        return None


def test_killed_supervisor_leaves_nothing_running(echo: EchoUpstream) -> None:
    with Shadowcat(config(echo)) as cat:
        with Traffic(cat.address) as traffic:
            eventually(lambda: traffic.answered > 100)
            family = list(cat.children().values())
            assert len(family) == 3
            cat.signal(signal.SIGKILL)
            cat.wait()
            eventually(lambda: all(map(ended, family)), timeout=2.0 + SLACK, what="the children's end")
        for address in (cat.address, ("127.0.0.1", int(cat.ready["admin"].rpartition(":")[2]))):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address, timeout=5)


def test_sigterm_under_load_answers_every_request_that_was_begun(
    echo: EchoUpstream, mock: MockProcess
) -> None:
    with Shadowcat(config(echo, mock.url) | {"drain_timeout": "40s"}) as cat, ExitStack() as stack:
        open_client = lambda: stack.enter_context(RawClient(cat.address[1]))  # noqa: E731
        running = mock.control.state()["running"]

        first = open_client()
        first.send(initialize().wire("/sdk"))
        session = first.read_response().header("mcp-session-id")
        assert session is not None
        first.send(legacy("notifications/initialized", {}, session, rpc_id=None).wire("/sdk"))
        assert first.read_response().status == 202

        stream = open_client()
        stream.send(request("/sdk", {"Accept": "text/event-stream", "Mcp-Session-Id": session}, method="GET"))
        assert stream.read_head("GET").status == 200
        slow = [open_client() for _ in range(8)]
        for number, client in enumerate(slow):
            era = session if number % 2 else None
            client.send(tool("slow", {"seconds": SLOW}, 100 + number, era).wire("/sdk"))
        progress = open_client()
        message = tool("stream", {"count": 5, "interval": SLOW / 5}, 7)
        asked = json.loads(message.body)
        asked["params"]["_meta"]["progressToken"] = "p"
        progress.send(Message(message.headers, json.dumps(asked).encode()).wire("/sdk"))
        eventually(lambda: mock.control.state()["running"] == running + 9)

        with Traffic(cat.address) as traffic:
            eventually(lambda: traffic.answered > 100)
            began = time.monotonic()
            cat.signal(signal.SIGTERM)
            # The stream ends with its last chunk, so that its client opens it elsewhere.
            assert all(chunk.startswith(b":") or b"data:" in chunk for chunk in stream.read_chunks())
            stream.expect_end()
            assert time.monotonic() - began < 1.0 + SLACK
            for number, client in enumerate(slow):
                response = client.read_response()
                # A legacy call's stream had begun before, with a head that could not know.
                close = None if number % 2 else "close"
                assert (response.status, response.header("connection")) == (200, close)
                assert f'"id":{100 + number}'.encode() in response.body
                assert f"waited {SLOW} s".encode() in response.body
                client.expect_end()
            response = progress.read_response()
            assert response.status == 200
            assert response.body.count(b'"progressToken":"p"') == 5
            assert b"sent 5" in response.body
            progress.close()  # it would be given a second for another request
            assert cat.wait() == 0
            assert time.monotonic() - began < SLOW + 5.0 + SLACK
        # Every client went on until it was refused; nothing that was sent stayed without its answer.
        assert set(traffic.outcomes) == {"answered", "refused"}, traffic.failures
        assert traffic.outcomes["refused"] == 16
        assert "cut off" not in cat.stderr


# Upstreams


def test_refused_upstream(shared_cat: Shadowcat) -> None:
    cat, refusals = shared_cat, 'shadowcat_refusals_total{reason="connect_failed"}'
    before = metrics(cat)[refusals]
    with light_traffic(cat) as traffic:
        for rpc_id in (41, "é", None):
            for message in (tool("echo", {"text": "x"}, rpc_id), modern("tools/list", {}, rpc_id)):
                status, answer = send(cat, "/nobody", message)
                assert status == 502
                assert answer["error"]["code"] == -32603
                assert "connection refused" in answer["error"]["message"]
                assert answer.get("id") == rpc_id
        assert metrics(cat)[refusals] - before == 6
        answered = traffic.answered
        eventually(lambda: traffic.answered > answered + 20)
    assert set(traffic.outcomes) == {"answered"}, traffic.failures


def test_spoilt_answers_are_clear_and_disturb_nobody(shared_cat: Shadowcat, mock: MockProcess) -> None:
    cat, control = shared_cat, mock.control
    call = tool("echo", {"text": "x"}, 41)
    with light_traffic(cat) as traffic:
        control.add_fault("reset", times=1, tool="echo")
        status, answer = send(cat, "/sdk", call)
        assert (status, answer["id"], answer["error"]["code"]) == (502, 41, -32603)
        assert "closed before answering: victim" in answer["error"]["message"]

        # A call is not sent twice; a list is, since it can do no harm.
        control.clear()
        control.add_fault("reset", times=1, rpc="tools/list")
        status, answer = send(cat, "/sdk", modern("tools/list", {}, 42))
        assert (status, answer["id"]) == (200, 42)
        assert len(control.requests()) == 2

        for message, bound in ((call, 0.6), (modern("tools/list", {}, 41), 0.3)):
            control.add_fault("hang", times=1)
            began = time.monotonic()
            status, answer = send(cat, "/hasty", message)
            assert bound - 0.05 < time.monotonic() - began < bound + 1 + SLACK
            assert (status, answer["id"], answer["error"]["code"]) == (504, 41, -32603)
            # Where the time was over before the request had got to the server, nobody has met with the fault.
            control.clear_faults()

        # A part of an answer must not look like the whole, however it ended; a small one has not gone out.
        for kind in ("truncate", "reset"):
            control.add_fault(kind, times=1, bytes=10)
            status, answer = send(cat, "/sdk/json", tool("stream", {"count": 1}, 41))
            assert (status, answer["id"], answer["error"]["code"]) == (502, 41, -32603)
            control.add_fault(kind, times=1, bytes=30_000)
            with RawClient(cat.address[1]) as client:
                client.send(tool("big", {"size": 100_000}, 41).wire("/sdk/json"))
                try:
                    response = client.read_response()
                except (PeerClosedError, PeerResetError):
                    continue
                # A reset destroys what was not read yet, which may be all of the answer.
                assert (kind, response.status) == ("reset", 502)

        for fault, expected in (
            ({"fault": "status", "status": 503, "headers": {"Retry-After": "7"}}, (503, b"injected fault\n")),
            ({"fault": "status", "status": 500}, (500, b"injected fault\n")),
            ({"fault": "bad_json"}, (200, b'{"jsonrpc":"2.0","id":1,"result":{"con')),
        ):
            control.add_fault(**fault, times=1)
            with RawClient(cat.address[1]) as client:
                client.send(call.wire("/sdk"))
                response = client.read_response()
                assert (response.status, response.body) == expected
                assert response.header("retry-after") == fault.get("headers", {}).get("Retry-After")
        assert send(cat, "/sdk", call)[0] == 200
        answered = traffic.answered
        eventually(lambda: traffic.answered > answered + 20)
    control.clear_faults()
    assert set(traffic.outcomes) == {"answered"}, traffic.failures


def test_connection_closed_by_an_idle_upstream_costs_no_request(
    shared_cat: Shadowcat, mock: MockProcess
) -> None:
    mock.control.add_fault("close_idle", seconds=0.02)

    def open_connections() -> float:
        """Those to the upstream, as far as the proxy knows."""
        page, labels = metrics(shared_cat), '{route="/idle",upstream="victim"}'
        return page[f"shadowcat_pool_dials_total{labels}"] - page[f"shadowcat_pool_closed_total{labels}"]

    async def calls() -> None:
        async with await Connection.open(shared_cat.address) as connection:
            for number in range(30):
                # Now and then just when the upstream closes: then a list is asked for again.
                answer = await connection.exchange(modern("tools/list", {}, number).wire("/idle/json"))
                assert (answer.status, answer.json["id"]) == (200, number)
                await asyncio.sleep(0.018 + number % 5 * 0.001)
            for number in range(5):
                # A call is sent once, so it must not meet a connection that is known to be closed.
                await asyncio.to_thread(
                    eventually, lambda: open_connections() == 0, what="the end of the pool"
                )
                message = tool("echo", {"text": str(number)}, number)
                assert (await connection.exchange(message.wire("/idle/json"))).status == 200

    asyncio.run(calls())
    mock.control.clear_faults()


def test_killed_upstream_gives_clear_errors_and_comes_back(echo: EchoUpstream) -> None:
    with ExitStack() as stack:
        upstream = stack.enter_context(Upstream("victim"))
        cat = stack.enter_context(Shadowcat(config(echo, upstream.url)))
        traffic = stack.enter_context(light_traffic(cat))
        clients = {rpc_id: stack.enter_context(RawClient(cat.address[1])) for rpc_id in (41, "open", "sse")}
        clients[41].send(tool("slow", {"seconds": 30}, 41).wire("/sdk/sse"))
        clients["open"].send(tool("slow", {"seconds": 30}, "open").wire("/sdk/sse"))
        streaming = tool("stream", {"count": 1000, "interval": 0.01}, "sse")
        asked = json.loads(streaming.body)
        asked["params"]["_meta"]["progressToken"] = 1
        clients["sse"].send(Message(streaming.headers, json.dumps(asked).encode()).wire("/sdk/sse"))
        assert clients["sse"].read_head().header("content-type") == "text/event-stream"
        assert b"progress" in clients["sse"].read_chunk()
        eventually(lambda: upstream.control.state()["running"] == 3)
        upstream.kill()
        for rpc_id in (41, "open"):
            response = clients[rpc_id].read_response()
            error = json.loads(response.body)
            assert (response.status, error["id"], error["error"]["code"]) == (502, rpc_id, -32603)
        # What had begun is cut off: it must not look complete.
        with pytest.raises((PeerClosedError, PeerResetError)):
            list(clients["sse"].read_chunks())
        for method in ("tools/list", "tools/call"):
            began = time.monotonic()
            status, answer = send(cat, "/sdk", modern(method, {"name": "echo"}, method))
            assert time.monotonic() - began < 1.0 + SLACK
            assert (status, answer["id"]) == (502, method)
            assert "connection refused" in answer["error"]["message"]
        # The connection that was answered with an error goes on, and serves again with the upstream.
        upstream.start()
        clients[41].send(tool("echo", {"text": "back"}, 43).wire("/sdk"))
        response = clients[41].read_response()
        assert (response.status, json.loads(response.body)["id"]) == (200, 43)
        answered = traffic.answered
        eventually(lambda: traffic.answered > answered + 20)
        assert set(traffic.outcomes) == {"answered"}, traffic.failures
