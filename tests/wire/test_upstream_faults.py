"""Upstreams that refuse, reset, hang, break off or talk nonsense: what the client gets, and whom it costs."""

from __future__ import annotations

import json
import socket
import threading

import pytest

from shadowcat.testing.script import Close, Hang, Receive, ReceiveBytes, Reset, Wait
from shadowcat.testing.scripted import ScriptedUpstream, refused_port
from shadowcat.testing.wire import PeerClosedError, chunks, request, response, response_head

from .conftest import Serve
from .test_relay import CALL, CHUNKED, ECHO

LIST = b'{"jsonrpc":"2.0","id":"l-1","method":"tools/list"}'
MODERN = [("MCP-Protocol-Version", "2026-07-28")]


def _error(body: bytes) -> tuple[object, object]:
    answer = json.loads(body)
    return answer["id"], answer["error"]["code"]


def test_refused(serve: Serve) -> None:
    with refused_port() as port:
        proxy = serve(f"http://127.0.0.1:{port}/mcp")
        with proxy.client() as client:
            for _ in range(2):
                client.send(request(body=CALL))
                answer = client.read_response()
                assert (answer.status, _error(answer.body)) == (502, (7, -32603))
                assert answer.header("Content-Type") == "application/json"
    proxy.wait_until(lambda: proxy.pool_metric("pool_dial_failures_total") >= 2, "the metric")
    assert proxy.metric("refusals_total", "connect_failed") == 2


