"""What connections share: detached exchanges, draining, the end, the numbers."""

from __future__ import annotations

import pytest

from shadowcat.proxy.plane import MOST_DETACHED
from shadowcat.testing.loopback import Loopback, Peer

from .conftest import Build
from .messages import CALL, LAST, STREAM, answer, chunk, get, modern, post, status_of


def open_exchange(loopback: Loopback, request: bytes) -> tuple[Peer, Peer]:
    client = loopback.client()
    client.send(request)
    loopback.settle()
    return client, loopback.upstreams[-1]


def test_a_detached_exchange_goes_to_its_end(build: Build) -> None:
    loopback = build()
    client, upstream = open_exchange(loopback, post())
    client.reset()
    loopback.advance(0.2)
    assert loopback.metric("detached_exchanges") == 1
    assert loopback.metric("client_aborts_total", "/mcp") == 1
    upstream.send(STREAM + chunk(b"a"), chunk(b"b") + LAST)
    loopback.advance(0.2)
    assert not upstream.is_closing()
    assert loopback.metric("detached_exchanges") == 0
    assert loopback.metric("requests_in_flight", "/mcp") == 0
    assert loopback.plane.open_connections == 0


def test_a_detached_exchange_is_given_up_in_time(build: Build) -> None:
    loopback = build(timeouts={"detached": 20})
    client, upstream = open_exchange(loopback, post())
    upstream.send(STREAM)
    client.reset()
    loopback.advance(19.7)
    assert not upstream.is_closing()
    loopback.advance(0.6)
    assert upstream.is_closing()
    assert loopback.plane.open_connections == 0


def test_a_stalled_client_that_leaves_lets_its_upstream_go_on(build: Build) -> None:
    loopback = build()
    client, upstream = open_exchange(loopback, post())
    upstream.send(STREAM + chunk(b"a"))
    client.stall()
    assert not upstream.reading
    client.reset()
    assert upstream.reading
    upstream.send(LAST)
    assert not upstream.is_closing()


def test_beyond_the_bound_the_oldest_detached_exchange_is_given_up(build: Build) -> None:
    loopback = build()
    upstreams = []
    for _ in range(MOST_DETACHED):
        client, upstream = open_exchange(loopback, post())
        client.reset()
        upstreams.append(upstream)
    assert MOST_DETACHED == 256
    assert not any(upstream.is_closing() for upstream in upstreams)
    client, _ = open_exchange(loopback, post())
    client.reset()
    assert [upstream.is_closing() for upstream in upstreams] == [True] + [False] * 255
    upstreams[1].send(answer())
    client, _ = open_exchange(loopback, post())
    client.reset()
    assert not upstreams[2].is_closing()
    assert loopback.plane.open_connections == MOST_DETACHED


def test_draining_answers_what_was_asked_and_then_closes(build: Build) -> None:
    loopback = build()
    client, upstream = open_exchange(loopback, post())
    upstream.send(answer())
    client.take()
    client.send(post())
    loopback.plane.begin_drain()
    upstream.send(answer())
    assert b"Connection: close" in client.take()
    assert client.ending == "eof"
    assert upstream.is_closing()
    client.finish()
    loopback.settle()
    assert loopback.plane.open_connections == 0


def test_draining_closes_idle_connections_after_a_moment(build: Build) -> None:
    loopback = build()
    client, upstream = open_exchange(loopback, post())
    upstream.send(answer())
    client.take()
    fresh = loopback.client()
    loopback.plane.begin_drain()
    loopback.settle()
    assert upstream.is_closing()
    loopback.advance(0.7)
    assert client.ending == "open"
    fresh.send(post())  # It was on its way.
    loopback.settle()
    loopback.upstreams[-1].send(answer())
    assert status_of(fresh.take()) == 200
    loopback.advance(0.7)
    assert client.ending == "closed"


def test_draining_ends_a_get_stream_at_a_chunk_boundary(build: Build) -> None:
    loopback = build()
    client, upstream = open_exchange(loopback, get())
    upstream.send(STREAM + chunk(b"data: 1\n\n"))
    loopback.plane.begin_drain()
    loopback.settle()
    assert client.received.endswith(chunk(b"data: 1\n\n") + LAST)
    assert upstream.is_closing()
    assert client.ending in ("eof", "closed")


