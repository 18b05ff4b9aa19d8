from __future__ import annotations

import pytest

from shadowcat.config.model import Upstream

from .conftest import Build
from .messages import CALL, LIST, answer, error_of, post, status_of

TWO = (
    Upstream(name="a", url="http://127.0.0.1:3001/mcp"),
    Upstream(name="b", url="http://127.0.0.1:3002/mcp"),
)


def test_the_most_recently_used_connection_is_used_first(build: Build) -> None:
    loopback = build()
    clients = [loopback.client() for _ in range(3)]
    for client in clients:
        client.send(post())
    loopback.settle()
    first, second, third = loopback.upstreams
    for upstream in (first, third, second):
        upstream.take()
        upstream.send(answer())
    clients[0].send(post())
    assert second.take()
    clients[1].send(post())
    assert third.take()


def test_only_as_many_connections_as_are_allowed(build: Build) -> None:
    loopback = build(pool={"max_connections": 2})
    clients = [loopback.client() for _ in range(5)]
    for client in clients:
        client.send(post())
    loopback.settle()
    assert len(loopback.upstreams) == 2
    loopback.advance(0.2)
    assert loopback.metric("pool_queue", "/mcp", "a") == 3
    assert loopback.metric("pool_active", "/mcp", "a") == 2
    for upstream in loopback.upstreams * 2:
        upstream.send(answer())
    loopback.upstreams[0].send(answer())
    assert all(client.take() == answer() for client in clients)


def test_a_lone_worker_has_the_connections_of_all(build: Build) -> None:
    loopback = build(pool={"max_connections": 4}, workers=2)
    for _ in range(5):
        loopback.client().send(post())
    loopback.settle()
    assert len(loopback.upstreams) == 4


def test_a_wait_for_a_connection_has_an_end(build: Build) -> None:
    loopback = build(pool={"max_connections": 1, "queue_timeout": 3})
    clients = [loopback.client() for _ in range(2)]
    for client in clients:
        client.send(post())
    loopback.settle()
    loopback.advance(2.8)
    assert clients[1].take() == b""
    loopback.advance(0.5)
    reply = clients[1].take()
    assert status_of(reply) == 503
    assert b"\r\nRetry-After: " in reply
    assert error_of(reply)["id"] == 7
    loopback.upstreams[0].send(answer())
    assert clients[0].take() == answer()
    assert not loopback.upstreams[0].writes[1:]  # What has been answered is no longer sent.


def test_who_leaves_the_queue_is_not_served(build: Build) -> None:
    loopback = build(pool={"max_connections": 1})
    clients = [loopback.client() for _ in range(3)]
    for client in clients:
        client.send(post())
    loopback.settle()
    (upstream,) = loopback.upstreams
    upstream.take()
    clients[1].reset()
    upstream.send(answer())
    assert upstream.take().count(b"POST") == 1
    upstream.send(answer())
    assert clients[2].take() == answer()
    assert upstream.take() == b""


def test_a_dial_that_fails_is_a_502_with_the_reason(build: Build) -> None:
    loopback = build()
    loopback.loop.failures = [ConnectionRefusedError(111, "Connection refused")] * 4
    client = loopback.client()
    client.send(post())
    loopback.settle()
    reply = client.take()
    assert status_of(reply) == 502
    assert "refused" in str(error_of(reply)["error"])
    loopback.loop.failures.clear()
    client.send(post())
    loopback.settle()
    assert len(loopback.upstreams) == 1


def test_a_dial_that_never_ends_is_a_504(build: Build) -> None:
    loopback = build(pool={"connect_timeout": 2})
    loopback.loop.answering = False
    client = loopback.client()
    client.send(post())
    loopback.advance(1.8)
    assert client.take() == b""
    loopback.advance(5.0)
    assert status_of(client.take()) == 504


@pytest.mark.parametrize("body", [CALL, LIST])
def test_another_upstream_stands_in_when_nothing_was_sent(build: Build, body: bytes) -> None:
    loopback = build(*TWO)
    loopback.loop.failures = [ConnectionRefusedError(111, "Connection refused")]
    client = loopback.client()
    client.send(post(body))
    loopback.settle()
    assert len({port for _, port in loopback.loop.dialled}) == 2
    (upstream,) = loopback.upstreams
    assert upstream.take().endswith(body)
    upstream.send(answer())
    assert client.take() == answer()


def test_upstreams_take_turns(build: Build) -> None:
    loopback = build(*TWO)
    client = loopback.client()
    for _ in range(6):
        client.send(post())
        loopback.settle()
        for upstream in loopback.upstreams:
            if upstream.take():
                upstream.send(answer())
        client.take()
    loopback.advance(0.2)
    assert loopback.metric("upstream_requests_total", "/mcp", "a") == 3
    assert loopback.metric("upstream_requests_total", "/mcp", "b") == 3


def test_a_connection_that_ends_while_idle_is_not_used(build: Build) -> None:
    loopback = build()
    client = loopback.client()
    client.send(post())
    loopback.settle()
    loopback.upstreams[0].send(answer())
    client.take()
    loopback.upstreams[0].finish()
    loopback.settle()
    client.send(post())
    loopback.settle()
    loopback.upstreams[1].send(answer())
    assert client.take() == answer()
