"""A proxy whose two sides a test plays, on a clock that the test moves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from shadowcat.config.model import (
    Auth,
    Balance,
    Breaker,
    Config,
    Http,
    Limits,
    Outlier,
    Policy,
    Pool,
    Retry,
    Route,
    RouteLimits,
    Sessions,
    Timeouts,
    Upstream,
)
from shadowcat.config.validate import validate
from shadowcat.testing.loopback import Loopback, Peer
from shadowcat.testing.wire import (
    Headers,
    declared_framing,
    parse_fields,
    parse_request_line,
    parse_status_line,
)

MODERN = ("MCP-Protocol-Version", "2026-07-28")
HERE = "127.0.0.1"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Got(NamedTuple):
    """A whole message with a Content-Length, or without a body."""

    start: tuple[str, str, str]
    headers: Headers
    body: bytes

    @property
    def status(self) -> int:
        return int(self.start[1])

    @property
    def error(self) -> Any:
        """The JSON-RPC message of an answer of the proxy's own."""
        assert self.header("Content-Type") == "application/json"
        return json.loads(self.body)

    @property
    def code(self) -> int:
        return int(self.error["error"]["code"])

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def header(self, name: str) -> str | None:
        """The one value of a field; a second one fails the test."""
        values = self.all(name)
        assert len(values) < 2, values
        return values[0] if values else None


def split(data: bytes) -> list[Got]:
    """Take whole messages apart; bytes that are left over fail the test."""
    found = []
    while data:
        end = data.index(b"\r\n\r\n") + 4
        head, data = data[:end], data[end:]
        is_answer = head.startswith(b"HTTP/")
        framing, length = declared_framing(head)
        assert framing != "chunked"
        assert len(data) >= length
        start = parse_status_line(head) if is_answer else parse_request_line(head)
        found.append(Got(start, parse_fields(head), data[:length]))
        data = data[length:]
    return found


class _Caller(Peer):
    """A client with an address of the test's choice, at a listener of its choice."""

    def __init__(self, loopback: Loopback, peer: str, own: str) -> None:
        super().__init__(loopback.loop, loopback.plane.client_protocol())
        self._extra = {"peername": (peer, 50000), "sockname": (own, 8080)}
        self.connect()


class Stage(Loopback):
    """One worker's data plane, its clients and its upstreams."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config

    def clock_ns(self) -> int:  # type: ignore[override]
        """Rates go by the clock that the test moves."""
        return round(self.loop.time() * 1e9)

    def caller(self, peer: str = HERE, own: str = HERE) -> Peer:
        """A client from `peer` that has connected to the listener on `own`."""
        return _Caller(self, peer, own)

    def tell(self, client: Peer, *pieces: bytes) -> None:
        """Let a client send."""
        client.send(*pieces)
        self.settle()

    def ask(self, message: bytes, *, peer: str = HERE, own: str = HERE) -> Got | None:
        """The proxy's own answer to a message on a connection of its own; None if there is none."""
        client = self.caller(peer, own)
        self.tell(client, message)
        answers = split(client.take())
        assert len(answers) < 2
        client.abort()
        self.settle()
        return answers[0] if answers else None

    def passes(
        self, message: bytes, *, peer: str = HERE, own: str = HERE, answer: bytes = OK
    ) -> tuple[Got, bytes]:
        """What an upstream gets of a message that must pass, and what the client gets of its answer."""
        client = self.caller(peer, own)
        self.tell(client, message)
        assert client.take() == b""
        (upstream,) = [each for each in self.upstreams if each.writes]
        (got,) = split(upstream.take())
        upstream.send(answer)
        self.settle()
        received = client.take()
        client.abort()
        self.settle()
        return got, received

    @property
    def untouched(self) -> bool:
        """Whether no upstream was even dialled."""
        return self.loop.dialled == []


@contextmanager
def stage(
    *,
    upstreams: int = 1,
    keys: Sequence[dict[str, Any]] = (),
    balance: dict[str, Any] | None = None,
    pool: dict[str, Any] | None = None,
    timeouts: dict[str, Any] | None = None,
    retry: dict[str, Any] | None = None,
    http: dict[str, Any] | None = None,
    sessions: dict[str, Any] | None = None,
    breaker: Breaker | None = None,
    outlier: Outlier | None = None,
    routes: Sequence[Route] = (),
    workers: int = 1,
    auth: Auth | None = None,
    limits: RouteLimits | None = None,
    host_limits: Limits | None = None,
    policy: Policy | None = None,
    **options: Any,
) -> Iterator[Stage]:
    """Assemble a proxy with the route /mcp, and with `routes`; further options are top-level keys.

    `keys` are those of each upstream, beside its URL.
    """
    route = Route(
        upstreams=[
            Upstream(url=f"http://{name}.example:3001/mcp", **more)
            for name, more in zip("abcdef"[:upstreams], keys or [{}] * upstreams, strict=True)
        ],
        balance=Balance(**balance or {}),
        pool=Pool(**pool or {}),
        timeouts=Timeouts(**timeouts or {}),
        retry=Retry(**retry or {}),
        auth=auth,
        policy=policy,
        breaker=breaker,
        outlier=outlier,
        limits=limits,
    )
    config = Config(
        workers=workers,
        admin=None,
        routes=[route, *routes],
        http=Http(**http or {}),
        sessions=Sessions(**{"capacity": 64} | (sessions or {})),
        limits=host_limits or Limits(capacity=1024),
        **options,
    )
    validate(config)
    proxy = Stage(config)
    try:
        yield proxy
    finally:
        proxy.close()


def message(
    method: str = "tools/call", name: str | None = "echo", version: str | None = None, **more: Any
) -> bytes:
    """A JSON-RPC request with id 7; `version` is what `_meta` claims."""
    params: dict[str, Any] = {"tools/call": {"name": name}, "resources/read": {"uri": name}}.get(method, {})
    if version is not None:
        params["_meta"] = {"io.modelcontextprotocol/protocolVersion": version}
    return json.dumps({"jsonrpc": "2.0", "id": 7, "method": method, "params": params} | more).encode()


def post(
    body: bytes = message(),
    *fields: tuple[str, str],
    host: str | None = "localhost",
    version: str = "1.1",
    path: str = "/mcp",
) -> bytes:
    """A POST."""
    return _request("POST", [*fields, ("Content-Length", str(len(body)))], host, version, path) + body


def bare(method: str, *fields: tuple[str, str], host: str | None = "localhost") -> bytes:
    """A request without a body to /mcp."""
    return _request(method, fields, host, "1.1")


def _request(
    method: str, fields: Sequence[tuple[str, str]], host: str | None, version: str, path: str = "/mcp"
) -> bytes:
    lines = [f"{method} {path} HTTP/{version}", *([f"Host: {host}"] if host is not None else [])]
    lines += [f"{name}: {value}" for name, value in fields]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def chunk(content: bytes) -> bytes:
    """One chunk."""
    return b"%x\r\n%b\r\n" % (len(content), content)
