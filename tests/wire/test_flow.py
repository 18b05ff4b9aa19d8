"""Streams: flushing, backpressure, and what happens when a client leaves."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from shadowcat.testing.script import Close, Hang, Receive, Set, Wait
from shadowcat.testing.scripted import ScriptedUpstream
from shadowcat.testing.wire import chunks, request, response, response_head

from .conftest import Serve
from .test_relay import CALL, CHUNKED, ECHO

SSE = [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")]
MODERN = [("MCP-Protocol-Version", "2026-07-28")]
EVENT = b"event: message\ndata: {}\n\n"
BIG = 32 * 1024 * 1024


def events_of(*gates: threading.Event) -> list[object]:
    """An event stream whose next event is sent when the gate before it opens."""
    steps: list[object] = [Receive(), response_head(200, SSE)]
    for gate in gates:
        steps += [chunks(EVENT, last=False), Wait(gate)]
    return steps


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_every_event_arrives_before_the_next_is_sent(serve: Serve, method: str) -> None:
    gates = [threading.Event() for _ in range(5)]
    with ScriptedUpstream([*events_of(*gates), b"0\r\n\r\n", *ECHO]) as upstream:  # type: ignore[list-item]
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            client.send(request(method, body=None if method == "GET" else CALL))
            head = client.read_head(method)
            assert (head.framing, head.header("Content-Type")) == ("chunked", "text/event-stream")
            for gate in gates:
                assert client.read_chunk(timeout=8) == EVENT
                gate.set()
            assert client.read_chunk(timeout=8) == b""
            client.send(request(body=CALL))
            assert client.read_response().body == CALL


def test_the_head_of_a_stream_does_not_wait_for_an_event(serve: Serve) -> None:
    gate = threading.Event()
    with ScriptedUpstream([Receive(), response_head(200, SSE), Wait(gate), chunks(EVENT)]) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            client.send(request("GET"))
            assert client.read_head("GET").status == 200
            gate.set()
            assert list(client.read_chunks()) == [EVENT]


def test_a_slow_client_slows_its_upstream(serve: Serve) -> None:
    piece = b"x" * 65536
    body = [piece] * (BIG // len(piece))
    with ScriptedUpstream(
        [Receive(), response_head(200, CHUNKED), *map(chunks_of, body), b"0\r\n\r\n"]
    ) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client(receive_buffer=65536) as client:
            client.send(request(body=CALL))
            client.read_head()
            connection = upstream.connections[0]
            # What is under way is bounded by the buffers of two sockets; wait until nothing moves.
            before = -1
            while before != connection.sent:
                before = connection.sent
                time.sleep(0.1)
            assert before < BIG - 8 * 1024 * 1024
            received = sum(len(part) for part in client.read_chunks())
            assert received == BIG


@pytest.mark.parametrize("size", range(200_000, 1_000_000, 100_000))
def test_who_does_not_read_the_end_of_an_answer_holds_up_nobody_else(serve: Serve, size: int) -> None:
    """Of some sizes it is the last piece for which there is no room in the client's buffers."""
    with ScriptedUpstream([Receive(), response(body=b"x" * size), *ECHO], each=ECHO) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client(receive_buffer=65536) as slow, proxy.client() as client:
            slow.send(request(body=CALL))
            assert slow.read_head().status == 200
            for _ in range(20):  # Meanwhile the answer comes to its end, unless the client slows it before.
                client.send(request(body=CALL))
                assert client.read_response(timeout=8).body == CALL


@contextmanager
def flooding(piece: bytes) -> Iterator[ScriptedUpstream]:
    """An upstream that sends more than anybody takes, and is cut off in the midst of it."""
    upstream = ScriptedUpstream([Receive(), response_head(200, SSE), *[piece] * 512, Hang()])
    upstream.__enter__()
    try:
        yield upstream
    finally:
        upstream.stop()


