"""A client connection: order of answers, framing for old clients, time-outs, leaving."""

from __future__ import annotations

import pytest

from .conftest import Build
from .messages import CALL, LAST, LIST, STREAM, answer, chunk, error_of, get, modern, post, status_of


def test_pipelined_requests_are_answered_one_after_the_other(build: Build) -> None:
    loopback = build()
    client = loopback.client()
    client.send(post(CALL) + post(LIST) + post(CALL, path=b"/none") + post(CALL))
    loopback.settle()
    (upstream,) = loopback.upstreams
    assert upstream.take().endswith(CALL)
    upstream.send(answer(b"1"))
    assert upstream.take().endswith(LIST)
    upstream.send(answer(b"2"))
    assert upstream.take().endswith(CALL)
    upstream.send(answer(b"3"))
    sent = client.take()
    assert sent.startswith(answer(b"1") + answer(b"2") + b"HTTP/1.1 404 ")
    assert sent.endswith(answer(b"3"))


def test_too_much_behind_an_unanswered_request_ends_the_connection(build: Build) -> None:
    loopback = build()
    client = loopback.client()
    client.send(post())
    loopback.settle()
    client.send(b"x" * 65_000)
    assert client.ending == "open"
    client.send(b"x" * 1000)
    assert client.ending == "aborted"


def test_a_refusal_carries_the_requests_id(build: Build) -> None:
    client = build().client()
    client.send(post(CALL, path=b"/none"))
    assert status_of(client.received) == 404
    assert error_of(client.take())["id"] == 7
    client.send(post(CALL, path=b"/none"))
    assert status_of(client.received) == 404
    assert client.ending == "open"


def test_after_a_broken_request_the_rest_is_discarded(build: Build) -> None:
    loopback = build()
    client = loopback.client()
    client.send(b"GET /mcp HTTP/1.1\r\nHost: a b\r\n\r\n" + post())
    assert status_of(client.received) == 400
    assert client.ending == "eof"
    taken = client.take()
    client.send(post(), b"x" * 100_000)
    loopback.settle()
    assert client.take() == b""
    assert b"Connection: close" in taken
    assert not loopback.upstreams
    loopback.advance(2.3)
    assert client.ending == "aborted"


def test_a_lingering_client_that_floods_is_cut_off(build: Build) -> None:
    client = build().client()
    client.send(b"nonsense\n")
    assert client.ending == "eof"
    client.send(b"x" * 1_000_000)
    assert client.ending == "eof"
    client.send(b"x" * 100_000)
    assert client.ending == "aborted"


@pytest.mark.parametrize(
    ("sent", "option", "status"),
    [
        (b"POST /mcp", "head_timeout", 408),
        (post()[:-1], "body_timeout", 408),
        (b"", "keepalive_timeout", 0),
    ],
)
def test_what_does_not_come_in_time(build: Build, sent: bytes, option: str, status: int) -> None:
    loopback = build(http={option: 5})
    client = loopback.client()
    client.send(*[sent] if sent else [])
    loopback.advance(4.8)
    assert client.ending == "open"
    loopback.advance(0.5)
    assert client.ending == ("eof" if status else "closed")
    assert (status_of(client.received) if client.received else 0) == status


def test_single_bytes_buy_no_time(build: Build) -> None:
    loopback = build(http={"head_timeout": 2})
    client = loopback.client()
    for byte in b"POST /mcp HTTP/1.1\r\nHost: localhost\r\n":
        if client.ending == "open":
            client.send(bytes([byte]))
            loopback.advance(0.1)
    assert status_of(client.received) == 408


def test_a_client_that_takes_nothing_is_cut_off(build: Build) -> None:
    loopback = build(http={"write_timeout": 3})
    client = loopback.client()
    client.send(post())
    loopback.settle()
    upstream = loopback.upstreams[0]
    upstream.send(STREAM + chunk(b"x"))
    client.stall()
    assert not upstream.reading
    loopback.advance(2.8)
    assert client.ending == "open"
    loopback.advance(0.5)
    assert client.ending == "aborted"


def test_a_slow_client_stops_its_upstream_and_starts_it_again(build: Build) -> None:
    loopback = build()
    client = loopback.client()
    client.send(post())
    loopback.settle()
    upstream = loopback.upstreams[0]
    upstream.send(STREAM + chunk(b"a"))
    client.stall()
    assert not upstream.reading
    client.catch_up()
    assert upstream.reading
    client.stall()
    upstream.send(chunk(b"b") + LAST)  # It had been read before the pause.
    assert upstream.reading  # Another client's exchange may be next.
    client.send(post())
    assert upstream.take().count(b"POST ") == 1  # Not before the client has taken what there is.
    client.catch_up()
    assert upstream.take().count(b"POST ") == 1
    upstream.send(answer())
    assert client.take().endswith(answer())


