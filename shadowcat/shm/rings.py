"""Records on their way to the control process: one ring of bytes per process that has any.

    word    field           writer
    0       epoch           supervisor: when the rings were made, ns since 1970; the same for all rings
    then for each process, on lines of their own
    0       tail            the process: bytes ever written
    8       head            control: bytes ever taken
    16-     content         the process

    record  checksum (32 bits) | length (32 bits), in one store; then the bytes, to a multiple of 8

The tail is stored last, so a record is all there or not at all, whoever is killed when. The checksum, of the
record and of its place, tells one whose tail is seen before its bytes, which a machine that does not keep the
order of stores may show. Control stores the head once what it has taken is in the file: killed before that,
its successor takes the same records once more. Nothing is lost, and each record is known by its place.
"""

from __future__ import annotations

import zlib
from typing import Final, NamedTuple

from shadowcat.shm.region import LINE, WORD, Area, Plan, Region

_LINE_WORDS: Final = LINE // WORD
_TAIL: Final = 0
_HEAD: Final = _LINE_WORDS
_MARKS: Final = 2 * LINE
_LENGTH: Final = 0xFFFF_FFFF
_CHECKSUM_AT: Final = 32
_crc32: Final = zlib.crc32


def space_for(length: int) -> int:
    """The bytes that a record takes in a ring."""
    return WORD + (length + WORD - 1 & -WORD)


class Taken(NamedTuple):
    """What was read of a ring."""

    records: list[bytes]
    position: int
    """Where the next one begins: for `release`."""


class Ring:
    """The records of one process, which alone appends; control alone takes."""

    __slots__ = ("_capacity", "_map", "_start", "_words", "epoch")

    def __init__(self, region: Region, offset: int, capacity: int, epoch: int) -> None:
        """The ring at byte `offset` of the region, with a content of `capacity` bytes."""
        self._map = region.map
        self._capacity = capacity
        self._start = offset + _MARKS
        self._words = region.words(offset, (_MARKS + capacity) // WORD)
        self.epoch = epoch
        """When all rings of the host were made, ns since 1970."""

    # For the process.

    @property
    def tail(self) -> int:
        """The place of the next record; no other record of this ring has ever had it."""
        return self._words[_TAIL]

    @property
    def room(self) -> int:
        """Bytes that are free, as `space_for` counts them."""
        words = self._words
        return self._capacity - (words[_TAIL] - words[_HEAD])

    def append(self, record: bytes) -> bool:
        """Put a record in; False if there is no room. Never blocks."""
        words, capacity = self._words, self._capacity
        size = len(record)
        tail = words[_TAIL]
        space = WORD + (size + WORD - 1 & -WORD)
        if space > capacity - (tail - words[_HEAD]):
            return False
        at = tail % capacity
        first = at + WORD if at + WORD < capacity else 0
        start = self._start
        rest = first + size - capacity
        if rest <= 0:
            self._map[start + first : start + first + size] = record
        else:
            self._map[start + first : start + capacity] = record[:-rest]
            self._map[start : start + rest] = record[-rest:]
        words[2 * _LINE_WORDS + at // WORD] = _crc32(record, tail & _LENGTH) << _CHECKSUM_AT | size
        words[_TAIL] = tail + space
        return True

    # For control.

    @property
    def is_empty(self) -> bool:
        """Whether everything was taken."""
        return self._words[_HEAD] == self._words[_TAIL]

    def read(self, limit: int) -> Taken:
        """The oldest records, up to about `limit` bytes of them; they stay until they are released."""
        words, capacity, start = self._words, self._capacity, self._start
        head, tail = words[_HEAD], words[_TAIL]
        end = min(tail, head + limit)
        records = []
        while head < end:
            at = head % capacity
            word = words[2 * _LINE_WORDS + at // WORD]
            size = word & _LENGTH
            space = space_for(size)
            if space > tail - head:
                break
            first = at + WORD if at + WORD < capacity else 0
            record = self._map[start + first : start + min(first + size, capacity)]
            if len(record) < size:
                record += self._map[start : start + size - len(record)]
            if word >> _CHECKSUM_AT != _crc32(record, head & _LENGTH):
                break
            records.append(record)
            head += space
        return Taken(records, head)

    def release(self, position: int) -> None:
        """What stands before `position` is needed no more."""
        self._words[_HEAD] = position

    def skip(self) -> int:
        """Give up what is there, because it cannot be read; how many bytes that was."""
        words = self._words
        tail = words[_TAIL]
        lost = tail - words[_HEAD]
        words[_HEAD] = tail
        return lost


class Rings:
    """The rings of all processes but the supervisor."""

    __slots__ = ("_area", "_capacity", "_region")

    def __init__(self, region: Region, area: Area, capacity: int) -> None:
        self._region = region
        self._area = area
        self._capacity = _whole(capacity)

    @staticmethod
    def plan(plan: Plan, processes: int, capacity: int) -> Area:
        """Set the memory aside for `processes` rings with a content of `capacity` bytes each."""
        return plan.add(LINE + processes * (_MARKS + _whole(capacity)))

    def begin(self, now_ns: int) -> None:
        """Note the time of day, ns since 1970; before the first fork."""
        self._region.words(self._area.offset, 1)[0] = now_ns

    def ring(self, number: int) -> Ring:
        """The ring with this number."""
        offset = self._area.offset + LINE + number * (_MARKS + self._capacity)
        return Ring(self._region, offset, self._capacity, self._region.words(self._area.offset, 1)[0])


def _whole(capacity: int) -> int:
    """Whole lines."""
    return capacity // LINE * LINE
