"""Where no head is remembered, nothing that a peer sends is taken for one that was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from shadowcat.config.model import Config, Pool, Route, Upstream
from shadowcat.testing.loopback import Loopback

CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}'
REQUEST = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(CALL), CALL)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
CONFIG = Config(
    workers=1,
    admin=None,
    routes=[Route(upstreams=[Upstream(url="http://127.0.0.1:3001/mcp")], pool=Pool(max_connections=1))],
)


@pytest.fixture
def loopback() -> Iterator[Loopback]:
    running = Loopback(CONFIG)
    yield running
    running.close()


@pytest.mark.parametrize("first", [b"\0", b"\r\n\r\n", b"X"])
def test_a_request_of_the_size_of_a_forgotten_one(loopback: Loopback, first: bytes) -> None:
    client = loopback.client()
    for _ in range(3):
        client.send(REQUEST)
        loopback.settle()
        loopback.upstreams[0].send(ANSWER)
    loopback.upstreams[0].take()
    client.take()
    # What heads are judged by changes, so all are forgotten.
    loopback.publish(replace(CONFIG, routes=[replace(CONFIG.routes[0], path="/other")]))
    head, body = REQUEST.split(b"\r\n\r\n")
    client.send(first + b"x" * (len(head) + 4 - len(first)) + body)
    client.finish()
    loopback.settle()
    assert loopback.upstreams[0].received == b""
    assert client.received == b"" or client.received.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("first", [b"\0", b"X"])
def test_an_answer_that_begins_with_a_nul(loopback: Loopback, first: bytes) -> None:
    client = loopback.client()
    client.send(REQUEST)
    loopback.settle()
    loopback.upstreams[0].send(first + ANSWER)
    assert client.received.startswith(b"HTTP/1.1 502 ")
