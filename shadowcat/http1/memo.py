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
_TRIAL: Final = 1024
"""Misses after which a connection that hits less than every other time is left alone, and for how many heads.
A client with many sessions needs some hundreds of misses before its heads are known."""
_NO_HEAD: Final = b"\0"
"""Begins no message."""
_LENGTH: Final = b"content-length"


class Cut(NamedTuple):
    """A head, cut at its variable values."""

    literals: tuple[bytes, ...]
    """What stands between the values, first to last; the key."""
    length_at: int
    """Which gap between the literals holds Content-Length; -1 if none does."""
    values: tuple[bytes, ...]
    """The values cut out, without Content-Length."""
    length: int
    """Content-Length, 0 without one."""
    sizes: list[int]
    """Bytes in each gap."""

    def entry(self, verdict: _Verdict) -> Entry[_Verdict]:
        """What to remember of this head."""
        marks = tuple(literal[literal.rfind(b"\r") :] for literal in self.literals[:-1])
        rest = tuple(
            (literal, len(literal), gap == self.length_at) for gap, literal in enumerate(self.literals[1:])
        )
        return Entry(self.literals, self.length_at, marks, rest, verdict)

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
    marks: tuple[bytes, ...]
    """For each gap, the CRLF, name and colon before it."""
    rest: tuple[tuple[bytes, int, bool], ...]
    """For each gap, the literal after it, the literal's size, and whether the gap holds Content-Length."""
    verdict: _Verdict


class Cutter:
    """Knows where heads are cut."""

    __slots__ = ("_patterns",)

    def __init__(self, varying: Sequence[bytes]) -> None:
        """`varying` are the lower-case names of the fields whose values are cut out."""
        self._patterns = tuple(b"\r\n%b: " % name for name in (_LENGTH, *varying))

    def cut(self, head: bytes) -> Cut | None:
        """Cut a whole head; None if one of the values is not plain."""
        gaps = []
        # A copy in lower case finds every spelling at 0.1 us per field; one regex for all takes 6.5 us.
        lower = head.lower()
        length_start = -1
        for pattern in self._patterns:
            at = lower.find(pattern)
            if at >= 0:
                start = at + len(pattern)
                if pattern is self._patterns[0]:
                    length_start = start
                gaps.append((start, head.find(b"\r", start)))
        if len(gaps) > 1:
            gaps.sort()
        length_at = next((index for index, (start, _) in enumerate(gaps) if start == length_start), -1)
        return _cut_at(head, gaps, length_at)


def _cut_alike(head: bytes, entry: Entry[_Verdict]) -> Cut | None:
    """Cut a head whose fields have the places and, but for the varying values, the lengths of another's.

    A client's requests differ in a token or a session id of the same length. A third of a full cut's cost.
    None if the fields are not where they are expected, or one of the values is not plain.
    """
    gaps = []
    before = 0
    for literal, mark in zip(entry.literals, entry.marks, strict=False):
        start = before + len(literal)
        if not head.startswith(mark, start - len(mark)):
            return None
        before = head.find(b"\r", start)
        gaps.append((start, before))
    return _cut_at(head, gaps, entry.length_at)


def _cut_at(head: bytes, gaps: Sequence[tuple[int, int]], length_at: int) -> Cut | None:
    literals = []
    values = []
    length: int | None = 0
    before = 0
    for index, (start, stop) in enumerate(gaps):
        literals.append(head[before:start])
        value = head[start:stop]
        before = stop
        if index == length_at:
            length = _read_length(value)
            if length is None:
                return None
        elif _is_plain(value):
            values.append(value)
        else:
            return None
    literals.append(head[before:])
    return Cut(tuple(literals), length_at, tuple(values), length or 0, [stop - start for start, stop in gaps])


