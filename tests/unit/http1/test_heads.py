from __future__ import annotations

import pytest

from shadowcat.errors import Refusal
from shadowcat.http1.fields import is_disguised, may_be_dropped
from shadowcat.http1.request import HeadLimits, RequestHead, parse_request_head
from shadowcat.http1.response import BadResponseError, Body, ResponseHead, body_of, parse_response_head

LIMITS = HeadLimits(32 * 1024, 8 * 1024, 100)


def request(*lines: bytes, version: bytes = b"1.1") -> RequestHead | Refusal:
    head = b"POST /mcp HTTP/%b\r\nHost: a\r\n%b\r\n" % (version, b"".join(line + b"\r\n" for line in lines))
    parsed = parse_request_head(head, LIMITS)
    return parsed if isinstance(parsed, Refusal) else parsed[0]


def response(*lines: bytes, status: bytes = b"HTTP/1.1 200 OK") -> ResponseHead:
    return parse_response_head(b"%b\r\n%b\r\n" % (status, b"".join(line + b"\r\n" for line in lines)))[0]


@pytest.mark.parametrize(
    ("version", "connection", "keeps"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"close", False),
        (b"1.1", b"keep-alive, CLOSE", False),
        (b"1.0", b"", False),
        (b"1.0", b"Keep-Alive", True),
        (b"1.0", b"keep-alive, close", False),
    ],
)
def test_who_keeps_the_connection(version: bytes, connection: bytes, keeps: bool) -> None:
    lines = [b"Connection: " + connection] if connection else []
    asked = request(*lines, version=version)
    assert isinstance(asked, RequestHead)
    assert asked.keep_alive is keeps
    assert response(*lines, status=b"HTTP/%b 200 OK" % version).keep_alive is keeps


@pytest.mark.parametrize(
    ("lines", "refusal"),
    [
        ([b"Transfer-Encoding: gzip"], Refusal.UNKNOWN_CODING),
        ([b"Transfer-Encoding: gzip, chunked"], Refusal.UNKNOWN_CODING),
        ([b"Transfer-Encoding: chunked, chunked"], Refusal.BAD_TRANSFER_ENCODING),
        ([b"Transfer-Encoding: identity"], Refusal.BAD_TRANSFER_ENCODING),
        ([b"Transfer-Encoding: chunked", b"Content-Length: 1"], Refusal.LENGTH_AND_CODING),
        ([b"Content-Length: 1", b"Transfer-Encoding: chunked"], Refusal.LENGTH_AND_CODING),
        ([b"Content-Length: 1", b"Content-Length: 1"], Refusal.BAD_CONTENT_LENGTH),
        ([b"Content-Length: +1"], Refusal.BAD_CONTENT_LENGTH),
        ([b"Content-Length: 01"], Refusal.BAD_CONTENT_LENGTH),
        ([b"Expect: x"], Refusal.EXPECTATION),
        ([b"Connection: Host"], Refusal.BAD_CONNECTION),
        ([b"Host: b"], Refusal.BAD_HOST),
        ([b"X-A : b"], Refusal.BAD_FIELD),
        ([b"Content_Length: 1"], Refusal.BAD_FIELD),
        ([b"X: y"] * 100, Refusal.TOO_MANY_FIELDS),
    ],
)
def test_reasons(lines: list[bytes], refusal: Refusal) -> None:
    assert request(*lines) is refusal


def test_connection_options_are_taken_out() -> None:
    head = request(b"Connection: X-Hop, close", b"X-Hop: 1", b"X-End: 2")
    assert isinstance(head, RequestHead)
    assert [name for name, *_ in head.forwarded] == [b"x-end"]


@pytest.mark.parametrize(
    "name", [b"content_length", b"mcp_session_id", b"x_forwarded_for", b"mcp-session_id"]
)
def test_disguised_names(name: bytes) -> None:
    assert is_disguised(name)


@pytest.mark.parametrize("name", [b"content-length", b"x_custom", b"_", b"mcpx_a"])
def test_plain_names(name: bytes) -> None:
    assert not is_disguised(name)


def test_what_connection_may_list() -> None:
    assert may_be_dropped(b"x-hop")
    assert may_be_dropped(b"upgrade")
    assert not may_be_dropped(b"authorization")
    assert not may_be_dropped(b"mcp-param-x")


@pytest.mark.parametrize(
    "lines",
    [
        [b"Content-Length: 1", b"Content-Length: 1"],
        [b"Content-Length: 1, 1"],
        [b"Transfer-Encoding: gzip"],
        [b"Transfer-Encoding: chunked", b"Content-Length: 1"],
        [b"X-A: b", b" c"],
    ],
)
def test_bad_responses(lines: list[bytes]) -> None:
    with pytest.raises(BadResponseError):
        response(*lines)


def test_a_204_that_announces_chunks_is_the_last_on_its_connection() -> None:
    assert not response(b"Transfer-Encoding: chunked", status=b"HTTP/1.1 204 No Content").keep_alive
    assert response(b"Content-Length: 0", status=b"HTTP/1.1 204 No Content").keep_alive


@pytest.mark.parametrize(
    ("method", "status", "chunked", "has_length", "body"),
    [
        (b"POST", 200, True, False, Body.CHUNKED),
        (b"POST", 200, False, True, Body.LENGTH),
        (b"POST", 200, False, False, Body.CLOSE),
        (b"POST", 204, False, True, Body.NONE),
        (b"GET", 304, True, False, Body.NONE),
        (b"HEAD", 200, True, False, Body.NONE),
    ],
)
def test_how_a_body_ends(method: bytes, status: int, chunked: bool, has_length: bool, body: Body) -> None:
    assert body_of(method, status, chunked=chunked, has_length=has_length) is body


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"timeout=5", 5),
        (b"max=10, timeout = 7", 7),
        (b'timeout="3"', 3),
        (b"max=10", None),
        (b"xtimeout=5", None),
    ],
)
def test_keep_alive_timeout(value: bytes, seconds: int | None) -> None:
    assert response(b"Keep-Alive: " + value).keep_alive_timeout == seconds
