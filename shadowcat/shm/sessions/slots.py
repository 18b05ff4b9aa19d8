"""Reading and writing slots so that nobody ever sees half a write, whoever is killed when.

A reader takes no lock: version, content, checksum, version. A writer holds the slot's lock, makes the version
odd, writes, and makes it even again. An odd version whose lock can be had belongs to a dead writer. What that
one was writing stands complete in its journal if it was an update, so the update is finished for it; a
creation or a deletion leaves an empty slot. Either way no session is lost that was there before.
"""

from __future__ import annotations

from typing import Final
from zlib import crc32

from shadowcat.shm.locks import Locks
from shadowcat.shm.region import Region
from shadowcat.shm.sessions.layout import (
    CHECKSUM,
    COVERED,
    FIXED,
    JOURNAL,
    JOURNAL_CONTENT,
    JOURNAL_WORDS,
    LENGTHS,
    RECORD_LENGTH,
    SLOT,
    SLOT_WORDS,
    SUBSCRIPTIONS,
    VERSION,
    Areas,
)
from shadowcat.shm.sessions.record import RECORD_LIMIT

_TRIES: Final = range(16)
_CRC: Final = 0xFFFF_FFFF
_FIXED: Final = FIXED.size
_TO_LENGTHS: Final = LENGTHS - VERSION
_TO_CHECKSUM: Final = CHECKSUM - VERSION
_EMPTY: Final = bytes(_FIXED)
_LOCKED, _MEANT_FOR, _SUM, _LENGTH = range(4)
_SLOT_BITS: Final = 24


Image = tuple[int, bytes]
"""A slot with a session: its version, and what the checksum covers (FIXED, then the record)."""


