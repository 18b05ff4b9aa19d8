"""Connections to upstreams: reuse, staleness, dials, the bound on their number."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from shadowcat.proxy.upstreams.dial import Dialer
from shadowcat.testing.script import Close, Receive, Wait
from shadowcat.testing.scripted import ScriptedUpstream, refused_port
from shadowcat.testing.wire import request, response

from .conftest import Serve
from .test_relay import CALL, ECHO, body_named
from .test_upstream_faults import LIST


def test_the_last_used_connection_is_taken_first(serve: Serve) -> None:
    gate = threading.Event()
    held = [Receive(), Wait(gate), response(200, b"{}"), *ECHO]
    with ScriptedUpstream(held, ECHO) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as first, proxy.client() as second:
            first.send(request(body=CALL))
            upstream.wait_for_requests(1)
            second.send(request(body=CALL))
            assert second.read_response().body == CALL
            gate.set()
            assert first.read_response().body == b"{}"
            for _ in range(3):
                second.send(request(body=CALL))
                assert second.read_response().body == CALL
        assert [got.connection for got in upstream.requests] == [0, 1, 0, 0, 0]


def test_an_idle_connection_that_closed_is_not_used(serve: Serve) -> None:
    with ScriptedUpstream([Receive(), response(200, b"{}"), Close()], ECHO) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            client.send(request(body=CALL))
            assert client.read_response().body == b"{}"
            proxy.wait_until(lambda: proxy.pooled() == 0, "the end of the idle connection")
            client.send(request(body=CALL))
            assert client.read_response().body == CALL


@pytest.mark.parametrize(("body", "statuses"), [(LIST, {200}), (CALL, {200, 502})])
def test_a_connection_that_closes_under_the_request(serve: Serve, body: bytes, statuses: set[int]) -> None:
    """The upstream's FIN and the next request cross: both are there when the proxy looks."""
    gate = threading.Event()
    with ScriptedUpstream([Receive(), response(200, b"{}"), Wait(gate), Close()], each=ECHO) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            client.send(request(body=body))
            assert client.read_response().status == 200
            with proxy.held():
                client.send(request(body=body))
                gate.set()
                upstream.wait_for_end(0)
            assert client.read_response().status in statuses
        assert len(upstream.requests) <= 2


def test_idle_connections_are_closed(serve: Serve) -> None:
    with ScriptedUpstream(each=ECHO) as upstream:
        proxy = serve(f"{upstream.url}/mcp", pool={"idle_timeout": 20})
        with proxy.client() as client:
            client.send(request(body=CALL))
            assert client.read_response().status == 200
            proxy.advance(15)
            assert proxy.pooled() == 1
            proxy.advance(6)
            assert upstream.wait_for_end(0) in ("peer closed", "peer reset")
            client.send(request(body=CALL))
            assert client.read_response().status == 200
        assert len(upstream.connections) == 2


def test_the_upstreams_own_keep_alive_is_respected(serve: Serve) -> None:
    def answer(seconds: int) -> bytes:
        return response(200, b"{}", headers=[("Keep-Alive", f"timeout={seconds}, max=100")])

    with ScriptedUpstream([Receive(), answer(1)], [Receive(), answer(2), *ECHO]) as upstream:
        proxy = serve(f"{upstream.url}/mcp", pool={"idle_timeout": 30})
        with proxy.client() as client:
            client.send(request(body=CALL))
            assert client.read_response().header("Keep-Alive") is None
            # 1 s less a second is no time at all.
            assert upstream.wait_for_end(0, timeout=8) in ("peer closed", "peer reset")
            client.send(request(body=CALL))
            assert client.read_response().status == 200
            assert upstream.wait_for_end(1, timeout=8) in ("peer closed", "peer reset")


def test_a_connection_that_is_not_kept_is_closed(serve: Serve) -> None:
    last = response(200, b"{}", headers=[("Connection", "close")])
    with ScriptedUpstream(each=[Receive(), last]) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            for _ in range(2):
                client.send(request(body=CALL))
                assert client.read_response().header("Connection") is None
            assert upstream.wait_for_end(0) == "peer closed"
        assert [got.connection for got in upstream.requests] == [0, 1]


