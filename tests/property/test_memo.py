"""The memory of heads must not be noticed: what reaches the upstream, and what is refused, is the same as if
every head were read for the first time.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shadowcat.config.model import Config, Http, Pool, Route, Upstream
from shadowcat.testing.loopback import Loopback, Peer

BODIES = (
    b"",
    b"{}",
    b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo"}}',
    b'{"jsonrpc":"2.0","id":8,"method":"tools/list"}',
    b'{"jsonrpc":"2.0","method":"notifications/initialized"}',
    b'{"jsonrpc":"2.0","id":9,"method":"ping"}',
    b"GET /mcp HTTP/1.1\r\nHost: smuggled\r\n\r\n",
)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

# Names and values are drawn from small sets, so that heads come again, or nearly so.
VARYING = (b"traceparent", b"tracestate", b"x-request-id", b"mcp-name", b"last-event-id", b"x-amzn-trace-id")
FIXED = (b"accept", b"x-key", b"mcp-session-id", b"authorization", b"mcp-protocol-version", b"mcp-method")
ODD = (
    b"connection", b"expect", b"upgrade", b"content_length", b"x-forwarded-for", b"cookie", b"host",
    b"transfer-encoding", b"content-length", b"content-lengt", b"mcp_name", b"te", b"keep-alive", b"origin",
)  # fmt: skip
VALUES = (
    b"a", b"b", b"echo", b"tools/call", b"2026-07-28", b"2025-06-18", b"100%", b"%b%d", b"a b", b"close",
    b"keep-alive", b"traceparent", b"mcp-name", b"x-key", b"100-continue", b"chunked", b"localhost", b"0",
    b"2", b"http://localhost", b"h2c", b"x" * 1023, b"x" * 1024, b"x" * 1025, b"Content-Length: 2",
)  # fmt: skip
CRAFTED = (
    b"", b" a", b"a ", b"\ta", b"a\t", b"a\tb", b"\xe9", b"a\x00", b"\x7f", b"a\rb", b"a\nb", b"a\r\n b",
    b"a\r\nContent-Length: 2", b"a\r\ntraceparent: b",
)  # fmt: skip
BAD_DIGITS = (
    b"", b"+%d", b"-%d", b"0%d", b" %d", b"%d ", b"%d,%d", b"0x%d", b"%d.0", b"\t%d", b"%d\n", b"%d_0",
    b"%d;", b"00000000%d", b"12345678901", b"\xb2",
)  # fmt: skip


class Line(NamedTuple):
    name: bytes
    separator: bytes
    value: bytes


class Message(NamedTuple):
    """A request, and how it is split up into reads."""

    connection: int
    method: bytes
    target: bytes
    version: bytes
    lines: tuple[Line, ...]
    framing: str
    """"length", "none", "chunked", or a Content-Length that is none."""
    length_at: int
    length_name: bytes
    body: bytes
    cuts: tuple[int, ...]
    """Where to split, in parts of a thousand; 0 stands for the end of the head."""

    def encode(self) -> bytes:
        lines = [b"%b%b%b\r\n" % line for line in self.lines]
        body = self.body
        if self.framing == "chunked":
            framing = b"Transfer-Encoding: chunked\r\n"
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
        elif self.framing == "none":
            framing = body = b""
        elif self.framing == "length":
            framing = b"%b: %d\r\n" % (self.length_name, len(body))
        else:
            bad = self.framing.encode("latin-1")
            framing = b"%b: %b\r\n" % (self.length_name, bad.replace(b"%d", b"%d" % len(body)))
        lines.insert(min(self.length_at, len(lines)), framing)
        return b"%b %b HTTP/%b\r\n%b\r\n%b" % (self.method, self.target, self.version, b"".join(lines), body)

    def reads(self) -> list[bytes]:
        data = self.encode()
        head = data.find(b"\r\n\r\n") + 4
        at = sorted({cut * len(data) // 1000 if cut else head for cut in self.cuts} | {0, len(data)})
        return [data[start:end] for start, end in pairwise(at)]


def spellings(name: bytes) -> st.SearchStrategy[bytes]:
    return st.sampled_from((name, name, name, name.title(), name.title(), name.upper(), name.swapcase()))


def lines(names: tuple[bytes, ...], values: tuple[bytes, ...]) -> st.SearchStrategy[Line]:
    return st.builds(
        Line,
        st.sampled_from(names).flatmap(spellings),
        st.sampled_from((b": ", b": ", b": ", b": ", b":", b":  ", b":\t", b" : ")),
        st.sampled_from(values),
    )


HOST = Line(b"Host", b": ", b"localhost")
GOOD_LINE = st.builds(
    Line,
    st.sampled_from((*VARYING, *VARYING, *FIXED)).flatmap(spellings),
    st.just(b": "),
    st.sampled_from((b"a", b"b", b"echo", b"100%", b"%b%d", b"a b", b"2025-06-18")),
)
ODD_LINE = st.one_of(
    lines(VARYING, VALUES),
    lines(VARYING + FIXED, VALUES),
    lines(VARYING + FIXED, CRAFTED),
    lines(ODD, VALUES),
)
FRAMING = st.sampled_from(("length",) * 8 + ("none",) * 2 + ("chunked",) * 3)
ODD_FRAMING = st.sampled_from([bad.decode("latin-1") for bad in BAD_DIGITS])
CUTS = st.sampled_from(((), (), (), (), (), (0,), (0,), (1,), (500,), (0, 990), (999,), (300, 600)))
GOOD = st.builds(
    Message,
    connection=st.sampled_from((0, 0, 1)),
    method=st.sampled_from((b"POST",) * 5 + (b"GET", b"DELETE")),
    target=st.sampled_from((b"/mcp",) * 4 + (b"/mcp/x?y=%41",)),
    version=st.sampled_from((b"1.1",) * 6 + (b"1.0",)),
    lines=st.lists(GOOD_LINE, max_size=3, unique_by=lambda line: line.name.lower()).map(
        lambda found: (HOST, *found)
    ),
    framing=FRAMING,
    length_at=st.integers(0, 4),
    length_name=st.sampled_from((b"Content-Length",) * 4 + (b"content-length",) * 2 + (b"CONTENT-LENGTH",)),
    body=st.sampled_from(BODIES),
    cuts=CUTS,
)


REPEATED = st.sampled_from(BODIES)
SPELLING = st.sampled_from((bytes.upper, bytes.lower, bytes.title, bytes.swapcase))
LENGTH_NAME = st.sampled_from((b"Content-Length", b"content-length", b"Content-length", b"CONTENT-LENGTH"))
SEPARATOR = st.sampled_from((b": ", b":", b":  ", b" :"))
VALUE = st.sampled_from(VALUES + CRAFTED)
CHANGE = st.sampled_from(
    (
        "framing", "digits", "digits", "digits", "length_at", "length_name", "add", "add", "method",
        "version", "target", *("line",) * 7,
    )
)  # fmt: skip


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    """Requests most of which repeat an earlier one, exactly or but for one thing."""
    messages: list[Message] = []
    for _ in range(draw(st.integers(3, 11))):
        repeat = messages and draw(st.integers(0, 9))
        known = draw(st.sampled_from(messages)) if repeat else draw(GOOD)
        # An entry is admitted on second sight and compared from the third time on.
        for _ in range(draw(st.integers(1, 3))):
            known = known._replace(cuts=draw(CUTS))
            if draw(st.booleans()):
                known = known._replace(body=draw(REPEATED))
            messages.append(known)
        for _ in range(draw(st.integers(0, 2))):
            messages.append(change(draw, known))
    return messages


def change(draw: st.DrawFn, known: Message) -> Message:
    """Another request that differs from a known one in one place."""
    found = known.lines
    match draw(CHANGE):
        case "framing":
            return known._replace(framing=draw(FRAMING))
        case "digits":
            return known._replace(framing=draw(ODD_FRAMING))
        case "length_at":
            return known._replace(length_at=draw(st.integers(0, 6)))
        case "length_name":
            return known._replace(length_name=draw(LENGTH_NAME))
        case "method":
            return known._replace(
                method=draw(st.sampled_from((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"post")))
            )
        case "version":
            return known._replace(version=draw(st.sampled_from((b"1.0", b"1.1", b"2.0"))))
        case "target":
            return known._replace(
                target=draw(st.sampled_from((b"/none", b"/mcp//x", b"http://localhost/mcp")))
            )
        case "add":
            at = draw(st.integers(0, len(found)))
            return known._replace(lines=(*found[:at], draw(ODD_LINE), *found[at:]))
    if not found:
        return known
    at = draw(st.integers(0, len(found) - 1))
    line, before, after = found[at], found[:at], found[at + 1 :]
    match draw(st.sampled_from(("double", "double", "value", "value", "separator", "drop", "turn"))):
        case "double":  # Perhaps in another spelling.
            return known._replace(lines=(*found, line._replace(name=draw(SPELLING)(line.name))))
        case "value":
            return known._replace(lines=(*before, line._replace(value=draw(VALUE)), *after))
        case "separator":
            return known._replace(lines=(*before, line._replace(separator=draw(SEPARATOR)), *after))
        case "drop":
            return known._replace(lines=before + after)
    return known._replace(lines=found[at:] + before)


class Outcome(NamedTuple):
    upstream: bytes
    client: bytes
    ending: str


class Clients:
    """Connections to one data plane; an ended one is replaced by the next."""

    def __init__(self, loopback: Loopback) -> None:
        self._loopback = loopback
        self._peers: dict[int, Peer] = {}

    def run(self, message: Message) -> Outcome:
        client = self._peers.get(message.connection)
        if client is None:
            client = self._peers[message.connection] = self._loopback.client()
        (upstream,) = self._loopback.upstreams
        sent = b""
        for read in message.reads():
            client.send(read)
            while upstream.writes:
                sent += upstream.take()
                upstream.send(ANSWER)
        outcome = Outcome(sent, client.take(), client.ending)
        if (
            b"\r\n\r\n" not in outcome.client.replace(b" 100 Continue\r\n\r\n", b"")
            or client.ending != "open"
        ):
            del self._peers[message.connection]  # Ended, or in the middle of a request that does not end.
            client.abort()
        return outcome


def start() -> Loopback:
    """A data plane with one upstream connection, already open."""
    route = Route(upstreams=[Upstream(url="http://127.0.0.1:3001/mcp")], pool=Pool(max_connections=1))
    loopback = Loopback(Config(workers=1, admin=None, routes=[route], http=Http()))
    client = loopback.client()
    client.send(b"GET /mcp HTTP/1.1\r\nHost: localhost\r\n\r\n")
    loopback.settle()
    (upstream,) = loopback.upstreams
    upstream.send(ANSWER)
    upstream.take()
    client.abort()
    loopback.settle()
    return loopback


@pytest.fixture(scope="module")
def plain() -> Iterator[Loopback]:
    """Where every request is made to be the first of its kind."""
    loopback = start()
    yield loopback
    loopback.close()


@pytest.fixture(scope="module")
def remembering() -> Iterator[Loopback]:
    loopback = start()
    yield loopback
    loopback.close()


def forget(loopback: Loopback) -> None:
    """Forget all heads: what is idle for two rotations is gone."""
    for _ in range(2):
        loopback.plane.heads_for(loopback=True, trusted=False).rotate()


@settings(max_examples=250, deadline=None)
@given(messages=conversations())
def test_the_memory_of_heads_is_not_noticed(
    plain: Loopback, remembering: Loopback, messages: list[Message]
) -> None:
    forget(remembering)
    clients = Clients(remembering)
    for message in messages:
        forget(plain)
        expected = Clients(plain).run(message._replace(connection=0))
        assert clients.run(message) == expected
    for loopback in (plain, remembering):
        loopback.plane.abort()
        loopback.settle()
