"""Messages that several tests send."""

from __future__ import annotations

import json

MODERN = b"2026-07-28"
CALL = b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo"}}'
LIST = b'{"jsonrpc":"2.0","id":8,"method":"tools/list"}'


def post(body: bytes = CALL, *lines: bytes, path: bytes = b"/mcp", version: bytes = b"HTTP/1.1") -> bytes:
    """A POST with its Content-Length as the last field."""
    fields = b"".join(line + b"\r\n" for line in (b"Host: localhost", *lines))
    return b"POST %b %b\r\n%bContent-Length: %d\r\n\r\n%b" % (path, version, fields, len(body), body)


def modern(body: bytes = CALL) -> bytes:
    """A request of the stateless era."""
    return post(body, b"MCP-Protocol-Version: " + MODERN)


def get(*lines: bytes) -> bytes:
    """A GET that opens a stream."""
    fields = b"".join(line + b"\r\n" for line in (b"Host: localhost", b"Accept: text/event-stream", *lines))
    return b"GET /mcp HTTP/1.1\r\n%b\r\n" % fields


def answer(content: bytes = b"{}", *lines: bytes, status: bytes = b"200 OK") -> bytes:
    """An answer with a Content-Length."""
    fields = b"".join(line + b"\r\n" for line in lines)
    return b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (status, fields, len(content), content)


def chunk(content: bytes) -> bytes:
    """One chunk."""
    return b"%x\r\n%b\r\n" % (len(content), content)


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"


def status_of(message: bytes) -> int:
    """The status of an HTTP answer."""
    return int(message.split(b" ", 2)[1])


def error_of(message: bytes) -> dict[str, object]:
    """The JSON-RPC message in an answer of the proxy's own."""
    loaded = json.loads(message.partition(b"\r\n\r\n")[2])
    assert isinstance(loaded, dict)
    return loaded