class Recall(Generic[_Verdict]):
    """One connection's last head. After a `match`, the attributes describe the head that was found."""

    __slots__ = (
        "_entry",
        "_hits",
        "_limit",
        "_misses",
        "_passed",
        "_sizes",
        "end",
        "head",
        "length",
        "values",
        "verdict",
    )

    head: bytes
    """The whole last head. Where all is equal, even the length, `data.startswith(head)` takes 80 ns and is
    all that the hot path needs; comparing around the values takes 1 to 2 us."""
    verdict: _Verdict
    values: tuple[bytes, ...]
    """The varying values, without Content-Length."""
    length: int
    """Content-Length, 0 without one."""
    end: int
    """Where the head ends and the body begins."""

    def __init__(self, limit: int) -> None:
        """`limit` is the longest head that is accepted, in bytes."""
        self._limit = limit
        self.head = _NO_HEAD
        self._entry: Entry[_Verdict] | None = None
        self._hits = 0
        self._misses = 0
        self._passed = 0
        self._sizes: list[int] = []
        self.values = ()
        self.length = self.end = 0

    def match(self, data: bytes) -> bool:
        """Whether `data` begins with the connection's last head, but for the variable values."""
        if data.startswith(self.head):
            return True
        entry = self._entry
        return entry is not None and self._match(data, entry)

    def keep(self, entry: Entry[_Verdict], cut: Cut, head: bytes) -> None:
        """Make `head`, of which `cut` was taken and `entry` is the verdict, the last head."""
        self._entry = entry
        self._sizes = cut.sizes
        self.head = head
        self.verdict = entry.verdict
        self.values = cut.values
        self.length = cut.length
        self.end = len(head)

    def cut_alike(self, head: bytes) -> Cut | None:
        """Cut a head that is not the last one, if it looks like it."""
        return _cut_alike(head, self._entry) if self._entry is not None else None

    def cut(self, head: bytes, cutter: Cutter) -> Cut | None:
        """Cut a head that is not the last one, but probably looks like it."""
        return self.cut_alike(head) or cutter.cut(head)

    def forget(self) -> None:
        """Have no last head: an idle connection keeps no token."""
        self._entry = None
        self.head = _NO_HEAD

    def pays(self) -> bool:
        """Whether this connection repeats itself often enough to look for its next head in the memo."""
        if self._misses < _TRIAL or self._hits >= self._misses:
            return True
        self._passed += 1
        if self._passed >= _TRIAL:
            self._hits = self._misses = self._passed = 0
        return False

    def count(self, *, hit: bool) -> None:
        """Note whether the memo knew a head that was not the last one."""
        if hit:
            self._hits += 1
        else:
            self._misses += 1

    def _match(self, data: bytes, entry: Entry[_Verdict]) -> bool:
        if not data.startswith(entry.literals[0]):
            return False
        at = len(entry.literals[0])
        length: int | None = 0
        known = self.values
        values = []
        sizes = []
        for (literal, after, is_length), size in zip(entry.rest, self._sizes, strict=True):
            # A trace id is as long as the last one: then there is nothing to search for. (A line end within
            # the value would not be plain.) Comparing a slice takes half the time of startswith with a start.
            stop = at + size
            end = stop + after
            if data[stop:end] != literal:
                stop = data.find(b"\r", at, at + _LONGEST_VALUE)
                end = stop + after
                if stop < 0 or data[stop:end] != literal:
                    return False
                size = stop - at
            value = data[at:stop]
            if is_length:
                length = _read_length(value)
                if length is None:
                    return False
            else:
                # What was plain last time is plain.
                if value not in known and not _is_plain(value):
                    return False
                values.append(value)
            sizes.append(size)
            at = end
        if at > self._limit:
            return False
        self.head = data[:at]
        self._sizes = sizes
        self.values = tuple(values)
        self.length = length or 0
        self.end = at
        return True


def _read_length(digits: bytes) -> int | None:
    """Content-Length by the same rule as the strict reading: `0|[1-9][0-9]{0,9}`."""
    if not digits.isdigit() or len(digits) > 10 or (digits[0] == 0x30 and len(digits) > 1):
        return None
    return int(digits)


def _is_plain(value: bytes) -> bool:
    # Most values are letters, digits and dashes, which the regex takes twice as long to find.
    return len(value) <= _LONGEST_VALUE and (
        value.replace(b"-", b"").isalnum() or _PLAIN.fullmatch(value) is not None
    )


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

    def admit(self, entry: Entry[_Verdict]) -> bool:
        """Remember a head, if it was seen before: a head that comes once only is not worth its memory.

        Returns:
            Whether it was admitted.
        """
        mark = hash(entry.literals)
        if mark in self._once:
            self._keep(entry)
            return True
        if len(self._once) >= self._most_entries:
            self._once.clear()
        self._once.add(mark)
        return False

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
