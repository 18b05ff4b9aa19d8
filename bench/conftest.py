from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import pytest
from pytest_benchmark.logger import PytestBenchmarkWarning

from shadowcat.config.model import Breaker, Config, Http, Outlier, Route, Sessions, Upstream
from shadowcat.testing.loopback import Loopback, Peer

CALL = (
    b'{"jsonrpc":"2.0","id":12345,"method":"tools/call","params":{"name":"echo","arguments":'
    b'{"text":"hello hello hello"},"_meta":{"progressToken":12345}}}'
)
RESULT = b'{"jsonrpc":"2.0","id":12345,"result":{"content":[{"type":"text","text":"hello hello hello"}]}}'
EVENT = (
    b"event: message\r\n"
    b'data: {"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":1}}\r\n\r\n'
)

SESSION = b"0123456789abcdef0123456789ab"
"""A session id of the usual length; no session has it."""
UPSTREAM_SESSION = b"fedcba9876543210fedcba9876543210"
INITIALIZE = (
    b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},'
    b'"clientInfo":{"name":"bench","version":"1"}}}'
)
INITIALIZED = (
    b'{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},'
    b'"serverInfo":{"name":"bench","version":"1"}}}'
)

REQUEST_LINES = (
    b"Host: localhost", b"Accept: application/json, text/event-stream", b"Content-Type: application/json",
    b"User-Agent: python-httpx/0.28.1", b"Authorization: Bearer " + b"x" * 200, b"Connection: keep-alive",
    b"Mcp-Session-Id: " + SESSION, b"MCP-Protocol-Version: 2025-11-25",
)  # fmt: skip
ANSWER_LINES = (
    b"date: Mon, 02 Nov 2026 10:00:00 GMT", b"server: uvicorn", b"content-type: application/json",
    b"mcp-session-id: " + UPSTREAM_SESSION,
)  # fmt: skip


def request(*lines: bytes, body: bytes = CALL) -> bytes:
    """What an MCP client sends: 8 fields, and those in `lines`."""
    fields = b"".join(line + b"\r\n" for line in (*REQUEST_LINES, *lines))
    return b"POST /mcp HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (fields, len(body), body)


def answer(*lines: bytes, content: bytes = RESULT) -> bytes:
    """What an MCP server answers."""
    fields = b"".join(line + b"\r\n" for line in (*ANSWER_LINES, *lines))
    return b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\n\r\n%b" % (fields, len(content), content)


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


STREAM = (
    b"HTTP/1.1 200 OK\r\ndate: Mon, 02 Nov 2026 10:00:00 GMT\r\nserver: uvicorn\r\n"
    b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
LAST = b"0\r\n\r\n"


def open_session(loopback: Loopback) -> bytes:
    """Open a session; its id, as its client knows it."""
    client = loopback.client()
    client.send(request(body=INITIALIZE).replace(b"Mcp-Session-Id: " + SESSION + b"\r\n", b""))
    loopback.settle()
    (upstream,) = [each for each in loopback.upstreams if each.writes]
    upstream.take()
    upstream.send(answer(content=INITIALIZED))
    head = client.take()
    at = head.lower().index(b"mcp-session-id: ") + len(b"mcp-session-id: ")
    found = head[at : at + len(SESSION)]
    client.abort()
    loopback.settle()
    return found


class Pair:
    """A client and its upstream connection, each of them through the real protocol object."""

    def __init__(self, loopback: Loopback, opening: bytes) -> None:
        """`opening` is a first request, which stays unanswered."""
        self.client: Peer = loopback.client()
        self.client.send(opening)
        loopback.settle()
        self.upstream: Peer = loopback.upstreams[-1]
        self.from_client: Callable[[bytes], None] = self.client._protocol.data_received
        self.from_upstream: Callable[[bytes], None] = self.upstream._protocol.data_received

    def clear(self) -> None:
        """Forget what was written."""
        self.client.writes.clear()
        self.upstream.writes.clear()


@pytest.fixture
def watched() -> bool:
    """Whether the upstream has a breaker and may be ejected."""
    return False


@pytest.fixture
def loopback(watched: bool) -> Iterator[Loopback]:
    sections = {"breaker": Breaker(), "outlier": Outlier()} if watched else {}
    route = Route(upstreams=[Upstream(url="http://127.0.0.1:3001/mcp")], **sections)
    http = Http(max_requests=10**9)  # One connection serves a whole benchmark.
    sessions = Sessions(per_principal=10**6)
    running = Loopback(Config(workers=1, admin=None, routes=[route], http=http, sessions=sessions))
    yield running
    running.close()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Count this process's CPU time, so that others' is not in it.

    Reading that clock takes 0.3 us, so a round has to be much longer.
    """
    config.option.benchmark_timer = "time.process_time"
    config.option.benchmark_min_time = "0.001"
    # The first comparison has nothing to compare with, which is no error.
    warnings.filterwarnings("default", category=PytestBenchmarkWarning)