def test_draining_ends_a_get_stream_at_the_next_boundary(build: Build) -> None:
    loopback = build()
    client, upstream = open_exchange(loopback, get())
    whole = chunk(b"data: 1\n\n")
    upstream.send(STREAM + whole[:6])
    loopback.plane.begin_drain()
    loopback.settle()
    assert client.ending == "open"
    upstream.send(whole[6:])
    loopback.advance(1.0)
    assert client.received.endswith(whole + LAST)
    assert client.ending in ("eof", "closed")


def test_draining_leaves_a_calls_stream_alone(build: Build) -> None:
    loopback = build()
    client, upstream = open_exchange(loopback, post())
    upstream.send(STREAM + chunk(b"data: 1\n\n"))
    loopback.plane.begin_drain()
    loopback.advance(3.0)
    assert client.ending == "open"
    upstream.send(chunk(b"data: 2\n\n") + LAST)
    assert client.received.endswith(chunk(b"data: 2\n\n") + LAST)


def test_abort_cuts_everything_off(build: Build) -> None:
    loopback = build()
    idle = loopback.client()
    calling, _ = open_exchange(loopback, post())
    detached, _ = open_exchange(loopback, post())
    detached.reset()
    waiting, upstream = open_exchange(loopback, get())
    upstream.send(STREAM)
    loopback.plane.abort()
    loopback.settle()
    assert {peer.ending for peer in (idle, calling, waiting)} == {"aborted"}
    loopback.plane.abort()
    loopback.settle()
    assert loopback.plane.open_connections == 0


def test_requests_are_counted_by_the_status_the_client_got(build: Build) -> None:
    loopback = build()
    client, upstream = open_exchange(loopback, post())
    upstream.send(answer(b"{}", status=b"503 Busy"))
    client.send(b"HEAD /mcp HTTP/1.1\r\nHost: localhost\r\n\r\n")
    client.send(b"GET /none HTTP/1.1\r\nHost: localhost\r\n\r\n")
    for _ in range(3):
        client.send(post())
        upstream.send(answer())
    loopback.advance(0.2)
    assert [loopback.answered("/mcp", status) for status in (200, 404, 405, 503)] == [3, 0, 1, 1]
    assert loopback.metric("refusals_total", "method") == 1
    assert loopback.metric("refusals_total", "no_route") == 1


def test_bytes_are_counted_on_both_sides(build: Build) -> None:
    loopback = build()
    client, upstream = open_exchange(loopback, post())
    for _ in range(4):
        upstream.send(answer())
        client.send(post())
    loopback.advance(0.2)
    assert loopback.metric("client_received_bytes_total") == 5 * len(post())
    assert loopback.metric("client_sent_bytes_total") == len(client.received)
    assert loopback.metric("upstream_received_bytes_total") == 4 * len(answer())
    assert loopback.metric("upstream_sent_bytes_total") == len(upstream.received)


def test_an_idle_head_is_forgotten_and_recognised_anew(build: Build) -> None:
    loopback = build(http={"keepalive_timeout": 600})
    client, upstream = open_exchange(loopback, post(CALL, b"X-Kept: secret"))
    for pause in (0, 0, 0, 130, 0, 0, 130, 0):
        upstream = loopback.upstreams[-1]
        upstream.send(answer())
        assert client.take() == answer()
        loopback.advance(pause)
        client.send(post(CALL, b"X-Kept: secret"))
        loopback.settle()
        assert b"X-Kept: secret" in loopback.upstreams[-1].take()


@pytest.mark.parametrize("request_", [post(), modern(), get()])
def test_nothing_is_left_in_flight(build: Build, request_: bytes) -> None:
    loopback = build()
    for how in ("finish", "reset"):
        client, upstream = open_exchange(loopback, request_)
        upstream.send(answer())
        getattr(client, how)()
        client, upstream = open_exchange(loopback, request_)
        getattr(client, how)()
        upstream.send(answer())
        loopback.advance(0.2)
        assert loopback.metric("requests_in_flight", "/mcp") == 0
        assert loopback.metric("connections") == 0
