"""Framing on the client's side: answers, keep-alive, pipelining, HTTP/1.0, Expect, Upgrade."""

from __future__ import annotations

import threading

import pytest

from shadowcat.testing.script import Close, Receive, Repeat, Request, Reset, Set, Wait
from shadowcat.testing.scripted import ScriptedUpstream
from shadowcat.testing.wire import chunks, request, response, response_head

from .conftest import Serve

CALL = b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"x"}}'
ECHO = [Repeat([Receive(), lambda got: response(200, got.body)])]
CHUNKED = [("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")]


def body_named(name: str) -> bytes:
    return b'{"jsonrpc":"2.0","id":"%b","method":"tools/call"}' % name.encode()


def test_requests_share_both_connections(serve: Serve) -> None:
    with ScriptedUpstream(each=ECHO) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            for number in range(20):
                client.send(request(body=body_named(str(number))))
                answer = client.read_response()
                assert (answer.status, answer.body) == (200, body_named(str(number)))
                assert answer.header("Connection") is None
        assert len(upstream.connections) == 1
    # The last answer is counted a little later than the reuse before it.
    proxy.wait_until(lambda: proxy.statuses(200) == 20, "the published answers")
    proxy.wait_until(lambda: proxy.pool_metric("pool_reuse_total") == 19, "the published metric")
    assert proxy.pool_metric("pool_dials_total") == 1
    assert proxy.metric("connections_accepted_total") == 1


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_close_on_request(serve: Serve, version: str) -> None:
    head = [("Connection", "close")] if version == "1.1" else []
    with ScriptedUpstream(each=ECHO) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            client.send(request(body=CALL, headers=head).replace(b"HTTP/1.1", f"HTTP/{version}".encode(), 1))
            answer = client.read_response()
            assert answer.body == CALL
            assert answer.header("Connection") == "close"
            client.expect_end()


def test_http_1_0_close_wins_over_keep_alive(serve: Serve) -> None:
    with ScriptedUpstream(each=ECHO) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            sent = request(body=CALL, headers=[("Connection", "keep-alive, close")])
            client.send(sent.replace(b"HTTP/1.1", b"HTTP/1.0", 1))
            assert client.read_response().header("Connection") == "close"
            client.expect_end()


def test_http_1_0_keep_alive(serve: Serve) -> None:
    with ScriptedUpstream(each=ECHO) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            sent = request(body=CALL, headers=[("Connection", "keep-alive")])
            for _ in range(3):
                client.send(sent.replace(b"HTTP/1.1", b"HTTP/1.0", 1))
                answer = client.read_response()
                assert (answer.body, answer.framing) == (CALL, "length")
                assert answer.header("Connection") == "keep-alive"


def test_http_1_0_gets_a_chunked_answer_close_delimited(serve: Serve) -> None:
    answer = response_head(200, CHUNKED) + chunks(b"one", b"two", b"three")
    with ScriptedUpstream([Receive(), answer]) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            sent = request(body=CALL, headers=[("Connection", "keep-alive")])
            client.send(sent.replace(b"HTTP/1.1", b"HTTP/1.0", 1))
            got = client.read_response()
            assert (got.framing, got.body) == ("close", b"onetwothree")
            assert got.header("Transfer-Encoding") is None
            assert got.header("Connection") == "close"


