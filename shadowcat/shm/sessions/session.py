"""A session as one process has decoded it."""

from __future__ import annotations

import struct
from typing import Final

from msgspec import Struct

from shadowcat.shm.sessions.layout import FIXED, SLOT_WORDS
from shadowcat.shm.sessions.record import SessionRecord, unpack
from shadowcat.shm.sessions.slots import Image

_unpack: Final = struct.Struct("Q8xQQ").unpack_from
"""Of FIXED what a lookup needs."""
_FIXED: Final = FIXED.size


class Session(Struct, eq=False):
    """One decoded version of one slot. Times are CLOCK_MONOTONIC nanoseconds.

    It says what was so when it was decoded: `SessionTable.use` tells whether it still is. A Struct is filled
    in by C, which a lookup gains 0.15 us from; two of them are equal only if they are one.
    """

    slot: int
    id: bytes
    """What the client sends as Mcp-Session-Id."""
    version: int
    """The slot's version word."""
    incarnation: int
    """Which upstream session this is: another one after each re-pin, and never used again in this slot."""
    record: SessionRecord
    base: int
    """The slot's first word."""
    born: int
    """The version with which the session was created: the same in all of its versions."""
    hard_end: int
    """When the session ends, however busy it is."""
    touched: int = 0
    """When this process last stored that the session is in use; 0: not yet."""
    fresh_until: int = 0
    """Until then the session has not expired, and its use need not be noted again."""
    note: object = None
    """For the data plane: what it derived from the record."""


def session_in(slot: int, session_id: bytes, image: Image, record: SessionRecord | None = None) -> Session:
    """The session in a slot; `record` if it is known already, else it is decoded."""
    version, content = image
    hard_end, born, incarnation = _unpack(content)
    if record is None:
        record = unpack(content[_FIXED:])
    return Session(slot, session_id, version, incarnation, record, slot * SLOT_WORDS, born, hard_end)


def decode(image: Image) -> SessionRecord:
    """The record in a slot."""
    return unpack(image[1][_FIXED:])
