"""Memory of heads: a peer that repeats its header block is not read anew.

A head is cut at the values that differ from message to message: Content-Length, and those of the fields
listed as varying. What stands between the cuts is the *key*, a tuple of byte strings and never their
concatenation, so that no byte can move across a cut unnoticed. Everything a strict reading of the head
decides, apart from the cut-out values, is the memo's *value*. A hit checks the cut-out values as strictly as
the reading does; it is never more lenient than the parse it repeats.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Generic, NamedTuple, TypeVar

_Verdict = TypeVar("_Verdict")

_LONGEST_VALUE: Final = 1024
_PLAIN: Final = re.compile(rb"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
"""A varying value that needs no closer look: no white space around it that the reading would strip."""
_LENGTH_NAMES: Final = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")


class Cut(NamedTuple):
    """A head, cut at its variable values."""

    literals: tuple[bytes, ...]
    """What stands between the values, first to last; the key."""
    length_at: int
    """Which gap between the literals holds Content-Length; -1 if none does."""
    values: tuple[bytes, ...]
    """The values cut out, without Content-Length."""

    def names(self) -> list[bytes]:
        """The lower-case names of the fields that the values belong to."""
        gaps = (
            self.literals[: self.length_at] + self.literals[self.length_at + 1 :]
            if self.length_at >= 0
            else self.literals
        )
        return [literal[literal.rfind(b"\n") + 1 : -2].lower() for literal in gaps[:-1]]


class Entry(NamedTuple, Generic[_Verdict]):
    """A memoised head."""

    literals: tuple[bytes, ...]
    length_at: int
    verdict: _Verdict


class Cutter:
    """Knows where heads are cut."""

    __slots__ = ("_patterns",)

    def __init__(self, varying: Sequence[bytes]) -> None:
        """`varying` are the names of fields whose values are cut out, as peers spell them."""
        self._patterns = tuple(b"\r\n%b: " % name for name in varying)

    def cut(self, head: bytes) -> Cut | None:
        """Cut a whole head; None if one of the values is not plain."""
        gaps = []
        length_start = -1
        for pattern in _LENGTH_NAMES:
            at = head.find(pattern)
            if at >= 0:
                length_start = at + len(pattern)
                stop = head.find(b"\r", length_start)
                if _read_length(head[length_start:stop]) is None:
                    return None
                gaps.append((length_start, stop))
                break
        for pattern in self._patterns:
            at = head.find(pattern)
            if at >= 0:
                start = at + len(pattern)
                stop = head.find(b"\r", start)
                if not _is_plain(head[start:stop]):
                    return None
                gaps.append((start, stop))
        gaps.sort()
        literals = []
        values = []
        length_at = -1
        before = 0
        for index, (start, stop) in enumerate(gaps):
            literals.append(head[before:start])
            before = stop
            if start == length_start:
                length_at = index
            else:
                values.append(head[start:stop])
        literals.append(head[before:])
        return Cut(tuple(literals), length_at, tuple(values))


def match(data: bytes, entry: Entry[_Verdict], limit: int) -> tuple[tuple[bytes, ...], int, int] | None:
    """Compare the beginning of `data` with a head seen before.

    `limit` is the longest head that is accepted.

    Returns:
        The varying values, Content-Length (0 without one), and where the head ends; None if this is another
        head, or not the whole of it. A plain tuple, because this runs for every message.
    """
    literals, length_at, _ = entry
    length = 0
    first = literals[0]
    if not data.startswith(first):
        return None
    at = len(first)
    if len(literals) == 2 and length_at == 0:
        # The usual case apart: nothing varies but Content-Length.
        stop = data.find(b"\r", at, at + 12)
        checked = _read_length(data[at:stop])
        last = literals[1]
        if checked is None or not data.startswith(last, stop):
            return None
        at = stop + len(last)
        return ((), checked, at) if at <= limit else None
    values = []
    for index in range(1, len(literals)):
        stop = data.find(b"\r", at, at + _LONGEST_VALUE)
        literal = literals[index]
        if stop < 0 or not data.startswith(literal, stop):
            return None
        value = data[at:stop]
        if index - 1 == length_at:
            checked = _read_length(value)
            if checked is None:
                return None
            length = checked
        elif _is_plain(value):
            values.append(value)
        else:
            return None
        at = stop + len(literal)
    return (tuple(values), length, at) if at <= limit else None


def _read_length(digits: bytes) -> int | None:
    """Content-Length by the same rule as the strict reading: `0|[1-9][0-9]{0,9}`."""
    if not digits.isdigit() or len(digits) > 10 or (digits[0] == 0x30 and len(digits) > 1):
        return None
    return int(digits)


def _is_plain(value: bytes) -> bool:
    return len(value) <= _LONGEST_VALUE and _PLAIN.fullmatch(value) is not None


class Memo(Generic[_Verdict]):
    """The heads that were seen at least twice lately, by key.

    Entries live in two generations. A hit moves its entry to the young one; when the young one is full, or
    `rotate` is called because time has passed, the old one is dropped. So what is in use stays, what is idle
    for one to two rotations goes, and no bookkeeping is needed per entry.
    """

    __slots__ = ("_bytes", "_most_bytes", "_most_entries", "_old", "_once", "_young")

    def __init__(self, most_entries: int, most_bytes: int) -> None:
        """Bounds apply to each of the two generations; bytes are those of the keys."""
        self._most_entries = most_entries
        self._most_bytes = most_bytes
        self._young: dict[tuple[bytes, ...], Entry[_Verdict]] = {}
        self._old: dict[tuple[bytes, ...], Entry[_Verdict]] = {}
        self._once: set[int] = set()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, literals: tuple[bytes, ...]) -> Entry[_Verdict] | None:
        """Find a head by its key."""
        entry = self._young.get(literals)
        if entry is None:
            entry = self._old.pop(literals, None)
            if entry is not None:
                self._keep(entry)
        return entry

    def admit(self, entry: Entry[_Verdict]) -> Entry[_Verdict] | None:
        """Remember a head, if it was seen before: a head that comes once only is not worth its memory.

        Returns:
            The entry if it was admitted.
        """
        mark = hash(entry.literals)
        if mark in self._once:
            self._keep(entry)
            return entry
        if len(self._once) >= self._most_entries:
            self._once.clear()
        self._once.add(mark)
        return None

    def _keep(self, entry: Entry[_Verdict]) -> None:
        size = sum(map(len, entry.literals))
        if len(self._young) >= self._most_entries or self._bytes + size > self._most_bytes:
            self.rotate()
        self._young[entry.literals] = entry
        self._bytes += size

    def rotate(self) -> None:
        """Drop what has not been used since the last rotation."""
        self._old, self._young = self._young, {}
        self._bytes = 0
        self._once.clear()
