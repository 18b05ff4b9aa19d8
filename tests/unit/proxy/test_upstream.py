"""An upstream connection: when it is used again, how long it is kept, what ends it."""

from __future__ import annotations

import pytest

from shadowcat.testing.loopback import Loopback, Peer

from .conftest import Build
from .messages import CALL, LAST, LIST, STREAM, answer, chunk, error_of, get, post, status_of


def open_exchange(loopback: Loopback, request: bytes = post()) -> tuple[Peer, Peer]:
    """A client that has sent a request, and the upstream connection that got it."""
    client = loopback.client()
    client.send(request)
    loopback.settle()
    upstream = loopback.upstreams[-1]
    assert upstream.take()
    return client, upstream


def exchange(loopback: Loopback, client: Peer, upstream: Peer, *reads: bytes) -> bytes:
    """One more exchange of the same kind."""
    client.send(post())
    loopback.settle()
    upstream.send(*reads)
    return client.take()


@pytest.mark.parametrize(
    "reads",
    [
        (answer(),),
        (answer()[:20], answer()[20:]),
        (STREAM, chunk(b"data: 1\n\n"), LAST),
        (STREAM + chunk(b"data: 1\n\n") + LAST,),
        (b"HTTP/1.1 204 No Content\r\n\r\n",),
        (b"HTTP/1.1 102 Processing\r\n\r\n", answer()),
    ],
)
def test_a_complete_answer_leaves_a_connection_to_use_again(build: Build, reads: tuple[bytes, ...]) -> None:
    loopback = build()
    client, upstream = open_exchange(loopback)
    upstream.send(*reads)
    for _ in range(4):
        assert client.take()
        client.send(post())
        assert upstream.take()
        upstream.send(*reads)
    loopback.advance(0.2)
    assert len(loopback.upstreams) == 1
    assert loopback.metric("pool_reuse_total", "/mcp", "a") == 4


@pytest.mark.parametrize(
    "reads",
    [
        (answer(b"{}", b"Connection: close"),),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",),
        (answer() + b"x",),
        (answer() + answer(),),
        (STREAM + chunk(b"data: 1\n\n") + LAST + b"x",),
        (b"HTTP/1.1 204 No Content\r\n\r\nx",),
        (answer(b"{}", b"Keep-Alive: timeout=1"),),
    ],
)
@pytest.mark.parametrize("warm", [0, 3])
def test_a_doubtful_answer_is_the_connections_last(build: Build, reads: tuple[bytes, ...], warm: int) -> None:
    loopback = build()
    client, upstream = open_exchange(loopback)
    for _ in range(warm):
        upstream.send(answer())
        client.take()
        client.send(post())
    upstream.send(*reads)
    assert b"x" not in client.take().partition(b"\r\n\r\n")[2].replace(b"x\r\n", b"")
    assert upstream.is_closing()
    client.send(post())
    loopback.settle()
    assert len(loopback.upstreams) == 2


def test_an_answer_before_its_request_was_taken_is_the_connections_last(build: Build) -> None:
    loopback = build()
    large = post(
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"' + b"x" * 100_000 + b'"}}'
    )
    client, upstream = open_exchange(loopback, large)
    upstream.buffered = 50_000  # The rest of the request is still to go.
    upstream.send(answer())
    assert status_of(client.take()) == 200
    assert upstream.is_closing()
    client.send(large)
    loopback.settle()
    assert len(loopback.upstreams) == 2
    again = loopback.upstreams[1]
    again.send(answer())
    assert not again.is_closing()  # Taken as a whole, so it may be used again.


def test_an_idle_connection_is_dropped_in_time(build: Build) -> None:
    loopback = build(pool={"idle_timeout": 4})
    _, upstream = open_exchange(loopback)
    upstream.send(answer())
    loopback.advance(3.7)
    assert not upstream.is_closing()
    loopback.advance(0.6)
    assert upstream.is_closing()


@pytest.mark.parametrize(
    ("said", "kept"), [(b"timeout=3", 2.0), (b"max=5, timeout=2", 1.0), (b"timeout=60", 4.0)]
)
def test_the_upstreams_own_keep_alive_is_learned(build: Build, said: bytes, kept: float) -> None:
    loopback = build(pool={"idle_timeout": 4})
    client, upstream = open_exchange(loopback)
    upstream.send(answer(b"{}", b"Keep-Alive: " + said))
    client.take()
    loopback.advance(kept - 0.3)
    assert not upstream.is_closing()
    loopback.advance(0.6)
    assert upstream.is_closing()


