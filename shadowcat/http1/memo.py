"""Memory of heads: a peer that repeats its header block is not read anew.

A head is cut at the values that differ from message to message: Content-Length, and those of the fields
listed as varying. What stands between the cuts is the *key*, a tuple of byte strings and never their
concatenation, so that no byte can move across a cut unnoticed. Everything a strict reading of the head
decides, apart from the cut-out values, is the memo's *value*. A hit checks the cut-out values as strictly as
the reading does; it is never more lenient than the parse it repeats.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from typing import Final, Generic, NamedTuple, TypeVar

_Verdict = TypeVar("_Verdict")

_LONGEST_VALUE: Final = 1024
_PLAIN: Final = re.compile(rb"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
"""A varying value that needs no closer look: no white space around it that the reading would strip."""
_LETTERS: Final = bytes(0x61 if 0x21 <= byte <= 0x7E else 0x20 for byte in range(256))
"""Makes a letter of every byte that is plain wherever it stands: a third of the regex's cost."""
_TRIAL: Final = 1024
"""Misses after which a connection that hits less than every other time is left alone, and for how many heads.
A client with many sessions needs some hundreds of misses before its heads are known."""
_MOST_SHAPES: Final = 512
_NO_HEAD: Final[tuple[bytes, ...]] = ()
"""Begins no message, whatever its first byte: any bytes that stood here, a peer could send."""
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
        return Entry(self.literals, self.length_at, verdict)

    def names(self) -> list[bytes]:
        """The lower-case names of the fields that the values belong to."""
        gaps = (
            self.literals[: self.length_at] + self.literals[self.length_at + 1 :]
            if self.length_at >= 0
            else self.literals
        )
        return [literal[literal.rfind(b"\n") + 1 : -2].lower() for literal in gaps[:-1]]


class Entry(Generic[_Verdict]):
    """A memoised head. There may be many thousands, so they hold no more than they must."""

    __slots__ = ("length_at", "literals", "verdict")

    def __init__(self, literals: tuple[bytes, ...], length_at: int, verdict: _Verdict) -> None:
        """See `Cut` for the first two."""
        self.literals = literals
        self.length_at = length_at
        self.verdict = verdict


class Shape:
    """Heads whose literals and values have the same sizes: one call takes them apart.

    A client's requests differ in a trace id, a token or a session id of always the same length, so most heads
    have the shape of the one before. Searching for the end of each value takes four times as long.
    """

    __slots__ = ("after", "before", "digits", "length_at", "size", "unpack")

    def __init__(self, literals: Sequence[int], gaps: Sequence[int], length_at: int) -> None:
        """Sizes in bytes of what is between the cuts, and of what was cut out; `length_at` as in `Cut`."""
        sizes = [literals[0]]
        for gap, literal in zip(gaps, literals[1:], strict=True):
            sizes += (gap, literal)
        self.unpack = struct.Struct("".join(f"{size}s" for size in sizes)).unpack_from
        """Literals, at the even places, and values in turn. Fails if there is less than a head."""
        self.size = sum(sizes)
        self.length_at = length_at
        self.digits = 2 * length_at + 1
        """The place of Content-Length; negative if there is none."""
        end = self.digits if length_at >= 0 else len(sizes)
        self.before = slice(1, end, 2)
        """The places of the varying values before Content-Length."""
        self.after = slice(end + 2, len(sizes), 2) if end + 2 < len(sizes) else None
        """The places of those after it, if there are any."""


