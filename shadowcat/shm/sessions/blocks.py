"""Blocks of 4 KiB beside the slots, for long `initialize` params and for subscriptions.

A block is taken and given back under the block line, and for a slot only by who has locked that slot. So a
block that its slot, locked, does not refer to was left behind by a dead process: `stray` finds them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from shadowcat.shm.locks import Locks
from shadowcat.shm.region import Region
from shadowcat.shm.sessions.layout import BLOCK, Areas

_FREE: Final = 0
_TAKEN: Final = 1


class Blocks:
    """All blocks, for one process."""

    __slots__ = ("_locks", "_map", "_memory", "_offset", "_slots")

    def __init__(self, region: Region, areas: Areas, locks: Locks) -> None:
        self._locks = locks
        self._offset = offset = areas.block_map.offset
        count = areas.block_count
        self._map = region.view(offset, count)
        slots = offset + areas.block_map.length - 4 * count
        self._slots = region.view(slots, 4 * count).cast("I")
        self._memory = region.view(areas.blocks.offset, areas.blocks.length)

    def take(self, slot: int) -> int | None:
        """Take a block for a slot that the caller has locked; None: all are taken.

        Raises:
            LockBusyError: Another process is taking one, and does not get on with it.
        """
        self._locks.acquire(self._offset)
        try:
            block = self._map.tobytes().find(_FREE)
            if block < 0:
                return None
            self._slots[block] = slot
            self._map[block] = _TAKEN
            return block
        finally:
            self._locks.release(self._offset)

    def give_back(self, block: int) -> None:
        """Free a block; the caller has locked the slot that it was taken for."""
        self._map[block] = _FREE

    def write(self, block: int, offset: int, content: bytes) -> None:
        """Store bytes in a block."""
        start = block * BLOCK + offset
        self._memory[start : start + len(content)] = content

    def read(self, block: int, offset: int, length: int) -> bytes:
        """Read bytes from a block."""
        start = block * BLOCK + offset
        return self._memory[start : start + length].tobytes()

    def taken(self) -> Iterator[tuple[int, int]]:
        """All taken blocks, with the slots they were taken for."""
        taken = self._map.tobytes()
        block = taken.find(_TAKEN)
        while block >= 0:
            yield block, self._slots[block]
            block = taken.find(_TAKEN, block + 1)