def test_a_free_connection_serves_the_queue_before_the_dial_does(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    gates = [threading.Event(), threading.Event()]
    dial = Dialer.dial
    dials = 0

    async def slow_second_dial(self: Dialer, factory: Callable[[], asyncio.Protocol]) -> None:
        nonlocal dials
        dials += 1
        if dials == 2:
            await asyncio.to_thread(gates[1].wait, 5)
        await dial(self, factory)

    monkeypatch.setattr(Dialer, "dial", slow_second_dial)
    with ScriptedUpstream([Receive(), Wait(gates[0]), response(200, b"{}"), *ECHO], each=ECHO) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as first, proxy.client() as second:
            first.send(request(body=CALL))
            upstream.wait_for_requests(1)
            second.send(request(body=CALL))
            proxy.wait_until(lambda: dials == 2, "the second dial")
            gates[0].set()
            assert first.read_response().body == b"{}"
            assert second.read_response().body == CALL
            gates[1].set()
            proxy.wait_until(lambda: proxy.pooled() == 2, "the connection that was dialled")
        assert [got.connection for got in upstream.requests] == [0, 0]


def test_the_bound_on_connections(serve: Serve) -> None:
    gate = threading.Event()
    held = [Receive(), Wait(gate), lambda got: response(200, got.body), *ECHO]
    with ScriptedUpstream(held, held) as upstream:
        proxy = serve(f"{upstream.url}/mcp", pool={"max_connections": 2, "queue_timeout": 5})
        clients = [proxy.client() for _ in range(6)]
        for number, client in enumerate(clients):
            client.send(request(body=body_named(str(number))))
        upstream.wait_for_requests(2)
        proxy.wait_until(lambda: proxy.pool_metric("pool_queue") == 4, "the queue")
        assert len(upstream.requests) == 2
        gate.set()
        for number, client in enumerate(clients):
            assert client.read_response().body == body_named(str(number))
            client.close()
        assert len(upstream.connections) == 2


def test_the_queue_has_a_time_limit(serve: Serve) -> None:
    gate = threading.Event()
    with ScriptedUpstream([Receive(), Wait(gate), response(200, b"{}"), *ECHO]) as upstream:
        proxy = serve(f"{upstream.url}/mcp", pool={"max_connections": 1, "queue_timeout": 20})
        with proxy.client() as first, proxy.client() as second:
            first.send(request(body=CALL))
            upstream.wait_for_requests(1)
            second.send(request(body=CALL))
            proxy.wait_until(lambda: proxy.metric("requests_in_flight", "/mcp") == 2, "the second request")
            proxy.advance(15)
            second.expect_silence(0.02)
            proxy.advance(6)
            answer = second.read_response()
            assert answer.status == 503
            assert answer.header("Retry-After") == "1"
            assert b'"id":7' in answer.body
            assert b'"retryAfterSeconds":1' in answer.body
            gate.set()
            assert first.read_response().status == 200
            second.send(request(body=CALL))
            assert second.read_response().status == 200


def test_who_leaves_the_queue_is_not_served(serve: Serve) -> None:
    gate = threading.Event()
    with ScriptedUpstream([Receive(), Wait(gate), response(200, b"{}"), *ECHO]) as upstream:
        proxy = serve(f"{upstream.url}/mcp", pool={"max_connections": 1})
        with proxy.client() as first:
            first.send(request(body=CALL))
            upstream.wait_for_requests(1)
            second = proxy.client()
            second.send(request(body=body_named("gone")))
            proxy.wait_until(lambda: proxy.pool_metric("pool_queue") == 1, "the queue")
            second.reset()
            proxy.wait_until(lambda: proxy.pool_metric("pool_queue") == 0, "an empty queue")
            gate.set()
            assert first.read_response().status == 200
        assert [got.body for got in upstream.requests] == [CALL]


def test_no_exchange_is_stranded_by_a_dial_that_completes(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected, release = threading.Event(), threading.Event()
    dial = Dialer.dial

    async def lingering_dial(self: Dialer, factory: Callable[[], asyncio.Protocol]) -> None:
        # Between connection_made and the end of the task there is a turn of the loop; this makes it longer.
        await dial(self, factory)
        if not connected.is_set():
            connected.set()
            await asyncio.to_thread(release.wait, 20)

    monkeypatch.setattr(Dialer, "dial", lingering_dial)
    gate = threading.Event()
    with ScriptedUpstream([Receive(), Wait(gate), response(200, b"{}")], each=ECHO) as upstream:
        proxy = serve(f"{upstream.url}/mcp", pool={"queue_timeout": 5})
        with proxy.client() as first, proxy.client() as second:
            first.send(request(body=CALL))
            upstream.wait_for_requests(1)
            assert connected.wait(20)
            second.send(request(body=CALL))
            try:
                # The first dial's task has not ended; the first connection is busy.
                assert second.read_response(timeout=8).status == 200
            finally:
                release.set()
                gate.set()
            assert first.read_response().status == 200


def test_another_upstream_stands_in_for_one_that_is_down(serve: Serve) -> None:
    with refused_port() as port, ScriptedUpstream(each=ECHO) as upstream:
        proxy = serve(f"http://127.0.0.1:{port}/mcp", f"{upstream.url}/mcp")
        with proxy.client() as first, proxy.client() as second:
            for _ in range(4):
                with proxy.held():
                    first.send(request(body=CALL))
                    second.send(request(body=CALL))
                assert [first.read_response().status, second.read_response().status] == [200, 200]