class Shapes:
    """The shapes of the heads seen lately."""

    __slots__ = ("_by_sizes", "of_size")

    def __init__(self) -> None:
        self._by_sizes: dict[tuple[int, ...], Shape] = {}
        self.of_size: dict[int, Shape] = {}
        """By the size of the head, the shape made last. Content-Length and names grow and shrink from request
        to request, and the head with them."""

    def of(self, literals: tuple[bytes, ...], gaps: Sequence[int], length_at: int) -> Shape | None:
        """Find or make the shape; None if there are too many: one for each head costs more than it saves."""
        sizes = (length_at, *map(len, literals), *gaps)
        shape = self._by_sizes.get(sizes)
        if shape is None:
            if len(self._by_sizes) >= _MOST_SHAPES:
                return None
            shape = self._by_sizes[sizes] = Shape([len(literal) for literal in literals], gaps, length_at)
        self.of_size[shape.size] = shape
        return shape

    def trim(self) -> None:
        """Begin anew if there are too many."""
        if len(self._by_sizes) >= _MOST_SHAPES:
            self._by_sizes.clear()
            self.of_size.clear()


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
    for literal in entry.literals[:-1]:
        start = before + len(literal)
        mark = literal[literal.rfind(b"\r") :]
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
        "_digits",
        "_entry",
        "_hits",
        "_limit",
        "_literals",
        "_memo",
        "_misses",
        "_passed",
        "_shape",
        "end",
        "head",
        "length",
        "values",
        "verdict",
    )

    head: bytes | tuple[bytes, ...]
    """The whole last head, or none. Where all is equal, even the length, `data.startswith(head)` is true, and
    all that the hot path needs: it takes a fifth of `match`."""
    verdict: _Verdict
    values: tuple[bytes, ...]
    """The varying values, without Content-Length."""
    length: int
    """Content-Length, 0 without one."""
    end: int
    """Where the head ends and the body begins."""

    def __init__(self, limit: int, memo: Memo[_Verdict]) -> None:
        """`limit` is the longest head that is accepted, in bytes; `memo` is what all connections share."""
        self._limit = limit
        self._memo = memo
        self.head = _NO_HEAD
        self._entry: Entry[_Verdict] | None = None
        self._literals: tuple[bytes, ...] = ()
        self._digits = b""
        """Content-Length as it was read last."""
        self._shape: Shape | None = None
        self._hits = 0
        self._misses = 0
        self._passed = 0
        self.values = ()
        self.length = self.end = 0

    def match(self, data: bytes, shape: Shape | None = None) -> bool:
        """Whether `data` begins with a head that is known: the connection's last one, or one of the memo.

        The memo is looked at only for heads that look like the last one. `shape` is for `_search`.
        """
        searched = shape is not None
        if shape is None:
            shape = self._shape
            if shape is None:
                return self._search(data)
        try:
            pieces = shape.unpack(data)
        except struct.error:
            return not searched and self._search(data)
        literals = pieces[::2]
        entry = self._entry
        if literals != self._literals:
            entry = self._memo.get(literals) if self._misses < _TRIAL or self._hits >= self._misses else None
        # Other fields may have values of these very sizes: then Content-Length is not where it is looked for.
        if entry is None or entry.length_at != shape.length_at:
            return not searched and self._search(data)
        values = pieces[shape.before]
        if shape.after is not None:
            values += pieces[shape.after]
        if values != self.values:
            known = self.values  # What was plain last time is plain.
            for value in values:
                if value not in known and not _is_plain(value):
                    return False
        if shape.digits >= 0:
            digits = pieces[shape.digits]
            if digits != self._digits:
                length = _read_length(digits)
                if length is None:
                    return False
                self._digits = digits
                self.length = length
        else:
            self._digits = b""
            self.length = 0
        if entry is not self._entry:
            self._hits += 1
            self._entry = entry
            self._literals = entry.literals
            self.verdict = entry.verdict
        self.values = values
        self.end = end = shape.size
        self.head = data[:end]
        self._shape = shape
        return True

    def keep(self, entry: Entry[_Verdict], cut: Cut, head: bytes) -> None:
        """Make `head`, of which `cut` was taken and `entry` is the verdict, the last head."""
        self._entry = entry
        self._literals = entry.literals
        self._shape = self._memo.shapes.of(entry.literals, cut.sizes, entry.length_at)
        self._digits = b""
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
        if self._entry is not None:
            del self.verdict
        self._entry = None
        self._literals = ()
        self._shape = None
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

    def _search(self, data: bytes) -> bool:
        """Match a head that has not the last one's shape."""
        entry = self._entry
        end = data.find(b"\r\n\r\n", 0, self._limit) + 4
        if entry is None or end < 4:
            return False
        shape = self._memo.shapes.of_size.get(end)
        if shape is not None and shape is not self._shape and self.match(data, shape):
            return True
        head = data[:end]
        cut = _cut_alike(head, entry)
        if cut is None:
            return False
        if cut.literals != entry.literals:
            known = (
                self._memo.get(cut.literals) if self._misses < _TRIAL or self._hits >= self._misses else None
            )
            if known is None:
                return False
            self._hits += 1
            entry = known
        self.keep(entry, cut, head)
        return True


def _read_length(digits: bytes) -> int | None:
    """Content-Length by the same rule as the strict reading: `0|[1-9][0-9]{0,9}`."""
    if not digits.isdigit() or len(digits) > 10 or (digits[0] == 0x30 and len(digits) > 1):
        return None
    return int(digits)


def _is_plain(value: bytes) -> bool:
    return len(value) <= _LONGEST_VALUE and (
        value.translate(_LETTERS).isalnum() or _PLAIN.fullmatch(value) is not None
    )


class Memo(Generic[_Verdict]):
    """The heads that were seen at least twice lately, by key.

    Entries live in two generations. A hit moves its entry to the young one; when the young one is full, or
    `rotate` is called because time has passed, the old one is dropped. So what is in use stays, what is idle
    for one to two rotations goes, and no bookkeeping is needed per entry.
    """

    __slots__ = ("_bytes", "_most_bytes", "_most_entries", "_old", "_once", "_young", "shapes")

    def __init__(self, most_entries: int, most_bytes: int) -> None:
        """Bounds apply to each of the two generations; bytes are those of the keys."""
        self._most_entries = most_entries
        self._most_bytes = most_bytes
        self._young: dict[tuple[bytes, ...], Entry[_Verdict]] = {}
        self._old: dict[tuple[bytes, ...], Entry[_Verdict]] = {}
        self._once: set[int] = set()
        self._bytes = 0
        self.shapes = Shapes()

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

    def clear(self) -> None:
        """Forget everything: what the verdicts rest on has changed."""
        self.rotate()
        self._old = {}

    def rotate(self) -> None:
        """Drop what has not been used since the last rotation."""
        self._old, self._young = self._young, {}
        self._bytes = 0
        self._once.clear()
        self.shapes.trim()
