"""What a client may send, and how long it may take."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shadowcat.testing.scripted import ScriptedUpstream
from shadowcat.testing.wire import chunks, request

from .conftest import Serve
from .plane import PlaneRunner
from .test_relay import CALL, ECHO

SMALL = {"body_limit": 1024, "head_limit": 2048, "target_limit": 256, "max_fields": 10}


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream(each=ECHO) as double:
        yield double


@pytest.fixture
def proxy(serve: Serve, upstream: ScriptedUpstream) -> PlaneRunner:
    return serve(f"{upstream.url}/mcp", http=SMALL)


def test_body_limit_by_length(proxy: PlaneRunner, upstream: ScriptedUpstream) -> None:
    with proxy.client() as client:
        client.send(request("DELETE", body=b"x" * 1024))
        assert client.read_response().status == 200
        client.send(request(headers=[("Content-Length", "1025")]))
        answer = client.read_response()
        assert answer.status == 413
        assert b"-32600" in answer.body
        client.expect_end()
    assert len(upstream.requests) == 1


def test_body_limit_by_chunks(proxy: PlaneRunner, upstream: ScriptedUpstream) -> None:
    head = request("DELETE", headers=[("Transfer-Encoding", "chunked")])
    with proxy.client() as client:
        client.send(head + chunks(b"x" * 1000, b"x" * 24))
        assert client.read_response().status == 200
        client.send(head + chunks(b"x" * 1000, b"x" * 25, last=False))
        assert client.read_response().status == 413
        client.expect_end()
    assert len(upstream.requests) == 1


def test_head_limits(proxy: PlaneRunner, upstream: ScriptedUpstream) -> None:
    refused = [
        (request(target="/mcp?" + "a" * 252), 414),
        (request(target="/mcp?" + "a" * 1000), 414),
        (request(headers=[("X-A", "a" * 2048)]), 431),
        (request(headers=[(f"X-{number}", "a") for number in range(10)]), 431),
        (b"POST /mcp HTTP/1.1\r\nX-A: " + b"a" * 3000, 431),
        (b"POST /mcp?" + b"a" * 400, 414),
    ]
    for sent, status in refused:
        with proxy.client() as client:
            client.send(sent)
            assert client.read_response().status == status, sent[:40]
            client.expect_end()
    assert upstream.requests == []
    with proxy.client() as client:
        client.send(request("DELETE", target="/mcp?" + "a" * 251))
        assert client.read_response().status == 200
        client.send(request("DELETE", headers=[(f"X-{number}", "a") for number in range(9)]))
        assert client.read_response().status == 200


def test_a_target_over_the_head_limit_has_one_status(proxy: PlaneRunner) -> None:
    sent = request(target="/mcp?" + "a" * 3000)
    for pieces in ([sent], [sent[:1000], sent[1000:]]):
        with proxy.client() as client:
            client.send(*pieces, gap=0.01)
            assert client.read_response().status == 414


def test_the_largest_head_passes(proxy: PlaneRunner) -> None:
    base = len(request("DELETE", headers=[("X-A", "")]))
    with proxy.client() as client:
        client.send(request("DELETE", headers=[("X-A", "a" * (2048 - base))]))
        assert client.read_response().status == 200
        client.send(request("DELETE", headers=[("X-A", "a" * (2049 - base))]))
        assert client.read_response().status == 431


@pytest.mark.parametrize("sent", [b"P", request(body=CALL)[:60]])
def test_a_slow_head_is_refused(serve: Serve, upstream: ScriptedUpstream, sent: bytes) -> None:
    proxy = serve(f"{upstream.url}/mcp", http={"head_timeout": 0.2})
    with proxy.client() as client:
        client.send(sent)
        assert client.read_response(timeout=8).status == 408
        client.expect_end()
    assert upstream.connections == []


def test_a_byte_now_and_then_buys_no_time(serve: Serve, upstream: ScriptedUpstream) -> None:
    proxy = serve(f"{upstream.url}/mcp", http={"head_timeout": 60})
    sent = b"POST /mcp HTTP/1.1\r\n"
    with proxy.client() as client:
        client.send(sent)
        for number in range(10):
            client.send(b"X")
            arrived = len(sent) + number + 1
            proxy.wait_until(lambda arrived=arrived: proxy.plane.meters.client_received == arrived, "a byte")
            proxy.advance(5)
        assert proxy.metric("refusals_total", "head_timeout") == 0
        proxy.advance(15)
        assert client.read_response().status == 408
        assert proxy.metric("refusals_total", "head_timeout") == 1
    assert upstream.connections == []


@pytest.mark.parametrize("chunked", [False, True])
def test_a_slow_body_is_refused(serve: Serve, upstream: ScriptedUpstream, chunked: bool) -> None:
    proxy = serve(f"{upstream.url}/mcp", http={"body_timeout": 0.2})
    framing = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", "10")
    with proxy.client() as client:
        client.send(request(headers=[framing]) + b"5\r\nab")
        assert client.read_response(timeout=8).status == 408
        client.expect_end()
    assert upstream.connections == []


def test_an_idle_connection_is_closed_in_silence(serve: Serve, upstream: ScriptedUpstream) -> None:
    proxy = serve(f"{upstream.url}/mcp", http={"keepalive_timeout": 20})
    with proxy.client() as fresh, proxy.client() as used:
        used.send(request(body=CALL))
        assert used.read_response().status == 200
        proxy.advance(21)
        fresh.expect_end()
        used.expect_end()


def test_the_last_request_of_a_connection(serve: Serve, upstream: ScriptedUpstream) -> None:
    proxy = serve(f"{upstream.url}/mcp", http={"max_requests": 2})
    with proxy.client() as client:
        client.send(request(body=CALL) * 3)
        assert client.read_response().header("Connection") is None
        assert client.read_response().header("Connection") == "close"
        client.expect_end()
    assert len(upstream.requests) == 2


def test_refusals_are_counted(proxy: PlaneRunner) -> None:
    with proxy.client() as client:
        client.send(b"BAD\r\n\r\n")
        assert client.read_response().status == 400
    assert proxy.metric("refusals_total", "bad_request_line") == 1
