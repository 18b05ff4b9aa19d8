"""Heads read by h11 and by llhttp."""

from __future__ import annotations

import h11
import httptools

from .grammar import Fields


class _Head:
    def __init__(self) -> None:
        self.target = b""
        self.fields: Fields = []

    def on_url(self, part: bytes) -> None:
        self.target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value.strip(b" \t")))


Found = tuple[tuple[bytes, ...], Fields]
"""Method and target, or the status alone; and the fields, with names in lower case."""


def request_by_h11(head: bytes) -> Found | None:
    """What h11 finds; None if it refuses."""
    reader = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    reader.receive_data(head)
    try:
        event = reader.next_event()
    except h11.RemoteProtocolError:
        return None
    return ((event.method, event.target), list(event.headers)) if isinstance(event, h11.Request) else None


def answer_by_h11(head: bytes) -> Found | None:
    """What h11 finds; None if it refuses."""
    reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    reader.send(h11.Request(method="POST", target="/", headers=[("Host", "x"), ("Content-Length", "0")]))
    reader.send(h11.EndOfMessage())
    reader.receive_data(head)
    try:
        event = reader.next_event()
    except h11.RemoteProtocolError:
        return None
    if not isinstance(event, h11.Response | h11.InformationalResponse):
        return None
    return (b"%03d" % event.status_code,), list(event.headers)


def request_by_llhttp(head: bytes) -> Found | None:
    """What llhttp finds; None if it refuses."""
    found = _Head()
    parser = httptools.HttpRequestParser(found)
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError:
        return None
    return (parser.get_method(), found.target), found.fields


def answer_by_llhttp(head: bytes) -> Found | None:
    """What llhttp finds; None if it refuses."""
    found = _Head()
    parser = httptools.HttpResponseParser(found)
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError:
        return None
    return (b"%03d" % parser.get_status_code(),), found.fields
