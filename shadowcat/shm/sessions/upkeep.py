"""What keeps the table whole: the search for what has expired, and repairs after a process was killed."""

from __future__ import annotations

import contextlib
from typing import Final

from shadowcat.shm.locks import LockBusyError
from shadowcat.shm.sessions.blocks import Blocks
from shadowcat.shm.sessions.free import FreeSlots
from shadowcat.shm.sessions.layout import (
    HARD_END,
    LAST_SEEN,
    OWNER,
    PARAMS,
    SLOT_WORDS,
    VERSION,
)
from shadowcat.shm.sessions.marks import clear_process, marked_for
from shadowcat.shm.sessions.owners import Owners
from shadowcat.shm.sessions.params import block_of
from shadowcat.shm.sessions.slots import Slots
from shadowcat.shm.sessions.subscriptions import Subscriptions

_CHUNK: Final = 4_096
_LOOK: Final = 4_096
_LOOK_AGAIN: Final = 10_000_000
"""A full table is searched for expired sessions 4,096 slots (0.6 ms) at a time, once in 10 ms."""


class Upkeep:
    """The table's upkeep, in whichever process does it."""

    __slots__ = (
        "_blocks", "_free", "_hand", "_look_again", "_owners", "_slots", "_subscriptions", "idle_ns"
    )  # fmt: skip

    def __init__(self, slots: Slots, free: FreeSlots, owners: Owners, blocks: Blocks) -> None:
        self._slots = slots
        self._free = free
        self._owners = owners
        self._blocks = blocks
        self._subscriptions = Subscriptions(slots, blocks)
        self.idle_ns = 0
        """`idle_timeout`; set by the table."""
        self._hand = 0
        self._look_again = 0

    def expired(self, first: int, count: int, now_ns: int) -> list[int]:
        """The slots among first..first+count whose sessions have expired. Mends what it comes across."""
        slots = self._slots
        count = min(count, slots.areas.capacity - first)
        idle_since = now_ns - self.idle_ns
        expired = []
        for slot, end, seen, version, used in zip(
            range(first, first + count),
            slots.column(HARD_END, first, count),
            slots.column(LAST_SEEN, first, count),
            slots.column(VERSION, first, count),
            self._free.used_column(first, count),
            strict=True,
        ):
            if end:
                if end <= now_ns or seen <= idle_since:
                    expired.append(slot)
                if version & 1:
                    self._mend(slot)
            elif used or version & 1:
                self._mend(slot)
        return expired

    def next_expired(self, now_ns: int) -> list[int]:
        """The slots with expired sessions in the next part of the table; none if that was done just now."""
        if now_ns < self._look_again:
            return []
        self._look_again = now_ns + _LOOK_AGAIN
        first = self._hand
        self._hand = first + _LOOK if first + _LOOK < self._slots.areas.capacity else 0
        return self.expired(first, _LOOK, now_ns)

    def has_expired(self, slot: int, now_ns: int) -> bool:
        """Whether the session in a locked slot has expired."""
        words = self._slots.words
        base = slot * SLOT_WORDS
        end, seen = words[base + HARD_END], words[base + LAST_SEEN]
        return bool(end) and (end <= now_ns or seen <= now_ns - self.idle_ns)

    def occupied(self, first: int, count: int) -> list[int]:
        """The slots among first..first+count that have a session."""
        count = min(count, self._slots.areas.capacity - first)
        ends = self._slots.column(HARD_END, first, count)
        return [first + index for index, end in enumerate(ends) if end]

    def recount(self) -> int:
        """Correct the counts per owner, and free the blocks that no session refers to."""
        for block, slot in self._blocks.taken():
            if not self._in_use(block, slot):
                self._free_stray(block, slot)
        return self._owners.recount(self._owner_digests)

    def repair(self, process: int) -> None:
        """Take back everything that a reaped process had."""
        slots, free = self._slots, self._free
        locked = slots.locked_by(process)
        if locked is not None:
            self._mend(locked)
            slots.forget(process)
        with contextlib.suppress(LockBusyError):  # Who finds no other free slot takes these over.
            free.give_back_batch(process)
        for slot in free.reserved_by(process):
            # It may have been killed between the creation of a session and its mark. No lock is needed for
            # the mark of the dead; what cannot be locked just now, the sweep finds as a used slot is.
            free.set_used(slot)
            self._mend(slot)
        capacity = slots.areas.capacity
        for first in range(0, capacity, _CHUNK):
            for slot in marked_for(slots, first, min(_CHUNK, capacity - first), process):
                self._clear(slot, process)

    def _mend(self, slot: int) -> None:
        """Finish or undo a write of a dead process; mark the slot as free if no session came out of it."""
        with contextlib.suppress(LockBusyError), self._slots.held(slot):
            if self._free.used(slot) and self._slots.present(slot) is None:
                self._free.set_free(slot)

    def _clear(self, slot: int, process: int) -> None:
        with contextlib.suppress(LockBusyError), self._slots.held(slot):
            clear_process(self._slots, slot, process)

    def _in_use(self, block: int, slot: int) -> bool:
        word = self._slots.words[slot * SLOT_WORDS + PARAMS]
        return block_of(word) == block or self._subscriptions.block(slot) == block

    def _free_stray(self, block: int, slot: int) -> None:
        with self._slots.held(slot):
            if not self._in_use(block, slot):
                self._blocks.give_back(block)

    def _owner_digests(self) -> list[int]:
        return self._slots.column(OWNER, 0, self._slots.areas.capacity)