class Slots:
    """All slots, for one process."""

    __slots__ = (
        "_covered", "_journal", "_journals", "_locks", "_map", "_offset", "areas", "process", "view", "words"
    )  # fmt: skip

    words: memoryview
    """All slots as words; slot s begins at s * SLOT_WORDS."""
    view: memoryview
    """All slots as bytes."""

    def __init__(self, region: Region, areas: Areas, locks: Locks, process: int) -> None:
        self.areas = areas
        self.process = process
        self._locks = locks
        self._map = region.map
        self._offset = areas.slots.offset
        self._covered = areas.slots.offset + COVERED
        self.words = region.words(areas.slots.offset, areas.capacity * SLOT_WORDS)
        self.view = region.view(areas.slots.offset, areas.slots.length)
        self._journals = region.view(areas.journals.offset, areas.journals.length)
        own = process * JOURNAL
        self._journal = self._journals[own : own + JOURNAL].cast("Q")

    def column(self, word: int, first: int, count: int) -> list[int]:
        """One word of `count` slots from `first` on, each read at some moment of its own."""
        start = first * SLOT_WORDS
        values: list[int] = self.words[start + word : start + count * SLOT_WORDS : SLOT_WORDS].tolist()
        return values

    def read(self, slot: int) -> Image | None:
        """The content of a slot; None if there is no session in it.

        Raises:
            LockBusyError: It is being written by a process that does not get on with it.
        """
        words, memory = self.words, self._map
        at = slot * SLOT_WORDS + VERSION
        start = self._covered + slot * SLOT
        for _ in _TRIES:
            version = words[at]
            if version & 1:
                continue
            length = words[at + _TO_LENGTHS] & RECORD_LENGTH
            content = memory[start : start + _FIXED + length]
            checksum = words[at + _TO_CHECKSUM]
            if words[at] == version:
                if crc32(content, version & _CRC) == checksum:
                    return (version, content) if length else None
                if not version:
                    return None
        with self.held(slot):  # mends it
            return self.present(slot)

    def present(self, slot: int) -> Image | None:
        """The content of a slot that the caller has locked."""
        base = slot * SLOT_WORDS
        version = self.words[base + VERSION]
        if not version:
            return None
        start = slot * SLOT + COVERED
        length = self.words[base + LENGTHS] & RECORD_LENGTH
        content = self.view[start : start + _FIXED + length].tobytes()
        if crc32(content, version & _CRC) != self.words[base + CHECKSUM]:
            # Nobody is writing: the bytes are damaged, and nobody can tell what they were.
            self.wipe(slot)
            return None
        return (version, content) if length else None

    def lock(self, slot: int) -> None:
        """Lock a slot for writing. What a dead writer left in it is mended first.

        Raises:
            LockBusyError: Another process has it.
        """
        self._locks.acquire(self._offset + slot * SLOT)
        self._journal[_LOCKED] = slot + 1
        if self.words[slot * SLOT_WORDS + VERSION] & 1:
            self._mend(slot)

    def unlock(self, slot: int) -> None:
        """Give the lock back."""
        self._journal[_LOCKED] = 0
        self._locks.release(self._offset + slot * SLOT)

    def held(self, slot: int) -> Held:
        """Hold the lock of a slot over a `with` block; see `lock`."""
        return Held(self, slot)

    def write(self, slot: int, version: int, content: bytes) -> None:
        """Replace the content of a locked slot; after a crash either the old or the new one is there.

        Args:
            slot: The slot.
            version: Its `next_version`.
            content: What is to be there.
        """
        journal = self._journal
        checksum = crc32(content, version & _CRC)
        # Nobody looks into the journal before the slot's version is odd, and by then all of it is there.
        journal[_MEANT_FOR] = version - 1 << _SLOT_BITS | slot
        own = self.process * JOURNAL + JOURNAL_CONTENT
        self._journals[own : own + len(content)] = content
        journal[_LENGTH] = len(content)
        journal[_SUM] = checksum
        self._put(slot, version, content, checksum)

    def fill(self, slot: int, version: int, content: bytes) -> None:
        """Write the content of a locked slot that is empty; after a crash it is empty still.

        Args:
            slot: The slot.
            version: Its `next_version`.
            content: What is to be there.
        """
        self._put(slot, version, content, crc32(content, version & _CRC))

    def wipe(self, slot: int) -> None:
        """Empty a locked slot."""
        odd = self.words[slot * SLOT_WORDS + VERSION] | 1
        self.words[slot * SLOT_WORDS + VERSION] = odd
        self.words[slot * SLOT_WORDS + SUBSCRIPTIONS] = 0
        self._put(slot, odd + 1, _EMPTY, crc32(_EMPTY, odd + 1 & _CRC))

    def next_version(self, slot: int) -> int:
        """The version that the next write to a locked slot makes."""
        version: int = self.words[slot * SLOT_WORDS + VERSION]
        return version + 2

    def locked_by(self, process: int) -> int | None:
        """The slot that `process` has, or had when it died, locked."""
        locked = self._words_of(process)[_LOCKED]
        return locked - 1 if locked else None

    def forget(self, process: int) -> None:
        """Clear the journal of a process that has been reaped, and all it had locked mended."""
        self._words_of(process)[_LOCKED] = 0

    def _put(self, slot: int, version: int, content: bytes, checksum: int) -> None:
        words = self.words
        base = slot * SLOT_WORDS
        start = slot * SLOT + COVERED
        words[base + VERSION] = version - 1
        self.view[start : start + len(content)] = content
        words[base + CHECKSUM] = checksum
        words[base + VERSION] = version

    def _mend(self, slot: int) -> None:
        odd = self.words[slot * SLOT_WORDS + VERSION]
        for process in range(self.areas.processes):
            journal = self._words_of(process)
            length = journal[_LENGTH]
            if journal[_MEANT_FOR] != odd << _SLOT_BITS | slot:
                continue
            if not _FIXED <= length <= _FIXED + RECORD_LIMIT:
                continue
            start = process * JOURNAL + JOURNAL_CONTENT
            content = self._journals[start : start + length].tobytes()
            checksum = crc32(content, odd + 1 & _CRC)
            if checksum == journal[_SUM]:
                self._put(slot, odd + 1, content, checksum)
                return
        self.wipe(slot)

    def _words_of(self, process: int) -> memoryview:
        return self._journals[process * JOURNAL : process * JOURNAL + JOURNAL_WORDS * 8].cast("Q")


class Held:
    """A slot's lock, from the entry to the exit of a `with` block."""

    # A generator with @contextmanager takes 0.8 us more, as much as the lock itself.
    __slots__ = ("_slot", "_slots")

    def __init__(self, slots: Slots, slot: int) -> None:
        self._slots = slots
        self._slot = slot

    def __enter__(self) -> None:
        self._slots.lock(self._slot)

    def __exit__(self, *_: object) -> None:
        self._slots.unlock(self._slot)
