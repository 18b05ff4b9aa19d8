"""What clients and upstreams of the legacy era say to each other about sessions."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from shadowcat.proxy.assembly import assemble
from shadowcat.proxy.plane import DataPlane
from shadowcat.shm.sessions.session import Session
from shadowcat.shm.shared import worker_number
from shadowcat.testing.loopback import Peer

from .stage import HERE, Got, Stage, chunk, message, post, split

VERSION = "2025-11-25"
PING = message("ping")
NOTE = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
INITIALIZE = json.dumps(
    {
        "jsonrpc": "2.0",
        "id": 7,
        "method": "initialize",
        "params": {
            "protocolVersion": VERSION,
            "capabilities": {"sampling": {}, "roots": {"listChanged": True}},
            "clientInfo": {"name": "test", "version": "1"},
        },
    }
).encode()
REFUSED = b'{"jsonrpc":"2.0","id":7,"error":{"code":-32602,"message":"no"}}'
OPENS_STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nMcp-Session-Id: %b\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)

UNKNOWN = "A" * 28
"""Well formed, and nobody's."""

Field = tuple[str, str]


def result(version: str = VERSION) -> bytes:
    """A server's consent."""
    capabilities = {"tools": {"listChanged": True}, "logging": {}}
    members = {"protocolVersion": version, "capabilities": capabilities, "serverInfo": {"name": "a"}}
    return json.dumps({"jsonrpc": "2.0", "id": 7, "result": members}).encode()


def answer(body: bytes = b"{}", *ids: str, status: str = "200 OK", kind: str = "application/json") -> bytes:
    """An answer with a Content-Length, and with session ids."""
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", *(f"Mcp-Session-Id: {each}" for each in ids)]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def event(body: bytes) -> bytes:
    """A message as an event, in a chunk."""
    return chunk(b"event: message\r\ndata: %b\r\n\r\n" % body)


def named(session: str) -> Field:
    """The field that names a session."""
    return ("Mcp-Session-Id", session)


def in_session(session: str, body: bytes = PING, *fields: Field) -> bytes:
    """A POST of a session."""
    return post(body, named(session), *fields)


class Turn(NamedTuple):
    """One request that an upstream got and answered."""

    host: str
    request: Got
    client: bytes

    @property
    def answer(self) -> Got:
        (got,) = split(self.client)
        return got


def turn(proxy: Stage, sent: bytes, *reads: bytes, client: Peer | None = None, peer: str = HERE) -> Turn:
    """Send a message that must pass, and let the upstream answer in these reads.

    The client is a new one, gone afterwards, unless it is given.
    """
    caller = client or proxy.caller(peer)
    proxy.tell(caller, sent)
    assert caller.take() == b""
    (upstream,) = [each for each in proxy.upstreams if each.writes]
    (request,) = split(upstream.take())
    upstream.send(*(reads or [answer()]))
    proxy.settle()
    received = caller.take()
    if client is None:
        caller.abort()
        proxy.settle()
    host = request.header("Host")
    assert host is not None
    return Turn(host, request, received)


def open_session(proxy: Stage, upstream_id: str = "up-1", version: str = VERSION, *, peer: str = HERE) -> str:
    """Open a session; its id, as the client knows it."""
    done = turn(proxy, post(INITIALIZE), answer(result(version), upstream_id), peer=peer)
    session = done.answer.header("Mcp-Session-Id")
    assert session is not None
    assert session != upstream_id
    return session


def half_open(proxy: Stage, client: Peer) -> str:
    """Begin to open a session, as far as the head of a stream; its id."""
    proxy.tell(client, post(INITIALIZE))
    (upstream,) = proxy.upstreams
    upstream.take()
    upstream.send(OPENS_STREAM % b"up-1")
    return id_in(client.take())


def id_in(received: bytes) -> str:
    """The session id in what a client has got, whole or not."""
    (found,) = re.findall(rb"Mcp-Session-Id: (.*)\r\n", received)
    return found.decode()


def refusal(proxy: Stage, sent: bytes, *, peer: str = HERE) -> Got:
    """The proxy's own answer to a message of which no upstream may get anything."""
    for upstream in proxy.upstreams:
        assert not upstream.writes
    got = proxy.ask(sent, peer=peer)
    assert got is not None
    assert all(not upstream.writes for upstream in proxy.upstreams)
    return got


def lives(proxy: Stage, session: str, upstream_id: str = "up-1") -> bool:
    """Whether a session is still good: its requests arrive under the upstream's id. If not, it is unknown."""
    client = proxy.caller()
    proxy.tell(client, in_session(session))
    own = client.take()
    if own:
        (got,) = split(own)
        assert (got.status, got.code) == (404, -32600)
        return False
    (upstream,) = [each for each in proxy.upstreams if each.writes]
    (request,) = split(upstream.take())
    assert request.header("Mcp-Session-Id") == upstream_id
    upstream.send(answer())
    proxy.settle()
    client.abort()
    proxy.settle()
    return True


def farewells(proxy: Stage) -> list[tuple[str | None, str | None, str | None]]:
    """The DELETEs of the proxy's own that upstreams got since the last look: host, session, version."""
    found = []
    for upstream in proxy.upstreams:
        for got in split(upstream.take()):
            assert got.start == ("DELETE", "/mcp", "1.1")
            assert got.body == b""
            found.append(
                (got.header("Host"), got.header("Mcp-Session-Id"), got.header("MCP-Protocol-Version"))
            )
            upstream.send(answer())
    proxy.settle()
    return found


def end_session(proxy: Stage, slot: int, version: int) -> None:
    """What control asks for."""
    proxy.plane.end_session((version & 0xFFFFFF) << 24 | slot)
    proxy.settle()


def slot_of(proxy: Stage, session: str) -> Session:
    """A session as the worker knows it. Looking counts as a use."""
    found = proxy.plane.sessions.table.find(session.encode(), int(proxy.loop.time() * 1e9))
    assert found is not None
    return found


def sibling(proxy: Stage) -> DataPlane:
    """The next worker's data plane, over the same shared memory; its clock does not run."""
    return assemble(proxy.config, proxy._shared, worker_number(1), proxy.loop, proxy.clock_ns)


def caller_at(proxy: Stage, plane: DataPlane) -> Peer:
    """A client of a sibling."""
    peer = Peer(proxy.loop, plane.client_protocol())
    peer.connect()
    return peer
