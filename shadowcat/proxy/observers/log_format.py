"""The two forms of the access log's lines. What is not known is null in JSON, and left out of text.

A form writes the parts of a line one by one, because most of them are the same for many lines.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final, NamedTuple, Protocol

import orjson

_PLAIN: Final = re.compile(r"[!#-\[\]-~]+")
"""Visible ASCII without quote and backslash: needs no quotes."""


class Head(NamedTuple):
    """What follows from a request's head; None for all if it could not be read."""

    method: str | None = None
    path: str | None = None
    """Without the query."""
    http: str | None = None
    """The version."""
    route: str | None = None
    era: str | None = None
    agent: str | None = None


class Line(NamedTuple):
    """A line in parts: bytes are as a Form wrote them."""

    moment: bytes
    client: str
    opening: bytes
    """The first part of the head."""
    status: int
    sent: int
    closing: bytes
    """The second part of the head."""
    subject: bytes
    upstream: bytes
    refusal: str | None
    trace: str | None
    complete: bool
    seconds: float
    received: int
    worker: int


class Form(Protocol):
    """How a line is written."""

    def moment(self, millisecond: int) -> bytes:
        """The time, given in milliseconds since 1970."""

    def head(self, head: Head) -> tuple[bytes, bytes]:
        """What follows from the request's head, for its two places in the line."""

    def subject(self, rpc: str | None, name: str | None) -> bytes:
        """The JSON-RPC method, and the name of its tool or prompt."""

    def upstream(self, name: str | None) -> bytes:
        """The upstream's name."""

    def line(self, line: Line) -> bytes:
        """The whole line, its line feed included."""


class JsonForm:
    """One object per line."""

    def moment(self, millisecond: int) -> bytes:
        """RFC 3339, in UTC."""
        second, rest = divmod(millisecond, 1000)
        return b"%b.%03dZ" % (
            datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode(),
            rest,
        )

    def head(self, head: Head) -> tuple[bytes, bytes]:
        """Members, without braces."""
        members = head._asdict()
        closing = {"user_agent": members.pop("agent")}
        return orjson.dumps(members)[1:-1], orjson.dumps(closing)[1:-1]

    def subject(self, rpc: str | None, name: str | None) -> bytes:
        """Members, without braces."""
        return orjson.dumps({"rpc": rpc, "name": name})[1:-1]

    def upstream(self, name: str | None) -> bytes:
        """A member, without braces."""
        return orjson.dumps({"upstream": name})[1:-1]

    def line(self, line: Line) -> bytes:
        """An object, its members always in the same order."""
        return (
            b'{"time":"%b","client":%b,%b,%b,%b,"status":%d,"refusal":%b,"complete":%b,"seconds":%.3f,'
            b'"received":%d,"sent":%d,"worker":%d,"trace":%b,%b}\n'
        ) % (
            line.moment,
            orjson.dumps(line.client),
            line.opening,
            line.subject,
            line.upstream,
            line.status,
            b"null" if line.refusal is None else b'"%b"' % line.refusal.encode(),
            b"true" if line.complete else b"false",
            line.seconds,
            line.received,
            line.sent,
            line.worker,
            b"null" if line.trace is None else b'"%b"' % line.trace.encode(),
            line.closing,
        )


class TextForm:
    """nginx's combined, so that its readers understand as much, then name=value."""

    def moment(self, millisecond: int) -> bytes:
        """As in the common log format, in UTC."""
        return datetime.fromtimestamp(millisecond // 1000, UTC).strftime("%d/%b/%Y:%H:%M:%S +0000").encode()

    def head(self, head: Head) -> tuple[bytes, bytes]:
        """The request line, and what follows the size."""
        request = _escaped(f"{head.method} {head.path} HTTP/{head.http}") if head.method is not None else "-"
        agent = f'"{_escaped(head.agent or "-")}"'
        return request.encode(), agent.encode() + _named(era=head.era, route=head.route)

    def subject(self, rpc: str | None, name: str | None) -> bytes:
        """name=value, each with a blank before it."""
        return _named(rpc=rpc, name=name)

    def upstream(self, name: str | None) -> bytes:
        """name=value with a blank before it."""
        return _named(upstream=name)

    def line(self, line: Line) -> bytes:
        """The referrer, which no MCP client sends, is always a dash."""
        named = b""
        if line.refusal is not None or line.trace is not None:
            named = _named(refusal=line.refusal, trace=line.trace)
        return b'%b - - [%b] "%b" %d %d "-" %b%b%b%b%b seconds=%.3f received=%d worker=%d\n' % (
            _escaped(line.client).replace(" ", "").encode() or b"-",
            line.moment,
            line.opening,
            line.status,
            line.sent,
            line.closing,
            line.subject,
            line.upstream,
            named,
            b"" if line.complete else b" incomplete",
            line.seconds,
            line.received,
            line.worker,
        )


def _named(**values: str | None) -> bytes:
    named = [
        f" {name}={value if _PLAIN.fullmatch(value) else chr(34) + _escaped(value) + chr(34)}"
        for name, value in values.items()
        if value is not None
    ]
    return "".join(named).encode()


def _escaped(text: str) -> str:
    """Text that can neither end its quotes or its line, nor steer a terminal."""
    if text.isprintable() and '"' not in text and "\\" not in text:
        return text
    return "".join(
        character if character.isprintable() and character not in '"\\' else f"\\x{ord(character):02x}"
        for character in text
    )
