"""Which slots are free, and who holds those that are not.

A cell of two bytes per slot. Bytes of 0 are in free cells only, and all first bytes differ from all second
ones, so that a search in the raw cells finds a slot at the speed of memchr:

    cell                    bytes                           who may change it
    free                    00 00                           under the free line: to held
    held by process p       1 + p % 127, 0x80 + p // 127    under p's batch line: p to reserved; a process
                                                            that finds no free cell, to held by itself
    reserved by process p   1 + p % 127, 0xC0 + p // 127    p: to used, to free; the supervisor, when p
                                                            is dead: to used
    used                    01 FF                           under the slot's lock: to free

A batch saves the line that all share: it is taken once for up to 32 new sessions.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from shadowcat.shm.locks import LockBusyError, Locks
from shadowcat.shm.region import Region
from shadowcat.shm.sessions.layout import JOURNAL, Areas

BATCH: Final = 32
_FREE: Final = 0
_USED: Final = 0xFF01
_HELD: Final = 0x8000
_RESERVED: Final = 0xC000
_LOW: Final = 127
_CHUNK: Final = 4096
"""Cells looked at in one go: a search ends early as a rule, and need not copy the rest."""


class FreeSlots:
    """The holder cells, and this process's batch."""

    __slots__ = (
        "_areas",
        "_batch",
        "_bytes",
        "_cells",
        "_held",
        "_hint",
        "_idle",
        "_line",
        "_locks",
        "_process",
        "_reserved",
    )

    def __init__(self, region: Region, areas: Areas, locks: Locks, process: int) -> None:
        self._areas = areas
        self._locks = locks
        self._process = process
        self._held = _mark(_HELD, process)
        self._reserved = _mark(_RESERVED, process)
        self._bytes = region.view(areas.holders.offset, areas.holders.length)
        self._cells = self._bytes.cast("H")
        self._line = areas.holders.offset
        self._batch = max(1, min(BATCH, areas.capacity // (8 * areas.processes)))
        self._idle: deque[int] = deque()
        # Processes begin to search at different places.
        self._hint = areas.capacity * process // areas.processes

    def reserve(self) -> int | None:
        """A free slot for this process; None if none is free or idle anywhere.

        Raises:
            LockBusyError: A lock line is held by somebody who does not get on with it.
        """
        slot = self._from_batch()
        if slot is None:
            self._refill()
            slot = self._from_batch()
        if slot is None and self._take_over():
            slot = self._from_batch()
        return slot

    def unreserve(self, slot: int) -> None:
        """Give a reserved slot back; does nothing if this process has not reserved it."""
        if self.reserved(slot):
            self._cells[slot] = _FREE

    def reserved(self, slot: int) -> bool:
        """Whether this process has reserved the slot."""
        cell: int = self._cells[slot]
        return cell == self._reserved

    def used(self, slot: int) -> bool:
        """Whether the slot is marked as one with a session."""
        cell: int = self._cells[slot]
        return cell == _USED

    def set_used(self, slot: int) -> None:
        """Note that a reserved slot has its session now; the caller has locked it, or reaped its process."""
        self._cells[slot] = _USED

    def set_free(self, slot: int) -> None:
        """Note that the session of a used slot is gone; the caller has locked the slot."""
        self._cells[slot] = _FREE

    def used_column(self, first: int, count: int) -> list[bool]:
        """For each of the slots first..first+count whether it is marked as one with a session."""
        return [cell == _USED for cell in self._cells[first : first + count].tolist()]

    def used_count(self) -> int:
        """How many slots are marked as used."""
        # Never across two cells: no second byte is 1.
        return self._bytes.tobytes().count(_USED.to_bytes(2, "little"))

    def give_back_batch(self, process: int) -> None:
        """Free what a reaped process held idle.

        Raises:
            LockBusyError: Somebody is taking its batch over, and does not get on with it.
        """
        line = self._batch_line(process)
        self._locks.acquire(line)
        try:
            for slot in self._marked(_mark(_HELD, process)):
                self._cells[slot] = _FREE
        finally:
            self._locks.release(line)

    def reserved_by(self, process: int) -> list[int]:
        """The slots that a reaped process had reserved."""
        return self._marked(_mark(_RESERVED, process))

    def _from_batch(self) -> int | None:
        if not self._idle:
            return None
        line = self._batch_line(self._process)
        self._locks.acquire(line)
        try:
            while self._idle:
                slot = self._idle.popleft()
                if self._cells[slot] == self._held:  # else another process has taken it over
                    self._cells[slot] = self._reserved
                    return slot
        finally:
            self._locks.release(line)
        return None

    def _refill(self) -> None:
        self._locks.acquire(self._line)
        try:
            for slot in self._find_free():
                self._cells[slot] = self._held
                self._idle.append(slot)
        finally:
            self._locks.release(self._line)

    def _find_free(self) -> list[int]:
        """Up to a batch of free slots, from the hint on, once round."""
        capacity = self._areas.capacity
        found: list[int] = []
        hint = self._hint
        for first, last in ((hint, capacity), (0, hint)):
            for start in range(first, last, _CHUNK):
                end = min(start + _CHUNK, last)
                raw = self._bytes[2 * start : 2 * end].tobytes()
                at = raw.find(0)
                while at >= 0:
                    found.append(start + at // 2)
                    if len(found) == self._batch:
                        self._hint = (start + at // 2 + 1) % capacity
                        return found
                    at = raw.find(0, (at | 1) + 1)
        return found

    def _take_over(self) -> bool:
        """Take over one idle slot of any other process; whether there was one."""
        raw = self._bytes.tobytes()
        busy: LockBusyError | None = None
        for process in range(self._areas.processes):
            if process == self._process:
                continue
            mark = _mark(_HELD, process)
            at = raw.find(mark.to_bytes(2, "little"))
            if at < 0:
                continue
            line = self._batch_line(process)
            try:
                self._locks.acquire(line)
            except LockBusyError as error:
                busy = error
                continue
            try:
                for slot in self._marked(mark):
                    self._cells[slot] = self._held
                    self._idle.append(slot)
                    return True
            finally:
                self._locks.release(line)
        if busy is not None:
            raise busy
        return False

    def _marked(self, mark: int) -> list[int]:
        pattern = mark.to_bytes(2, "little")
        raw = self._bytes.tobytes()
        found = []
        at = raw.find(pattern)
        while at >= 0:
            # Never across two cells: a first byte is below 0x80, the second is not.
            found.append(at // 2)
            at = raw.find(pattern, at + 2)
        return found

    def _batch_line(self, process: int) -> int:
        return self._areas.journals.offset + process * JOURNAL


def _mark(kind: int, process: int) -> int:
    high, low = divmod(process, _LOW)
    return kind + (high << 8) + low + 1