@pytest.mark.parametrize(
    ("request_", "cancels"),
    [(post(), False), (modern(), True), (get(), True), (modern(LIST) + modern(LIST), True)],
)
@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("how", ["finish", "reset"])
def test_a_client_that_leaves(build: Build, request_: bytes, cancels: bool, opened: bool, how: str) -> None:
    loopback = build()
    client = loopback.client()
    client.send(request_)
    loopback.settle()
    upstream = loopback.upstreams[0]
    if opened:
        upstream.send(STREAM + chunk(b"a"))
    if how == "reset" or cancels:
        getattr(client, how)()
        loopback.settle()
        assert upstream.is_closing() is cancels
        assert loopback.plane.open_connections == (0 if cancels else 1)
    else:
        client.finish()
        assert client.ending == "open"  # Half-closed: the answer is still owed.
        assert not upstream.is_closing()


def test_a_stalled_modern_client_that_leaves_cancels_too(build: Build) -> None:
    loopback = build()
    client = loopback.client()
    client.send(modern())
    loopback.settle()
    upstream = loopback.upstreams[0]
    upstream.send(STREAM + chunk(b"a"))
    client.stall()
    client.reset()
    assert upstream.is_closing()


def test_an_answer_after_a_half_close_is_the_last(build: Build) -> None:
    loopback = build()
    client = loopback.client()
    client.send(post())
    loopback.settle()
    client.finish()
    loopback.upstreams[0].send(answer())
    assert status_of(client.received) == 200
    assert b"Connection: close" in client.received
    assert client.ending == "closed"


def test_http_1_0_gets_no_chunks(build: Build) -> None:
    loopback = build()
    client = loopback.client()
    client.send(post(CALL, version=b"HTTP/1.0"))
    loopback.settle()
    loopback.upstreams[0].send(STREAM + chunk(b"data: 1\n\n"), chunk(b"data: 2\n\n") + LAST)
    head, _, body = client.received.partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert body == b"data: 1\n\ndata: 2\n\n"
    assert client.ending == "eof"


def test_http_1_0_learns_of_a_broken_answer_by_a_reset(build: Build) -> None:
    loopback = build()
    client = loopback.client()
    client.send(post(CALL, version=b"HTTP/1.0"))
    loopback.settle()
    upstream = loopback.upstreams[0]
    upstream.send(STREAM + chunk(b"data: 1\n\n"))
    upstream.finish()
    loopback.settle()
    assert client.ending == "aborted"


def test_http_1_0_with_keep_alive_goes_on(build: Build) -> None:
    loopback = build()
    client = loopback.client()
    request = post(CALL, b"Connection: keep-alive", version=b"HTTP/1.0")
    for _ in range(4):
        client.send(request)
        loopback.settle()
        loopback.upstreams[0].send(answer())
        assert b"\r\nConnection: keep-alive\r\n" in client.take()
    assert client.ending == "open"


@pytest.mark.parametrize("warm", [0, 3])
def test_connection_close_is_honoured(build: Build, warm: int) -> None:
    loopback = build()
    client = loopback.client()
    for _ in range(warm):
        client.send(post())
        loopback.settle()
        loopback.upstreams[0].send(answer())
        client.take()
    client.send(post(CALL, b"Connection: close"))
    loopback.settle()
    loopback.upstreams[0].send(answer())
    assert b"\r\nConnection: close\r\n" in client.received
    assert client.ending == "eof"


def test_the_last_allowed_request_ends_the_connection(build: Build) -> None:
    loopback = build(http={"max_requests": 4})
    client = loopback.client()
    for number in range(4):
        assert client.ending == "open"
        client.send(post())
        loopback.settle()
        loopback.upstreams[0].send(answer())
        assert (b"Connection: close" in client.take()) is (number == 3)
    assert client.ending == "eof"


def test_a_client_that_waits_is_told_to_go_on_once(build: Build) -> None:
    loopback = build()
    client = loopback.client()
    request = post(CALL, b"Expect: 100-continue")
    for _ in range(4):
        client.send(request.removesuffix(CALL), CALL[:9])
        assert client.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(CALL[9:])
        assert client.take() == b""
        loopback.settle()
        loopback.upstreams[0].send(answer())
        assert client.take() == answer()
        client.send(request)  # With its body at once nobody waits.
        loopback.upstreams[0].send(answer())
        assert client.take() == answer()


def test_a_known_chunked_head_that_comes_alone_waits_for_its_body(build: Build) -> None:
    loopback = build()
    client = loopback.client()
    head = b"DELETE /mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b"GET /mcp HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for _ in range(4):
        client.send(head)
        client.send(chunk(body) + LAST)
        loopback.settle()
        upstream = loopback.upstreams[0]
        assert upstream.take().endswith(body)
        upstream.send(answer())
        assert client.take() == answer()
