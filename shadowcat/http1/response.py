"""Response heads: bytes in, one immutable description out. Upstreams are held to the same strictness as
clients, because a response that two parsers frame differently poisons the next answer on the connection.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final, NamedTuple

import httptools

from shadowcat.http1.fields import NOT_RETURNED
from shadowcat.http1.request import LENGTH

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?")
_KEEP_ALIVE_TIMEOUT: Final = re.compile(rb"(?:^|[,\s])timeout\s*=\s*\"?([0-9]{1,9})", re.IGNORECASE)

INTERIM: Final = frozenset({100, 102, 103})
"""Statuses that announce a later one and are dropped; 101 would need an Upgrade, which is never sent."""


class BadResponseError(ValueError):
    """The upstream's bytes are not an acceptable HTTP/1.1 response."""


class Body(Enum):
    """How the end of a body is found (RFC 9112 section 6.3)."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"


class ResponseHead(NamedTuple):
    """What a strict reading of one response head found, without the value of Content-Length."""

    status: int
    http11: bool
    keep_alive: bool
    """Whether the upstream will take another request on this connection."""
    keep_alive_timeout: int | None
    """Seconds, from `Keep-Alive: timeout=N`."""
    has_length: bool
    chunked: bool
    event_stream: bool
    """Whether the body is server-sent events, readable as such: not compressed."""
    status_line: bytes
    """As an HTTP/1.1 client gets it, with its CRLF."""
    returned: tuple[tuple[bytes, bytes, bytes], ...]
    """The end-to-end fields in order: (lower-case name, name as sent, value)."""
    fields: tuple[tuple[bytes, bytes], ...]
    """All fields in order, names in lower case."""


class _Collector:
    __slots__ = ("complete", "fields")

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))


def parse_response_head(head: bytes) -> tuple[ResponseHead, int]:
    """Read one head, from its first byte through the empty line.

    Returns:
        The description and the Content-Length (0 without one).

    Raises:
        BadResponseError: The head is malformed, or frames its body in an ambiguous way.
    """
    line = head[: head.find(b"\r\n")]
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise BadResponseError("malformed status line")
    http11 = match[1] == b"1"
    status = int(match[2])
    collector = _Collector()
    try:
        httptools.HttpResponseParser(collector).feed_data(head)
    except httptools.HttpParserUpgrade:
        raise BadResponseError("switched protocols unasked") from None
    except httptools.HttpParserError as error:
        raise BadResponseError(f"malformed head: {error}") from None

    length: int | None = None
    codings: list[bytes] = []
    connection: set[bytes] = set()
    keep_alive_timeout = None
    event_stream = encoded = False
    fields: list[tuple[bytes, bytes]] = []
    for name, value in collector.fields:
        lower = name.lower()
        value = value.strip(b" \t")
        fields.append((lower, value))
        if lower == b"content-length":
            if length is not None or not LENGTH.fullmatch(value):
                raise BadResponseError("malformed or repeated Content-Length")
            length = int(value)
        elif lower == b"transfer-encoding":
            codings.append(value.lower())
        elif lower == b"connection":
            connection.update(option.strip(b" \t") for option in value.lower().split(b","))
        elif lower == b"keep-alive":
            timeout = _KEEP_ALIVE_TIMEOUT.search(value)
            keep_alive_timeout = int(timeout[1]) if timeout else None
        elif lower == b"content-type":
            event_stream = value[:17].lower() == b"text/event-stream"
        elif lower == b"content-encoding":
            encoded = value.lower() != b"identity"
    if codings and (codings != [b"chunked"] or length is not None or not http11):
        raise BadResponseError("Transfer-Encoding other than chunked, with Content-Length, or in HTTP/1.0")

    head_read = ResponseHead(
        status=status,
        http11=http11,
        # A 204 that announces chunks may send them, where the next answer is due (RFC 9112 section 6.1).
        keep_alive=b"close" not in connection
        and (http11 or b"keep-alive" in connection)
        and not (status == 204 and codings),
        keep_alive_timeout=keep_alive_timeout,
        has_length=length is not None,
        chunked=bool(codings),
        event_stream=event_stream and not encoded,
        status_line=b"HTTP/1.1 %d %b\r\n" % (status, match[3] or b""),
        returned=tuple(
            (lower, name, value)
            for (name, _), (lower, value) in zip(collector.fields, fields, strict=True)
            if lower not in NOT_RETURNED and (lower not in connection or lower.startswith(b"mcp-"))
        ),
        fields=tuple(fields),
    )
    return head_read, length or 0


def body_of(method: bytes, status: int, *, chunked: bool, has_length: bool) -> Body:
    """How the body of an answer to `method` ends (RFC 9112 section 6.3, rules 1 to 8)."""
    if method == b"HEAD" or status == 204 or status == 304:
        return Body.NONE
    if chunked:
        return Body.CHUNKED
    return Body.LENGTH if has_length else Body.CLOSE
