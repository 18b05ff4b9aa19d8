"""Heads that differ in nothing but `Mcp-Name`: each is held against its own body."""

from __future__ import annotations

from shadowcat.config.model import Config, Route, Upstream
from shadowcat.testing.loopback import Loopback

ROUTE = Route(upstreams=[Upstream(url="http://127.0.0.1:3001/mcp")])


def call(header: bytes, name: bytes) -> bytes:
    body = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"%b","_meta":' % name
    body += b'{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}'
    return (
        b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: %b\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (header, len(body), body)
    )


def test_a_name_is_that_of_the_present_head() -> None:
    loopback = Loopback(Config(workers=1, admin=None, routes=[ROUTE]))
    client = loopback.client()
    for name in (b"echo", b"echo", b"echo", b"look", b"look"):
        client.send(call(name, name))
        loopback.settle()
        (upstream,) = loopback.upstreams
        assert b"Mcp-Name: %b\r\n" % name in upstream.take()
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        assert client.take().startswith(b"HTTP/1.1 200 OK\r\n")
    for header, name in ((b"echo", b"look"), (b"look", b"echo")):
        client.send(call(header, name))
        assert client.take().startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert not upstream.take()
    loopback.close()