def test_http_1_0_sees_an_abort_as_a_reset(serve: Serve) -> None:
    sent = threading.Event()
    script = [Receive(), response_head(200, CHUNKED) + chunks(b"one", last=False), Wait(sent), Reset()]
    with ScriptedUpstream(script) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            client.send(request(body=CALL).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
            assert client.read_head().framing == "close"
            client.read_until(b"one")
            sent.set()
            client.expect_reset()


def test_close_delimited_answer_becomes_chunked(serve: Serve) -> None:
    more = threading.Event()
    script = [Receive(), response_head(200, [("X-A", "b")]) + b"first", Wait(more), b"second", Close()]
    with ScriptedUpstream(script, *[ECHO] * 1) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            client.send(request(body=CALL))
            assert client.read_head().framing == "chunked"
            assert client.read_chunk() == b"first"
            more.set()
            assert b"".join(client.read_chunks()) == b"second"
            client.send(request(body=CALL))
            assert client.read_response().body == CALL


@pytest.mark.parametrize("status", [204, 304])
def test_answers_without_a_body(serve: Serve, status: int) -> None:
    fields = [("Content-Length", "40")] if status == 304 else []
    with ScriptedUpstream([Receive(), response_head(status, fields), *ECHO]) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            client.send(request(body=CALL))
            answer = client.read_response()
            assert (answer.status, answer.body) == (status, b"")
            assert answer.header("Content-Length") == ("40" if status == 304 else None)
            client.send(request(body=CALL))
            assert client.read_response().body == CALL
        assert len(upstream.connections) == 1


def test_head_is_refused_without_content(serve: Serve) -> None:
    with ScriptedUpstream(each=ECHO) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            client.send(request("HEAD") + request(body=CALL))
            answer = client.read_response("HEAD")
            assert (answer.status, answer.body) == (405, b"")
            assert answer.header("Allow") == "GET, POST, DELETE, OPTIONS"
            assert client.read_response().body == CALL
        assert [got.method for got in upstream.requests] == ["POST"]


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_other_methods_are_refused(serve: Serve, method: str) -> None:
    with ScriptedUpstream() as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            client.send(request(method, body=CALL))
            answer = client.read_response()
        assert answer.status == 405
        assert b'"id":7' in answer.body


def test_pipelined_requests_are_answered_in_order(serve: Serve) -> None:
    first = threading.Event()
    slow = [Receive(), Wait(first), lambda got: response(200, got.body), *ECHO]
    with ScriptedUpstream(slow, ECHO) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            client.send(
                request(body=body_named("slow"))
                + request(target="/nowhere", body=body_named("lost"))
                + request("HEAD")
                + request(body=body_named("last"))
            )
            upstream.wait_for_requests(1)
            client.expect_silence(0.05)
            assert len(upstream.requests) == 1
            first.set()
            assert client.read_response().body == body_named("slow")
            refused = client.read_response()
            assert refused.status == 404
            assert b'"id":"lost"' in refused.body
            assert client.read_response("HEAD").status == 405
            assert client.read_response().body == body_named("last")


def test_nothing_is_read_behind_a_refused_message(serve: Serve) -> None:
    with ScriptedUpstream(each=ECHO) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            client.send(request(body=CALL) + b"POST /mcp HTTP/1.1\r\n\r\n" + request(body=body_named("evil")))
            assert client.read_response().body == CALL
            assert client.read_response().status == 400
            client.expect_end()
        assert [got.body for got in upstream.requests] == [CALL]


def test_too_many_pipelined_bytes_end_the_connection(serve: Serve) -> None:
    gate = threading.Event()
    with ScriptedUpstream([Receive(), Wait(gate)]) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            client.send(request(body=CALL))
            upstream.wait_for_requests(1)
            client.send(b"x" * 70_000)
            client.expect_reset()
        gate.set()


def test_expect_is_answered_once(serve: Serve) -> None:
    with ScriptedUpstream(each=ECHO) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        sent = request(body=CALL, headers=[("Expect", "100-continue")])
        with proxy.client() as client:
            for _ in range(3):
                client.send(sent[: -len(CALL)])
                assert client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
                client.send(CALL[:5], CALL[5:9], CALL[9:])
                answer = client.read_response()
                assert (answer.body, answer.interim) == (CALL, ())
        assert [got.header("Expect") for got in upstream.requests] == [None] * 3


def test_expect_with_an_early_body_needs_no_continue(serve: Serve) -> None:
    with ScriptedUpstream(each=ECHO) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            client.send(request(body=CALL, headers=[("Expect", "100-continue")]))
            answer = client.read_response()
            assert (answer.body, answer.interim) == (CALL, ())


def test_expect_of_a_chunked_body(serve: Serve) -> None:
    with ScriptedUpstream(each=ECHO) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            client.send(request(headers=[("Expect", "100-continue"), ("Transfer-Encoding", "chunked")]))
            assert client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.send(chunks(CALL))
            assert client.read_response().body == CALL


@pytest.mark.parametrize(
    ("target", "length", "status"), [("/mcp", 5000, 413), ("/nowhere", 10, 404), ("/mcp/..", 10, 400)]
)
def test_expect_is_refused_instead(serve: Serve, target: str, length: int, status: int) -> None:
    with ScriptedUpstream() as upstream:
        proxy = serve(f"{upstream.url}/mcp", http={"body_limit": 4096})
        with proxy.client() as client:
            client.send(
                request(target=target, headers=[("Expect", "100-continue"), ("Content-Length", str(length))])
            )
            answer = client.read_response()
            assert (answer.status, answer.interim) == (status, ())
            client.expect_end()


def test_an_upgrade_offer_is_dropped_and_the_body_kept(serve: Serve) -> None:
    # What the JDK's HttpClient sends by default. Servers on llhttp read the body as the next request.
    inner = body_named("inner")
    offer = [
        ("Connection", "Upgrade, HTTP2-Settings"),
        ("Upgrade", "h2c"),
        ("HTTP2-Settings", "AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA"),
    ]
    with ScriptedUpstream(each=ECHO) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            client.send(request(body=inner, headers=offer))
            assert client.read_response().body == inner
            client.send(request(body=CALL))
            assert client.read_response().body == CALL
        assert [got.body for got in upstream.requests] == [inner, CALL]
        for name in ("Connection", "Upgrade", "HTTP2-Settings"):
            assert upstream.requests[0].header(name) is None


def test_chunked_requests_reach_the_upstream_with_a_length(serve: Serve) -> None:
    with ScriptedUpstream(each=ECHO) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            head = request(headers=[("Transfer-Encoding", "chunked"), ("Content-Type", "application/json")])
            client.send(head, *(chunks(CALL[at : at + 7], last=False) for at in range(0, len(CALL), 7)))
            client.send(b"0\r\nX-Trailer: dropped\r\n\r\n")
            assert client.read_response().body == CALL
        (got,) = upstream.requests
        assert got.header("Content-Length") == str(len(CALL))
        assert got.header("Transfer-Encoding") is None
        assert got.header("X-Trailer") is None
        assert got.message.framing == "length"


def test_fields_that_end_at_the_proxy(serve: Serve) -> None:
    def answer(_: Request) -> bytes:
        fields = [
            ("Set-Cookie", "a=b"),
            ("Keep-Alive", "timeout=60"),
            ("Connection", "X-Hop"),
            ("X-Hop", "1"),
            ("X-End", "2"),
        ]
        return response(200, b"{}", headers=fields)

    sent = [
        ("Authorization", "Bearer secret"),
        ("Cookie", "a=b"),
        ("Proxy-Authorization", "Basic eDp5"),
        ("TE", "trailers"),
        ("Connection", "TE, X-Hop"),
        ("X-Hop", "1"),
        ("X-End", "2"),
        ("X-Forwarded-For", "10.1.1.1"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Proto", "https"),
        ("Forwarded", "for=10.1.1.1"),
        ("Accept-Encoding", "gzip"),
        ("Accept", "application/json, text/event-stream"),
    ]
    with ScriptedUpstream([Receive(), answer]) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            client.send(request(body=CALL, headers=sent, host="localhost:8080"))
            got = client.read_response()
        reached = upstream.requests[0]
    gone = ("Authorization", "Cookie", "Proxy-Authorization", "TE", "Connection", "X-Hop", "Forwarded")
    assert [reached.header(name) for name in gone] == [None] * len(gone)
    assert reached.header("Host") == f"127.0.0.1:{upstream.port}"
    assert reached.header("X-Forwarded-For") == "127.0.0.1"
    assert reached.header("X-Forwarded-Host") == "localhost:8080"
    assert reached.header("X-Forwarded-Proto") == "http"
    assert reached.header("Accept-Encoding") == "identity"
    assert reached.header("Accept") == "application/json, text/event-stream"
    assert reached.header("X-End") == "2"
    assert [got.header(name) for name in ("Set-Cookie", "Keep-Alive", "Connection", "X-Hop")] == [None] * 4
    assert got.header("X-End") == "2"


def test_a_half_closed_client_gets_its_answer(serve: Serve) -> None:
    gate = threading.Event()
    with ScriptedUpstream([Receive(), Wait(gate), lambda got: response(200, got.body)]) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            client.send(request(body=CALL))
            client.half_close()
            upstream.wait_for_requests(1)
            gate.set()
            answer = client.read_response()
            assert answer.body == CALL
            client.expect_end()


def test_an_unfinished_request_of_a_client_that_left_goes_nowhere(serve: Serve) -> None:
    ready = threading.Event()
    with ScriptedUpstream([Set(ready)]) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            client.send(request(body=CALL)[:-1])
            client.half_close()
            client.expect_end()
        assert upstream.connections == []
