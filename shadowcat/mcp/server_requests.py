"""What a server asks its client (sampling, elicitation, roots), seen in the answers that pass.

Servers number their own requests anew in every session. To keep an answer of the client from a session that
did not ask for it, the ids of the requests under way are remembered, as digests of eight bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from shadowcat.mcp.members import ComplexityError, DepthError, read_members
from shadowcat.mcp.sse import Boundary, EventScanner

MAX_MESSAGE: Final = 4 * 2**20
"""Longest message that is looked into, in bytes: as much as a client may send. The answer to a longer request
counts as one that nobody asked for."""

_METHOD: Final = b'"method"'  # No server library writes escapes into its own keys.
_ID_LINE: Final = b"id:"
_ID_STARTS: Final = frozenset(b'"-0123456789')


class _Message(Struct, gc=False):
    method: Raw | UnsetType = UNSET
    id: Raw | UnsetType = UNSET


_decode: Final = msgspec.json.Decoder(_Message | list[_Message]).decode
_decode_id: Final = json.JSONDecoder(parse_int=float).decode


class ServerRequests:
    """Takes the content of an answer in pieces, and gives the digests of the requests in it.

    What is fed must not reach the client before its digests are recorded: the client may answer at once.
    """

    __slots__ = ("_body", "_boundary", "_scanner", "_size", "has_event_id")

    def __init__(self, *, is_stream: bool) -> None:
        """`is_stream`: whether the content is a stream of server-sent events; if not, it is one JSON text."""
        self._scanner = EventScanner(MAX_MESSAGE) if is_stream else None
        self._boundary = Boundary()
        self._body: list[bytes] = []
        self._size = 0
        self.has_event_id = False
        """Whether an event id was among what was fed; an empty one resets the client's, and is none."""

    def feed(self, data: bytes) -> Sequence[int]:
        """Take the next bytes of the content, without transfer coding; give the digests they complete."""
        if self._scanner is None:
            self._size += len(data)
            if self._size > MAX_MESSAGE:
                self._body.clear()
            else:
                self._body.append(data)
            return ()
        # Servers write whole events. One of 200 bytes without anything to find costs 1 us; taking it apart to
        # find that out would cost 2.5 us more.
        was_between = self._boundary.is_between_events
        self._boundary.feed(data)
        if (
            was_between
            and self._boundary.is_between_events
            and _METHOD not in data
            and (self.has_event_id or _ID_LINE not in data)
        ):
            self._scanner.is_start = False
            return ()
        digests: list[int] = []
        for event in self._scanner.feed(data):
            if event.id:
                self.has_event_id = True
            if event.data is not None and _METHOD in event.data:
                digests += _requests_in(event.data)
        return digests

    def end(self) -> Sequence[int]:
        """The content ended as it should: give the digests of a JSON text."""
        body = b"".join(self._body)
        return _requests_in(body) if _METHOD in body else ()


def digest_of(id_raw: bytes) -> int:
    """Digest a JSON-RPC id, so that a client's answer is known again.

    `"1"` and `1` are two ids. `1`, `1.0` and `1e0` are one: JSON has one type of number, and a client written
    in JavaScript echoes `1.0` as `1`. So are two integers that are equal as doubles, for the same reason.

    Args:
        id_raw: the id as `Envelope.id` gives it, a JSON string or number.

    Returns:
        From 1 to 2**64 - 1.
    """
    return int.from_bytes(hashlib.blake2b(_canonical(id_raw), digest_size=8).digest(), "big") or 1


def _canonical(id_raw: bytes) -> bytes:
    """One spelling for all spellings of an id; the two types of id never share one."""
    try:
        value = _decode_id(id_raw.decode("utf-8", "replace"))
    except ValueError:
        return id_raw
    if isinstance(value, str):
        return b'"' + value.encode("utf-8", "surrogatepass")
    return b"%r" % (value + 0.0)  # adding zero takes the sign from minus zero


def _requests_in(message: bytes) -> list[int]:
    """The digests of the ids of all requests in a message or a batch. Never raises."""
    try:
        found = _decode(message)
    except (ValueError, RecursionError):
        return _requests_in_any(message)
    messages = found if isinstance(found, list) else [found]
    return [
        digest_of(raw)
        for each in messages
        if each.method is not UNSET and each.id is not UNSET and (raw := bytes(each.id))[0] in _ID_STARTS
    ]


def _requests_in_any(message: bytes) -> list[int]:
    """The same for what msgspec does not take: a lone surrogate somewhere, or no message at all."""
    try:
        found = read_members(message)
    except (ValueError, DepthError, ComplexityError):
        return []
    ids = [
        dict(each).get("id")
        for each in (found if isinstance(found, list) else [found])
        if isinstance(each, tuple) and any(key == "method" for key, _ in each)
    ]
    # Numbers come as they are spelled, strings as text.
    return [digest_of(json.dumps(each).encode() if isinstance(each, str) else each) for each in ids if each]
