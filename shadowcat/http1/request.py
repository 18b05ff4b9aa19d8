"""Request heads: bytes in, one immutable description out, or the reason for refusing them.

llhttp (through httptools) tokenises a head and refuses most of what is malformed. It never sees a body, so
its habit of swallowing the body behind an Upgrade, of reporting trailers as header fields, and its lack of
limits do not matter. What it accepts although a forwarder must not is refused here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import httptools

from shadowcat.errors import Refusal
from shadowcat.http1.fields import NOT_FORWARDED, TOKEN, is_disguised, may_be_dropped
from shadowcat.http1.target import Target, is_host, parse_target

LENGTH: Final = re.compile(rb"0|[1-9][0-9]{0,9}")
"""Content-Length without sign, leading zero or list; ten digits are far beyond any body limit."""

_METHODS: Final = frozenset(
    {b"GET", b"POST", b"DELETE", b"OPTIONS", b"HEAD", b"PUT", b"PATCH", b"TRACE", b"CONNECT"}
)
READ: Final = frozenset(
    {
        b"access-control-request-headers",
        b"authorization",
        b"connection",
        b"content-length",
        b"content-type",
        b"cookie",
        b"expect",
        b"forwarded",
        b"host",
        b"mcp-method",
        b"mcp-name",
        b"mcp-protocol-version",
        b"mcp-session-id",
        b"origin",
        b"sec-fetch-site",
        b"transfer-encoding",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
    }
)
"""Fields whose values the proxy acts on; the others are forwarded or dropped unread."""
_VERSION: Final = re.compile(rb"HTTP/[0-9]\.[0-9]")


class HeadLimits(NamedTuple):
    """Sizes beyond which a head is refused; `head` bounds the buffer before there is a whole head."""

    head: int
    target: int
    fields: int


class RequestHead(NamedTuple):
    """What a strict reading of one request head found. The value of Content-Length is not part of it,
    so that equal heads with bodies of different length have equal descriptions.
    """

    method: bytes
    target: Target
    http11: bool
    keep_alive: bool
    host: bytes
    """As sent, or the authority of an absolute-form target; empty only for HTTP/1.0 without one."""
    has_length: bool
    chunked: bool
    expect_continue: bool
    named: Mapping[bytes, Sequence[bytes]]
    """The values of the fields that the proxy reads (READ), by lower-case name."""
    forwarded: tuple[tuple[bytes, bytes, bytes], ...]
    """The end-to-end fields in order: (lower-case name, name as sent, value)."""

    def values(self, name: bytes) -> Sequence[bytes]:
        """All values of a field of READ, by its lower-case name."""
        return self.named.get(name, ())


class _Collector:
    """Receives httptools' callbacks."""

    __slots__ = ("fields",)

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))


def parse_request_head(head: bytes, limits: HeadLimits) -> tuple[RequestHead, int] | Refusal:
    """Read one head, from its first byte through the empty line.

    Returns:
        The description and the Content-Length (0 without one), or the refusal.
    """
    line_end = head.find(b"\r\n")
    request_line = _parse_request_line(head[:line_end], limits)
    if isinstance(request_line, Refusal):
        return request_line
    method, target, http11 = request_line

    collector = _Collector()
    try:
        httptools.HttpRequestParser(collector).feed_data(head)
    except httptools.HttpParserUpgrade:
        pass  # Raised at the end of a head that offers Upgrade or is CONNECT: the head itself was read.
    except httptools.HttpParserError:
        return _diagnose(head[line_end:])
    if len(collector.fields) > limits.fields:
        return Refusal.TOO_MANY_FIELDS

    named: dict[bytes, list[bytes]] = {}
    forwarded = []
    for name, value in collector.fields:
        lower = name.lower()
        value = value.strip(b" \t")
        if lower in READ:
            named.setdefault(lower, []).append(value)
        elif b"_" in lower and is_disguised(lower):
            return Refusal.BAD_FIELD
        if lower not in NOT_FORWARDED:
            forwarded.append((lower, name, value))
    return _conclude(method, target, http11, named, forwarded)


