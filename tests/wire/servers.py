"""Servers of the legacy era that remember their sessions, and can be made to forget them."""

from __future__ import annotations

import json
from typing import Any, Final

from shadowcat.testing.loopback import Peer

from .sessions import VERSION, answer, in_session, named
from .stage import Got, Stage, bare, message, post, split

OFFERS: Final[dict[str, Any]] = {
    "tools": {"listChanged": True},
    "logging": {},
    "resources": {"subscribe": True},
}
HOSTS: Final = ("a.example:3001", "b.example:3001")
UNKNOWN: Final = b'{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"?"}}'
LIST: Final = message("tools/list")
TOOL: Final = message("tools/call")
RECOVERED: Final = ["tools/list", "initialize", "notifications/initialized", "tools/list"]
"""What is asked for where a list finds its session lost and brings it back."""


def call(method: str, **params: Any) -> bytes:
    """A request with these params."""
    return json.dumps({"jsonrpc": "2.0", "id": 7, "method": method, "params": params}).encode()


def note(method: str) -> bytes:
    """A notification."""
    return json.dumps({"jsonrpc": "2.0", "method": method}).encode()


def reply(number: object) -> bytes:
    """A client's answer to a request of the server."""
    return json.dumps({"jsonrpc": "2.0", "id": number, "result": {"action": "accept"}}).encode()


def opening(**capabilities: Any) -> bytes:
    """An `initialize`, with white space of its own that a replay keeps."""
    params = {
        "protocolVersion": VERSION,
        "capabilities": capabilities,
        "clientInfo": {"name": "test", "version": "1"},
    }
    return (
        b'{"jsonrpc":"2.0","id":7,"method":"initialize","params":%b}' % json.dumps(params, indent=1).encode()
    )


class Seen:
    """A request that a server got."""

    def __init__(self, got: Got) -> None:
        self.got = got
        self.host = got.header("Host")
        self.session = got.header("Mcp-Session-Id")
        self.http_method = got.start[0]
        self.message: Any = json.loads(got.body) if got.body else {}

    @property
    def method(self) -> str:
        """The method of JSON-RPC, or that of HTTP where there is none."""
        method = self.message.get("method") if isinstance(self.message, dict) else None
        return method or self.http_method