def test_connect_that_hangs(serve: Serve) -> None:
    # A listener whose queue is full answers no SYN; the kernel drops those that exceed it.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = []
        try:
            for _ in range(3):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(listener.getsockname())
                fillers.append(filler)
            proxy = serve(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp", pool={"connect_timeout": 0.3})
            with proxy.client() as client:
                client.send(request(body=CALL))
                answer = client.read_response(timeout=8)  # Two tries with the usual time-out take 10 s.
                assert (answer.status, _error(answer.body)) == (504, (7, -32603))
        finally:
            for filler in fillers:
                filler.close()


@pytest.mark.parametrize("ending", [Reset(), Close()])
def test_no_answer(serve: Serve, ending: Reset | Close) -> None:
    with ScriptedUpstream([Receive(), ending], ECHO) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            client.send(request(body=CALL))
            answer = client.read_response()
            assert (answer.status, _error(answer.body)) == (502, (7, -32603))
            client.send(request(body=CALL))
            assert client.read_response().body == CALL
        # A call is never sent a second time: the first try may have had its effect.
        assert [got.connection for got in upstream.requests] == [0, 1]


def test_a_list_is_asked_for_once_more(serve: Serve) -> None:
    with ScriptedUpstream([Receive(), Reset()], ECHO) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            client.send(request(body=LIST))
            assert client.read_response().body == LIST
        assert [got.connection for got in upstream.requests] == [0, 1]


def test_a_list_is_not_asked_for_a_third_time(serve: Serve) -> None:
    with ScriptedUpstream([Receive(), Reset()], [Receive(), Reset()], ECHO) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            client.send(request(body=LIST))
            answer = client.read_response()
            assert (answer.status, _error(answer.body)) == (502, ("l-1", -32603))
        assert len(upstream.requests) == 2


def test_a_list_that_was_begun_is_not_repeated(serve: Serve) -> None:
    with ScriptedUpstream([Receive(), b"HTTP/1.1 200", Close()]) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            client.send(request(body=LIST))
            assert client.read_response().status == 502
        assert len(upstream.requests) == 1


def test_hanging_upstream(serve: Serve) -> None:
    with ScriptedUpstream([Receive(), Hang()], [Receive(), Hang()], ECHO) as upstream:
        proxy = serve(f"{upstream.url}/mcp", timeouts={"first_byte": 20, "request": 50})
        with proxy.client() as lists, proxy.client() as calls:
            calls.send(request(body=CALL))
            lists.send(request(body=LIST))
            upstream.wait_for_requests(2)
            proxy.advance(21)
            first = lists.read_response()
            assert (first.status, _error(first.body)) == (504, ("l-1", -32603))
            proxy.advance(30)
            second = calls.read_response()
            assert (second.status, _error(second.body)) == (504, (7, -32603))
            calls.send(request(body=CALL))
            assert calls.read_response().body == CALL


def test_the_whole_answer_has_a_time_limit(serve: Serve) -> None:
    script = [Receive(), response_head(200, CHUNKED) + chunks(b"a", last=False), Hang()]
    with ScriptedUpstream(script) as upstream:
        proxy = serve(f"{upstream.url}/mcp", timeouts={"request": 30})
        with proxy.client() as client:
            client.send(request(body=CALL))
            assert client.read_head().status == 200
            assert client.read_chunk() == b"a"
            proxy.advance(31)
            with pytest.raises(PeerClosedError):
                client.read_chunk()


@pytest.mark.parametrize("ending", [Reset(), Close()])
@pytest.mark.parametrize(
    "begun",
    [
        response_head(200, CHUNKED) + chunks(b"abc", last=False),
        response_head(200, CHUNKED) + b"5\r\nab",
        response_head(200, [("Content-Length", "20000")]) + b"abc",
    ],
)
def test_truncated_answers_have_no_clean_end(serve: Serve, begun: bytes, ending: Reset | Close) -> None:
    gate = threading.Event()
    with ScriptedUpstream([Receive(), begun, Wait(gate), ending], ECHO) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client, proxy.client() as other:
            client.send(request(body=CALL))
            client.read_until(b"\r\n\r\n")
            gate.set()
            with pytest.raises(PeerClosedError):
                client.read_exactly(1000)
            assert not client.received.endswith(b"\r\n0\r\n\r\n")
            other.send(request(body=CALL))
            assert other.read_response().body == CALL


def test_a_bad_first_chunk_is_answered(serve: Serve) -> None:
    with ScriptedUpstream([Receive(), response_head(200, CHUNKED) + b"zz\r\n"]) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            client.send(request(body=CALL))
            assert client.read_response().status == 502


def test_close_delimited_answer_that_is_reset(serve: Serve) -> None:
    gate = threading.Event()
    with ScriptedUpstream([Receive(), response_head(200) + b"abc", Wait(gate), Reset()]) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            client.send(request(body=CALL))
            client.read_until(b"abc")
            gate.set()
            with pytest.raises(PeerClosedError):
                client.read_exactly(1000)
            assert not client.received.endswith(b"\r\n0\r\n\r\n")


def test_garbage(serve: Serve) -> None:
    with ScriptedUpstream([Receive(), b"\x16\x03\x01\x00\xee\r\n\r\n"], ECHO) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            client.send(request(body=CALL))
            answer = client.read_response()
            assert (answer.status, _error(answer.body)) == (502, (7, -32603))
            assert upstream.wait_for_end(0) in ("peer closed", "peer reset")
            client.send(request(body=CALL))
            assert client.read_response().body == CALL


def test_bytes_while_idle_end_the_connection(serve: Serve) -> None:
    gate = threading.Event()
    evil = response(200, b'{"evil":true}')
    script = [Receive(), response(200, b"{}"), Wait(gate), evil]
    with ScriptedUpstream(script, ECHO) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            client.send(request(body=CALL))
            assert client.read_response().body == b"{}"
            gate.set()
            assert upstream.wait_for_end(0) in ("peer closed", "peer reset")
            client.send(request(body=CALL))
            assert client.read_response().body == CALL


@pytest.mark.parametrize("close", [False, True])
def test_bytes_behind_an_answer_are_never_delivered(serve: Serve, close: bool) -> None:
    evil = response(200, b'{"evil":true}')
    first = response(200, b"{}") + evil
    with ScriptedUpstream([Receive(), first, *([Close()] if close else [])], ECHO) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            client.send(request(body=CALL) + request(body=CALL))
            assert client.read_response().body == b"{}"
            assert client.read_response().body == CALL
        assert [got.connection for got in upstream.requests] == [0, 1]


def test_switching_protocols_is_refused(serve: Serve) -> None:
    switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    with ScriptedUpstream([Receive(), switch]) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            client.send(request(body=CALL))
            assert client.read_response().status == 502
            assert upstream.wait_for_end(0) in ("peer closed", "peer reset")


def test_interim_answers_are_dropped(serve: Serve) -> None:
    gates = [threading.Event() for _ in range(4)]
    steps = [step for gate in gates for step in (b"HTTP/1.1 102 Processing\r\n\r\n", Wait(gate))]
    with ScriptedUpstream([Receive(), *steps, response(200, b"{}")]) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            client.send(request(body=CALL))
            for gate in gates:
                client.expect_silence(0.02)
                gate.set()
            answer = client.read_response()
            assert (answer.status, answer.body, answer.interim) == (200, b"{}", ())


def test_an_early_answer_takes_the_connection_out_of_use(serve: Serve) -> None:
    # The upstream answers before it has read the request: what it did not read must not become the next one.
    # More than the kernel's buffers take.
    big = b'{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":"' + b"a" * 16_000_000 + b'"}}'
    early = [ReceiveBytes(100), response(413, b"{}"), Hang()]
    with ScriptedUpstream(early, ECHO) as upstream:
        proxy = serve(f"{upstream.url}/mcp", http={"body_limit": len(big)})
        with proxy.client() as client:
            client.send(request(body=big))
            assert client.read_response().status == 413
            client.send(request(body=CALL))
            assert client.read_response().body == CALL
        assert [got.connection for got in upstream.requests] == [1]


@pytest.mark.parametrize("modern", [False, True])
def test_own_errors_have_the_id_of_their_request(serve: Serve, modern: bool) -> None:
    cases = [
        (b'{"jsonrpc":"2.0","id":"a\\u0062","method":"tools/call"}', b'"id":"a\\u0062"'),
        (b'{"jsonrpc":"2.0","id":12345678901234567890,"method":"x"}', b'"id":12345678901234567890'),
        (b'{"jsonrpc":"2.0","method":"notifications/x"}', None),
    ]
    with refused_port() as port:
        proxy = serve(f"http://127.0.0.1:{port}/mcp")
        with proxy.client() as client:
            for body, expected in cases:
                client.send(request(body=body, headers=MODERN if modern else []))
                answer = client.read_response()
                assert answer.status == 502
                if expected is not None:
                    assert expected in answer.body
                else:
                    assert ("id" in json.loads(answer.body)) is not modern


def test_no_route(serve: Serve) -> None:
    with ScriptedUpstream() as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            for target in ("/", "/mcpx", "/other/mcp", "*"):
                client.send(request("OPTIONS" if target == "*" else "POST", target, body=CALL))
                answer = client.read_response()
                assert (answer.status, _error(answer.body)) == (404, (7, -32600))