def _parse_request_line(line: bytes, limits: HeadLimits) -> tuple[bytes, Target, bool] | Refusal:
    parts = line.split(b" ")
    if len(parts) != 3:
        return Refusal.BAD_REQUEST_LINE
    method, raw_target, version = parts
    if version != b"HTTP/1.1" and version != b"HTTP/1.0":
        return Refusal.VERSION if _VERSION.fullmatch(version) else Refusal.BAD_REQUEST_LINE
    if method not in _METHODS:
        return Refusal.METHOD_UNKNOWN if TOKEN.fullmatch(method) else Refusal.BAD_REQUEST_LINE
    if len(raw_target) > limits.target:
        return Refusal.TARGET_TOO_LONG
    if method in (b"CONNECT", b"TRACE"):
        return Refusal.METHOD_UNKNOWN
    target = parse_target(method, raw_target)
    if isinstance(target, Refusal):
        return target
    return method, target, version == b"HTTP/1.1"


_LENGTH_LINE: Final = re.compile(rb"\r\ncontent[-_]length[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE)
_CODING_LINE: Final = re.compile(
    rb"\r\ntransfer[-_]encoding[ \t]*:[ \t]*([^\r\n]*)(\r\n[ \t])?", re.IGNORECASE
)


def _diagnose(fields: bytes) -> Refusal:
    """Name the fault of header lines that llhttp refused. Only the label depends on it, and 501 for a
    coding that is well-formed but unknown (RFC 9112 section 6.1).
    """
    lengths = _LENGTH_LINE.findall(fields)
    codings = _CODING_LINE.findall(fields)
    if codings and lengths:
        return Refusal.LENGTH_AND_CODING
    if codings:
        value, fold = codings[0]
        if fold or len(codings) > 1:
            return Refusal.BAD_TRANSFER_ENCODING
        return Refusal.BAD_FIELD if value.lower() == b"chunked" else judge_coding(value)
    if len(lengths) > 1 or (lengths and not LENGTH.fullmatch(lengths[0].strip(b" \t"))):
        return Refusal.BAD_CONTENT_LENGTH
    return Refusal.BAD_FIELD


def judge_coding(value: bytes) -> Refusal:
    """The refusal for a Transfer-Encoding that is not just `chunked`."""
    codings = [coding.strip(b" \t").lower() for coding in value.split(b",")]
    well_formed = all(TOKEN.fullmatch(coding) for coding in codings)
    known = all(coding in (b"chunked", b"identity") for coding in codings)
    return Refusal.UNKNOWN_CODING if well_formed and not known else Refusal.BAD_TRANSFER_ENCODING


def _conclude(
    method: bytes,
    target: Target,
    http11: bool,
    named: dict[bytes, list[bytes]],
    forwarded: list[tuple[bytes, bytes, bytes]],
) -> tuple[RequestHead, int] | Refusal:
    """Apply the rules that concern single fields, and how they go together."""
    lengths = named.get(b"content-length", ())
    if lengths and (len(lengths) > 1 or not LENGTH.fullmatch(lengths[0])):
        return Refusal.BAD_CONTENT_LENGTH
    connection: set[bytes] = set()
    for value in named.get(b"connection", ()):
        connection.update(option.strip(b" \t") for option in value.lower().split(b","))
    connection.discard(b"")
    if not all(may_be_dropped(option) for option in connection):
        return Refusal.BAD_CONNECTION
    host = _judge_host(named.get(b"host", ()), target, http11)
    if isinstance(host, Refusal):
        return host
    codings = named.get(b"transfer-encoding", ())
    if codings:
        if lengths:
            return Refusal.LENGTH_AND_CODING
        if len(codings) > 1 or not http11:
            return Refusal.BAD_TRANSFER_ENCODING
        if codings[0].lower() != b"chunked":
            return judge_coding(codings[0])
    expects = named.get(b"expect", ())
    if expects and (len(expects) > 1 or expects[0].lower() != b"100-continue"):
        return Refusal.EXPECTATION
    if connection:
        forwarded = [field for field in forwarded if field[0] not in connection]
    head = RequestHead(
        method,
        target,
        http11,
        b"close" not in connection and (http11 or b"keep-alive" in connection),
        host,
        bool(lengths),
        bool(codings),
        # An HTTP/1.0 client cannot know what 100 means (RFC 9110 section 10.1.1).
        bool(expects) and http11,
        named,
        tuple(forwarded),
    )
    return head, int(lengths[0]) if lengths else 0


def _judge_host(hosts: Sequence[bytes], target: Target, http11: bool) -> bytes | Refusal:
    if len(hosts) > 1 or (http11 and not hosts):
        return Refusal.BAD_HOST
    host = hosts[0] if hosts else b""
    if host and not is_host(host):
        return Refusal.BAD_HOST
    if target.authority is not None:
        if host and host.lower() != target.authority.lower():
            return Refusal.BAD_HOST
        return target.authority
    if http11 and not host:
        return Refusal.BAD_HOST
    return host
