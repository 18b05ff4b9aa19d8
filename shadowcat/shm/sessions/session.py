"""A session as one process has decoded it."""

from __future__ import annotations

from typing import Final

from shadowcat.shm.sessions.layout import FIXED, SLOT_WORDS
from shadowcat.shm.sessions.record import SessionRecord, unpack
from shadowcat.shm.sessions.slots import Image

_unpack_fixed: Final = FIXED.unpack_from
_FIXED: Final = FIXED.size


class Session:
    """One decoded version of one slot. Times are CLOCK_MONOTONIC nanoseconds.

    It says what was so when it was decoded: `SessionTable.use` tells whether it still is.
    """

    __slots__ = (
        "base", "born", "fresh_until", "hard_end", "id", "incarnation", "lengths", "note", "owner", "params",
        "record", "slot", "touched", "version",
    )  # fmt: skip

    slot: int
    id: bytes
    """What the client sends as Mcp-Session-Id."""
    version: int
    """The slot's version word."""
    incarnation: int
    """Which upstream session this is: another one after each re-pin, and never used again in this slot."""
    record: SessionRecord
    touched: int
    """When this process last stored that the session is in use; 0: not yet."""
    note: object
    """For the data plane: what it derived from the record."""
    base: int
    """The slot's first word."""
    born: int
    """The version with which the session was created: the same in all of its versions."""
    hard_end: int
    """When the session ends, however busy it is."""
    owner: int
    """Digest of `record.owner`."""
    lengths: int
    params: int
    """See layout.py."""
    fresh_until: int
    """Until then the session has not expired, and its use need not be noted again."""

    def __init__(self, slot: int, session_id: bytes, image: Image, record: SessionRecord) -> None:
        self.slot = slot
        self.id = session_id
        self.version, content = image
        self.hard_end, self.owner, self.born, self.incarnation, self.lengths, self.params = _unpack_fixed(
            content
        )
        self.record = record
        self.note = None
        self.base = slot * SLOT_WORDS
        self.touched = self.fresh_until = 0


def decode(image: Image) -> SessionRecord:
    """The record in a slot."""
    return unpack(image[1][_FIXED:])