def chunks_of(piece: bytes) -> bytes:
    return chunks(piece, last=False)


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_a_big_body(serve: Serve, framing: str) -> None:
    body = bytes(range(256)) * (BIG // 4 // 256)
    answer = {
        "length": response(200, body),
        "chunked": response_head(200, CHUNKED)
        + chunks(*[body[at : at + 50_000] for at in range(0, len(body), 50_000)]),
        "close": response_head(200, [("Connection", "close")]) + body,
    }[framing]

    with ScriptedUpstream([Receive(), answer, *([Close()] if framing == "close" else [])]) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            client.send(request(body=CALL))
            assert client.read_response().body == body


def test_a_client_that_takes_nothing_is_cut_off(serve: Serve) -> None:
    piece = chunks(b"x" * 65536, last=False)
    with flooding(piece) as upstream:
        proxy = serve(f"{upstream.url}/mcp", http={"write_timeout": 0.3})
        with proxy.client(receive_buffer=4096) as client:
            client.send(request("GET"))
            proxy.wait_until(
                lambda: proxy.metric("client_aborts_total", "/mcp") == 1, "the end of the client"
            )
        proxy.wait_until(lambda: proxy.pooled() == 0, "the end of the upstream connection")


def test_a_last_answer_reaches_a_slow_client_whole(serve: Serve) -> None:
    """Waiting for the client's FIN must not cut off what is still under way to it."""
    body = b"x" * 200_000  # What the kernel takes, so that the exchange ends before anything of it is read.
    with ScriptedUpstream([Receive(), response(200, body)]) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client(receive_buffer=4096) as client:
            client.send(request(body=CALL, headers=[("Connection", "close")]))
            proxy.wait_until(lambda: proxy.statuses(200) == 1, "the end of the exchange")
            client.read_head()
            for _ in range(5):
                assert client.read_exactly(20_000) == body[:20_000]
                proxy.advance(10)  # 2 s is how long the proxy lingers.
            assert client.read_end() == body[:100_000]


@pytest.mark.parametrize("abort", [False, True])
def test_a_modern_client_that_leaves_cancels(serve: Serve, abort: bool) -> None:
    with ScriptedUpstream([Receive(), Hang()], ECHO) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        client = proxy.client()
        client.send(request(body=CALL, headers=MODERN))
        upstream.wait_for_requests(1)
        client.reset() if abort else client.close()
        proxy.wait_until(lambda: proxy.pooled() == 0, "the cancellation")
        proxy.wait_until(lambda: proxy.metric("client_aborts_total", "/mcp") == 1, "the metric")


def test_cancellation_behind_pipelined_bytes(serve: Serve) -> None:
    with ScriptedUpstream([Receive(), Hang()], ECHO) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        client = proxy.client()
        client.send(request(body=CALL, headers=MODERN) * 2)
        upstream.wait_for_requests(1)
        client.half_close()
        proxy.wait_until(lambda: proxy.pooled() == 0, "the cancellation")
        client.close()
        assert len(upstream.requests) == 1


@pytest.mark.parametrize("half", [False, True])
def test_cancellation_by_a_stalled_reader(serve: Serve, half: bool) -> None:
    piece = chunks(b"x" * 65536, last=False)
    with flooding(piece) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client(receive_buffer=4096) as client:
            client.send(request(body=CALL, headers=MODERN))
            connection = upstream.wait_for_connections(1)[0]
            before = -1
            while before != connection.sent:
                before = connection.sent
                time.sleep(0.1)
            if half:
                client.half_close()
            else:
                client.close()
            deadline = time.monotonic() + 8
            while proxy.pooled():
                assert time.monotonic() < deadline, "the upstream goes on"
                time.sleep(0.01)


def test_a_get_stream_ends_with_its_client(serve: Serve) -> None:
    with ScriptedUpstream(events_of(threading.Event())) as upstream:  # type: ignore[arg-type]
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            client.send(request("GET"))
            client.read_head("GET")
            assert client.read_chunk() == EVENT
        proxy.wait_until(lambda: proxy.pooled() == 0, "the end of the upstream connection")


def test_a_legacy_call_goes_on_without_its_client(serve: Serve) -> None:
    gates = [threading.Event() for _ in range(2)]
    finished = threading.Event()
    script = [*events_of(*gates), b"0\r\n\r\n", Set(finished), *ECHO]
    with ScriptedUpstream(script) as upstream:  # type: ignore[arg-type]
        proxy = serve(f"{upstream.url}/mcp")
        client = proxy.client()
        client.send(request(body=CALL))
        client.read_head()
        client.reset()
        proxy.wait_until(lambda: proxy.metric("detached_exchanges") == 1, "the detached exchange")
        assert proxy.plane.open_connections == 1
        for gate in gates:
            gate.set()
        assert finished.wait(8)
        proxy.wait_until(lambda: proxy.metric("detached_exchanges") == 0, "the end of the exchange")
        with proxy.client() as other:
            other.send(request(body=CALL))
            assert other.read_response().body == CALL
        assert len(upstream.connections) == 1


def test_a_detached_call_without_an_answer_has_a_limit(serve: Serve) -> None:
    with ScriptedUpstream([Receive(), Hang()]) as upstream:
        proxy = serve(f"{upstream.url}/mcp", timeouts={"detached": 0.3})
        client = proxy.client()
        client.send(request(body=CALL))
        upstream.wait_for_requests(1)
        client.reset()
        proxy.wait_until(lambda: proxy.pooled() == 0, "the limit of the detached exchange")


def test_a_detached_call_that_answers_has_a_limit(serve: Serve) -> None:
    gate = threading.Event()
    with ScriptedUpstream([Receive(), Wait(gate), response_head(200, SSE), Hang()]) as upstream:
        proxy = serve(f"{upstream.url}/mcp", timeouts={"detached": 20})
        client = proxy.client()
        client.send(request(body=CALL))
        upstream.wait_for_requests(1)
        client.reset()
        proxy.wait_until(lambda: proxy.metric("detached_exchanges") == 1, "the detached exchange")
        gate.set()
        proxy.wait_until(lambda: proxy.metric("upstream_received_bytes_total") > 0, "the answer")
        assert proxy.pooled() == 1
        proxy.advance(21)
        assert proxy.pooled() == 0


def test_pipelined_refusals_to_a_client_that_does_not_read_are_bounded(serve: Serve) -> None:
    batch = request(target="/nowhere", body=b"{}") * 500
    enough = 24 * 1024 * 1024  # Twice of what the buffers of both kernels hold.
    with ScriptedUpstream() as upstream:
        proxy = serve(f"{upstream.url}/mcp", http={"max_requests": 1_000_000})
        with proxy.client(receive_buffer=4096) as client:
            client.sock.setblocking(False)
            sent, stalled = 0, 0
            while sent < enough and stalled < 100:
                try:
                    sent += client.sock.send(batch)
                    stalled = 0
                except BlockingIOError:
                    stalled += 1
                    time.sleep(0.01)
                except (ConnectionResetError, BrokenPipeError):
                    break
            assert sent < enough
