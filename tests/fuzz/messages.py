"""Fuzz targets: what is read of bodies, JSON-RPC envelopes and streams of events."""

from __future__ import annotations

import re
from itertools import accumulate
from typing import Final

import msgspec
import orjson

from shadowcat.mcp.batch import read_batch
from shadowcat.mcp.envelope import NAME_KEYS, Envelope, Kind, peek, request_id
from shadowcat.mcp.issued import IssuedHandles
from shadowcat.mcp.server_requests import ServerRequests
from shadowcat.mcp.sse import Boundary, EventScanner
from tests.property.test_envelope import PADDINGS, reference, verdict
from tests.property.test_sse import lines_of
from tests.property.test_sse import reference as read_events

from .cutting import all_cuts

_DEPTH_IN_DOUBT: Final = 48
"""Brackets beyond which the reference, which knows no limit of depth, is not asked."""
_EVENT: Final = re.compile(rb".*?(?:\r\n\r\n|\n\n|\r\r)|.+", re.DOTALL)
"""Servers write whole events, so reads that end with one are what is most often seen."""
_EVENT_LIMIT: Final = 1 << 20
_SHORT: Final = 64
"""Looking where lines end is quadratic."""


def check_envelope(data: bytes) -> None:
    """The body of a POST: both paths find what a slow reading finds, and other parsers read the same."""
    found = peek(data)
    assert (found.fault is None) is (found.kind is not Kind.INVALID)
    request_id(data)
    if found.kind is Kind.BATCH:
        read_batch(data)
    if data.count(b"{") + data.count(b"[") > _DEPTH_IN_DOUBT:
        return
    expected = reference(data)
    for padding in PADDINGS:
        assert verdict(peek(data + padding)) == expected
    if found.method is not None:
        _compare_parsers(data, found)


def _compare_parsers(data: bytes, found: Envelope) -> None:
    """Others may refuse a lone surrogate or a huge number; what they accept they read alike."""
    for parse in (orjson.loads, msgspec.json.decode):
        try:
            message = parse(data)
        except (ValueError, RecursionError):
            continue
        assert message["method"] == found.method
        assert ("id" in message) is (found.kind is Kind.REQUEST)
        params = message.get("params")
        key = NAME_KEYS.get(found.method)
        if isinstance(params, dict) and key is not None:
            name = params.get(key)
            assert found.name == (name if isinstance(name, str) else None)


def check_events(data: bytes) -> None:
    """The content of an event stream: the standard's events, in any cut, also with a limit."""
    expected = read_events(data)
    blank = [end for end in range(len(data) + 1) if _ends_blank(data, end)] if len(data) <= _SHORT else []
    whole = EventScanner(16).feed(data)
    asked = []
    for pieces in (*all_cuts(data), _EVENT.findall(data)):
        scanner, limited, boundary = EventScanner(_EVENT_LIMIT), EventScanner(16), Boundary()
        assert [event for piece in pieces for event in scanner.feed(piece)] == expected
        assert [event for piece in pieces for event in limited.feed(piece)] == whole
        for end, piece in zip(accumulate(map(len, pieces)), pieces, strict=True):
            boundary.feed(piece)
            if len(data) <= _SHORT:
                assert boundary.is_between_events is (end in blank)
        requests = ServerRequests(is_stream=True)
        digests = [digest for piece in pieces for digest in requests.feed(piece)]
        noted: list[bytes] = []
        handles = IssuedHandles(noted.extend, is_stream=True)
        for piece in pieces:
            handles.feed(piece)
        asked.append((digests, requests.has_event_id, noted))
    assert all(found == asked[0] for found in asked)


def _ends_blank(data: bytes, end: int) -> bool:
    *lines, rest = lines_of(data[:end])
    return not rest and (not lines or not lines[-1])


def check_asked(data: bytes) -> None:
    """A JSON answer that may hold a server's requests: the same ones in any cut."""
    found = []
    for pieces in all_cuts(data):
        requests = ServerRequests(is_stream=False)
        for piece in pieces:
            assert not requests.feed(piece)
        found.append(list(requests.end()))
    assert found[0] == found[1] == found[2]
