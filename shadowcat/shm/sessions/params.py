"""The params of `initialize`, kept for a recovery: inline behind the record, or in a block, or not at all.

They are written before the version that refers to them, and never changed, so that a reader need not lock.
"""

from __future__ import annotations

from typing import Final
from zlib import crc32

from shadowcat.shm.sessions.blocks import Blocks
from shadowcat.shm.sessions.layout import BLOCK, INLINE, INLINE_LIMIT, LENGTH_SHIFT, SLOT
from shadowcat.shm.sessions.slots import Slots

NOT_KEPT: Final = 0xFFFF_FFFF
"""The word of params that are kept nowhere."""
_PLACE: Final = 0xFFFF_FFFF
_CHECKSUM_SHIFT: Final = 32


class Params:
    """The params of all sessions."""

    __slots__ = ("_blocks", "_slots")

    def __init__(self, slots: Slots, blocks: Blocks) -> None:
        self._slots = slots
        self._blocks = blocks

    def store(self, slot: int, params: bytes) -> int:
        """Store the params of a locked slot.

        Returns:
            The word that refers to them.

        Raises:
            LockBusyError: They need a block, and another process is taking one.
        """
        checksum = crc32(params) << _CHECKSUM_SHIFT
        if len(params) <= INLINE_LIMIT:
            start = slot * SLOT + INLINE
            self._slots.view[start : start + len(params)] = params
            return checksum
        block = self._blocks.take(slot) if len(params) <= BLOCK else None
        if block is None:
            return NOT_KEPT
        self._blocks.write(block, 0, params)
        return checksum | block + 1

    def read(self, slot: int, lengths: int, word: int) -> bytes | None:
        """The params that a slot refers to; None if they were not kept, or the session has ended."""
        if word == NOT_KEPT:
            return None
        length = lengths >> LENGTH_SHIFT
        place = block_of(word)
        if place is None:
            start = slot * SLOT + INLINE
            params = self._slots.view[start : start + length].tobytes()
        else:
            params = self._blocks.read(place, 0, length)
        # A difference can only mean that their place has another owner by now.
        return params if crc32(params) == word >> _CHECKSUM_SHIFT else None

    def drop(self, word: int) -> None:
        """Free what `word` refers to; its slot is locked, and does not refer to it any more."""
        block = block_of(word)
        if block is not None:
            self._blocks.give_back(block)


def block_of(word: int) -> int | None:
    """The block in which params are; None: in none."""
    place = word & _PLACE
    return place - 1 if place not in (0, NOT_KEPT) else None