@pytest.mark.parametrize("unasked", [b"x", answer(), b"HTTP/1.1 408 Request Timeout\r\n\r\n"])
def test_bytes_while_idle_end_the_connection(build: Build, unasked: bytes) -> None:
    loopback = build()
    client, upstream = open_exchange(loopback)
    upstream.send(answer())
    client.take()
    upstream.send(unasked)
    assert upstream.is_closing()
    client.send(post())
    loopback.settle()
    assert len(loopback.upstreams) == 2
    assert client.take() == b""


def test_a_connection_that_the_upstream_ended_gets_no_request_of_the_same_turn(build: Build) -> None:
    loopback = build()
    client, upstream = open_exchange(loopback)
    upstream.send(answer())
    client.take()
    upstream.finish()
    client.send(post())  # The loop has not turned, so the transport has not said that it is gone.
    loopback.settle()
    assert len(loopback.upstreams) == 2
    loopback.upstreams[1].send(answer())
    assert status_of(client.take()) == 200
    loopback.advance(0.2)
    assert loopback.metric("pool_idle", "/mcp", "a") == 1
    assert loopback.metric("pool_active", "/mcp", "a") == 0


@pytest.mark.parametrize("interim", [b"100 Continue", b"102 Processing", b"103 Early Hints"])
@pytest.mark.parametrize("together", [True, False])
def test_interim_answers_are_dropped_however_often_they_come(
    build: Build, interim: bytes, together: bool
) -> None:
    loopback = build()
    client, upstream = open_exchange(loopback)
    one = b"HTTP/1.1 " + interim + b"\r\n\r\n"
    for _ in range(4):
        if together:
            upstream.send(one * 5 + answer())
        else:
            upstream.send(*[one] * 5, answer())
        assert client.take() == answer()
        client.send(post())
        upstream.take()


def test_an_interim_answer_with_a_content_length_is_no_final_one(build: Build) -> None:
    loopback = build()
    client, upstream = open_exchange(loopback)
    for _ in range(4):
        upstream.send(*[b"HTTP/1.1 102 Processing\r\nContent-Length: 0\r\n\r\n"] * 4)
        assert client.take() == b""
        upstream.send(answer())
        assert client.take() == answer()
        client.send(post())
        upstream.take()


def test_a_flood_of_interim_answers_is_survived(build: Build) -> None:
    loopback = build()
    client, upstream = open_exchange(loopback)
    upstream.send(b"HTTP/1.1 102 \r\n\r\n" * 5000 + answer())
    assert client.take() == answer()


@pytest.mark.parametrize(
    "garbage",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 05\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000,
    ],
)
@pytest.mark.parametrize("warm", [0, 3])
def test_a_malformed_head_is_a_502_and_the_end(build: Build, garbage: bytes, warm: int) -> None:
    loopback = build()
    client, upstream = open_exchange(loopback)
    for _ in range(warm):
        upstream.send(answer(b"hello"))
        client.take()
        client.send(post())
    upstream.send(garbage)
    reply = client.take()
    assert status_of(reply) == 502
    assert error_of(reply)["id"] == 7
    assert upstream.is_closing()
    assert client.ending == "open"


def test_a_malformed_chunk_cuts_the_answer_off(build: Build) -> None:
    loopback = build()
    client, upstream = open_exchange(loopback)
    upstream.send(STREAM + chunk(b"data: 1\n\n"), b"zz\r\n")
    assert upstream.is_closing()
    assert client.is_closing()
    assert not client.received.endswith(LAST)


@pytest.mark.parametrize(("body", "seconds"), [(LIST, 10), (CALL, 600)])
def test_an_answer_that_does_not_come_is_a_504(build: Build, body: bytes, seconds: int) -> None:
    loopback = build()
    client, upstream = open_exchange(loopback, post(body))
    loopback.advance(seconds - 0.3)
    assert client.take() == b""
    loopback.advance(0.6)
    assert status_of(client.take()) == 504
    assert upstream.is_closing()


