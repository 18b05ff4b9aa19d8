"""Whole messages: what is well-formed means the same before the proxy and behind it, however it is cut."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import httptools
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.wire.memory import CONTINUE, MemoryPlane
from tests.wire.reference import (
    expected_upstream,
    normal,
    read_requests,
    read_response,
    returned_fields,
)

# The planes are shared between examples on purpose: what one example leaves behind must not show in the next.
QUICK = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}'

_NAME = st.text("abcXYZ019-!#$%&'*+.^`|~", min_size=1, max_size=8).map(lambda name: b"x-" + name.encode())
_VALUE_BYTES = bytes([*range(0x21, 0x7F), *range(0x80, 0x100), 0x20, 0x09])
_VALUE = st.lists(st.sampled_from(_VALUE_BYTES), max_size=12).map(lambda value: bytes(value).strip(b" \t"))
_KNOWN = st.sampled_from(
    [
        (b"Connection", b"keep-alive, X-Hop"),
        (b"X-Hop", b"1"),
        (b"traceparent", b"00-1-2-3"),
        (b"Traceparent", b"00-1-2-4"),
        (b"Connection", b"traceparent"),
        (b"X-Request-Id", b"100%d"),
        (b"Authorization", b"Bearer x"),
        (b"Content-Type", b"application/json"),
        (b"X-Forwarded-For", b"10.0.0.1"),
        (b"Last-Event-ID", b"e 1"),
    ]
)
_FIELDS = st.lists(st.tuples(_NAME, _VALUE) | _KNOWN, max_size=6)
CUTS = st.lists(st.integers(0, 100_000), max_size=8)


def cuts(data: bytes, points: list[int]) -> list[bytes]:
    at = sorted({point % (len(data) + 1) for point in points})
    return [data[start:end] for start, end in pairwise([0, *at, len(data)]) if start < end]


def _framed(draw: st.DrawFn, body: bytes) -> tuple[bytes, bytes]:
    """A framing field, and the body in that framing."""
    if draw(st.booleans()):
        name = draw(st.sampled_from([b"Content-Length", b"content-length", b"CONTENT-LENGTH"]))
        return b"%b: %d\r\n" % (name, len(body)), body
    at = draw(st.integers(0, len(body)))
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:at], body[at:]) if part)
    return b"Transfer-Encoding: chunked\r\n", chunks + b"0\r\n\r\n"


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A well-formed request that is forwarded."""
    method = draw(st.sampled_from([b"POST", b"DELETE", b"GET"]))
    body = CALL if method == b"POST" else draw(st.binary(max_size=60))
    framing, wire = _framed(draw, body)
    target = draw(st.sampled_from([b"/mcp", b"/mcp/x?y=%2f", b"http://localhost/mcp", b"/mcp?a=100%25"]))
    lines = [b"%b: %b\r\n" % field for field in draw(_FIELDS)]
    lines = draw(st.permutations([*lines, framing, b"Host: localhost\r\n"]))
    return b"%b %b HTTP/1.1\r\n%b\r\n%b" % (method, target, b"".join(lines), wire)


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    """A well-formed answer with a body of known end."""
    framing, wire = _framed(draw, draw(st.binary(max_size=60)))
    names = _NAME.filter(lambda name: name.lower() != b"x-hop")
    known = [
        (b"Date", b"Thu, 01 Jan 1970 00:00:00 GMT"),
        (b"Mcp-Session-Id", b"abc"),
        (b"Set-Cookie", b"a=b"),
    ]
    fields = draw(st.lists(st.tuples(names, _VALUE) | st.sampled_from(known), max_size=5))
    lines = draw(st.permutations([*(b"%b: %b\r\n" % field for field in fields), framing]))
    status = draw(st.sampled_from([200, 202, 400, 404, 500, 599]))
    return b"HTTP/1.1 %d Any 100%%\r\n%b\r\n%b" % (status, b"".join(lines), wire)


@pytest.fixture(scope="module")
def memory() -> Iterator[MemoryPlane]:
    plane = MemoryPlane()
    yield plane
    plane.close()


class _Fields:
    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value.strip(b" \t")))


@QUICK
@given(st.lists(requests(), min_size=1, max_size=3), CUTS)
def test_requests(memory: MemoryPlane, sent: list[bytes], points: list[int]) -> None:
    data = b"".join(sent)
    whole = memory.run([data], each=OK)
    expected = [
        expected_upstream(message, b"127.0.0.1:3001", b"127.0.0.1") for message in read_requests(data)
    ]
    assert [normal(message) for message in read_requests(whole.upstream)] == expected
    split = memory.run(cuts(data, points), each=OK)
    assert split._replace(client=split.client.replace(CONTINUE, b"")) == whole
    repeated = memory.run([data], each=OK)
    assert repeated == whole


@QUICK
@given(requests())
def test_heads_upstream_read_the_same_in_httptools_and_h11(memory: MemoryPlane, data: bytes) -> None:
    upstream = memory.run([data], each=OK).upstream
    (message,) = read_requests(upstream)
    reader = _Fields()
    httptools.HttpRequestParser(reader).feed_data(upstream[: upstream.index(b"\r\n\r\n") + 4])
    assert reader.fields == message.fields


@settings(QUICK, max_examples=25)
@given(requests())
def test_a_head_seen_before_is_forwarded_like_one_never_seen(memory: MemoryPlane, data: bytes) -> None:
    warm = [memory.run([data] * times, each=OK).upstream for times in (1, 3)]
    fresh = MemoryPlane()
    cold = fresh.run([data], each=OK).upstream
    fresh.close()
    assert warm == [cold, cold * 3]


@QUICK
@given(responses(), CUTS)
def test_answers(memory: MemoryPlane, answer: bytes, points: list[int]) -> None:
    request = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(CALL), CALL)
    sent = read_response(answer, ended=False)
    assert sent.complete
    got = [memory.run([request], pieces) for pieces in ([answer], cuts(answer, points), [answer])]
    assert got[0] == got[1] == got[2]
    read = read_response(got[0].client, ended=False)
    assert (read.status, read.body, read.complete, read.rest) == (sent.status, sent.body, True, b"")
    assert returned_fields(read.fields) == returned_fields(sent.fields)