class Servers:
    """All upstreams of a proxy. They issue the ids up-1, up-2, …"""

    def __init__(self, proxy: Stage) -> None:
        self.proxy = proxy
        self.sessions: dict[str, str] = {}
        """Where each session is."""
        self.refusing: set[str] = set()
        """Host names that refuse connections."""
        self.version = VERSION
        self.offers: Any = OFFERS
        self.initialize_answers: dict[str, bytes] = {}
        """What a host says to `initialize`, where not the usual."""
        self.answers: dict[str, bytes] = {}
        """What is said to a method, where not the usual."""
        self.silent: set[str] = set()
        """Methods that are not answered; they stay in `pending`."""
        self.pending: list[tuple[Peer, Seen]] = []
        self.seen: list[Seen] = []
        self._count = 0
        connect = proxy.loop.create_connection

        async def create_connection(factory: Any, host: str, port: int, **options: Any) -> Any:
            if host in self.refusing:
                proxy.loop.dialled.append((host, port))
                raise ConnectionRefusedError
            return await connect(factory, host, port, **options)

        proxy.loop.create_connection = create_connection  # type: ignore[method-assign, assignment]

    def forget(self) -> None:
        """All restart at once."""
        self.sessions.clear()

    def methods(self) -> list[str]:
        """What was asked since the last call."""
        found = [each.method for each in self.seen]
        self.seen.clear()
        return found

    def run(self) -> None:
        """Answer, until nobody asks anything more."""
        self.proxy.settle()
        busy = True
        while busy:
            busy = False
            for upstream in list(self.proxy.upstreams):
                if upstream.writes:
                    busy = True
                    for got in split(upstream.take()):
                        self._answer(upstream, Seen(got))
            self.proxy.settle()

    def advance(self, seconds: float) -> None:
        """Let time pass, answering."""
        for _ in range(round(seconds * 10)):
            self.proxy.advance(0.1)
            self.run()

    def _answer(self, upstream: Peer, seen: Seen) -> None:
        self.seen.append(seen)
        if seen.method in self.silent:
            self.pending.append((upstream, seen))
            return
        upstream.send(self.answer_to(seen))

    def answer_to(self, seen: Seen) -> bytes:
        """What a server says."""
        assert seen.host is not None
        if seen.method == "initialize":
            if seen.host in self.initialize_answers:
                return self.initialize_answers[seen.host]
            self._count += 1
            name = f"up-{self._count}"
            self.sessions[name] = seen.host
            return answer(self.result(seen.message["id"]), name)
        if self.sessions.get(seen.session or "") != seen.host:
            return answer(UNKNOWN, status="404 No")
        if seen.method in self.answers:
            return self.answers[seen.method]
        if seen.http_method == "DELETE":
            self.sessions.pop(seen.session or "")
            return answer()
        if not (isinstance(seen.message, dict) and "id" in seen.message and "method" in seen.message):
            return b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
        body = json.dumps({"jsonrpc": "2.0", "id": seen.message["id"], "result": {}}).encode()
        return answer(body, seen.session or "")

    def result(self, number: object) -> bytes:
        """The answer to `initialize`."""
        members = {"protocolVersion": self.version, "capabilities": self.offers, "serverInfo": {"name": "a"}}
        return json.dumps({"jsonrpc": "2.0", "id": number, "result": members}).encode()

    # Clients, each over a connection of its own.

    def tell(self, data: bytes, client: Peer | None = None) -> Peer:
        """Send something; the client that did."""
        client = client or self.proxy.caller()
        self.proxy.tell(client, data)
        self.run()
        return client

    def ask(self, data: bytes, client: Peer | None = None) -> Got:
        """Send something, and get the one answer that must be there."""
        client = self.tell(data, client)
        got = self.received(client)
        client.abort()
        self.proxy.settle()
        return got

    def received(self, client: Peer) -> Got:
        """The one answer that must be there."""
        (got,) = split(client.take())
        return got

    def open(self, *, initialized: bool = True, path: str = "/mcp", **capabilities: Any) -> str:
        """A session that is ready for use."""
        got = self.ask(post(opening(**capabilities), path=path))
        session = got.header("Mcp-Session-Id")
        assert session is not None
        if initialized:
            body = note("notifications/initialized")
            assert self.ask(post(body, named(session), path=path)).status == 202
        self.seen.clear()
        return session

    def recovering(self, body: bytes = LIST) -> tuple[str, Peer]:
        """A lost session whose new `initialize` waits for its answer, and the client that asked for more."""
        session = self.open()
        self.forget()
        self.silent = {"initialize"}
        return session, self.tell(in_session(session, body))

    def ping(self, session: str, client: Peer | None = None) -> Got:
        """Use a session."""
        return self.ask(in_session(session, LIST), client)

    def delete(self, session: str) -> Got:
        """End a session."""
        return self.ask(bare("DELETE", named(session)))


def counted(proxy: Stage) -> tuple[int, int]:
    """Recoveries, and failed ones."""
    names = "session_recoveries_total", "session_recovery_failures_total"
    return proxy.metric(names[0], "/mcp"), proxy.metric(names[1], "/mcp")


def is_over(servers: Servers, session: str) -> bool:
    """Whether a session is unknown; its upstream is not even asked."""
    servers.seen.clear()
    got = servers.ping(session)
    return (got.status, got.code, servers.methods()) == (404, -32600, [])


def lose(servers: Servers, session: str) -> str:
    """The upstream of a session goes down; its name."""
    (host,) = set(servers.sessions.values())
    for upstream in servers.proxy.upstreams:
        upstream.reset()
    servers.proxy.settle()
    servers.proxy.loop.dialled.clear()
    servers.refusing.add(host.split(":")[0])
    return host