def test_a_stream_that_does_not_end_in_time_is_cut_off(build: Build) -> None:
    loopback = build(timeouts={"request": 20})
    client, upstream = open_exchange(loopback)
    loopback.advance(10)
    upstream.send(STREAM + chunk(b"data: 1\n\n"))
    loopback.advance(9.7)
    assert not client.is_closing()
    loopback.advance(0.6)
    assert client.is_closing()
    assert not client.received.endswith(LAST)


def test_a_get_stream_has_no_time_limit(build: Build) -> None:
    loopback = build(timeouts={"request": 2})
    client, upstream = open_exchange(loopback, get())
    upstream.send(STREAM)
    loopback.advance(10)
    upstream.send(chunk(b"data: 1\n\n"))
    assert client.received.endswith(chunk(b"data: 1\n\n"))
    assert client.ending == "open"


@pytest.mark.parametrize("at", [0, 30])
@pytest.mark.parametrize("reset", [True, False])
def test_an_upstream_that_closes_before_its_answer_is_a_502(build: Build, at: int, reset: bool) -> None:
    loopback = build()
    client, upstream = open_exchange(loopback)
    if at:
        upstream.send(answer()[:at])
    if reset:
        upstream.reset()
    else:
        upstream.finish()
    loopback.settle()
    assert status_of(client.take()) == 502
    assert len(loopback.upstreams) == 1  # A call is never sent twice.


def test_a_read_is_sent_again_over_a_new_connection_once(build: Build) -> None:
    loopback = build()
    client, upstream = open_exchange(loopback, post(LIST))
    upstream.finish()
    loopback.settle()
    second = loopback.upstreams[1]
    assert second.take().endswith(LIST)
    assert client.take() == b""
    second.finish()
    loopback.settle()
    assert len(loopback.upstreams) == 2
    assert status_of(client.take()) == 502


def test_a_read_is_not_sent_again_once_its_client_has_a_part_of_the_answer(build: Build) -> None:
    loopback = build()
    client, upstream = open_exchange(loopback, post(LIST))
    part = answer(b"x" * 20_000)[:200]
    upstream.send(part)
    upstream.finish()
    loopback.settle()
    assert len(loopback.upstreams) == 1
    assert client.received == part
    assert client.is_closing()


@pytest.mark.parametrize("cut", [1, 50, 100])
def test_a_small_answer_goes_out_whole_or_not_at_all(build: Build, cut: int) -> None:
    loopback = build()
    client, upstream = open_exchange(loopback)
    upstream.send(answer(b"x" * 100)[:-cut])
    assert client.received == b""
    upstream.finish()
    loopback.settle()
    assert status_of(client.take()) == 502


def test_a_small_answer_in_pieces_goes_out_in_one(build: Build) -> None:
    loopback = build()
    client, upstream = open_exchange(loopback)
    whole = answer(b"x" * 100)
    for at in range(0, len(whole), 7):
        assert client.received == b""
        upstream.send(whole[at : at + 7])
    assert client.received == whole
    assert client.ending == "open"


def test_a_large_body_cut_short_is_never_a_whole_answer(build: Build) -> None:
    loopback = build()
    client, upstream = open_exchange(loopback)
    upstream.send(answer(b"x" * 20_000)[:-50])
    upstream.finish()
    loopback.settle()
    assert client.is_closing()
    assert client.received == answer(b"x" * 20_000)[:-50]


def test_a_body_that_ends_with_the_connection_is_chunked(build: Build) -> None:
    loopback = build()
    client, upstream = open_exchange(loopback)
    upstream.send(b"HTTP/1.1 200 OK\r\n\r\nhel", b"lo")
    upstream.finish()
    loopback.settle()
    head, _, body = client.take().partition(b"\r\n\r\n")
    assert b"\r\nTransfer-Encoding: chunked" in head
    assert body == chunk(b"hel") + chunk(b"lo") + LAST
    assert client.ending == "open"


def test_a_reset_is_not_the_end_of_a_body_that_ends_with_the_connection(build: Build) -> None:
    loopback = build()
    client, upstream = open_exchange(loopback)
    upstream.send(b"HTTP/1.1 200 OK\r\n\r\nhel")
    upstream.reset()
    loopback.settle()
    assert client.is_closing()
    assert not client.received.endswith(LAST)
