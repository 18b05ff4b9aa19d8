"""Who issued what: by which upstream a handle of the modern era (mcp/issued.py) has to be served.

A hashed table without locks. A bucket is a line of eight words, and an entry is one word, 0 when free:

    bits    36-63   28  tag         of the handle's digest, which also tells the bucket
            24-35   12  row         of the upstream
            16-23    8  generation  of that row: the upstream that has the row now may be another
             0-15   16  time        of the last use, in units of 16 s; comes round after twelve days

An entry is written with one store, so that nobody ever sees half of one. Two workers that write to a bucket
at the same moment may choose the same word: then one handle is lost, as it is when a bucket is full and the
entry that was not used for longest is replaced. A request with a handle that is not here is balanced like any
other: a loss costs a client its task or its round, and never shows it anybody else's.

The digest is keyed with a secret made at the start: nobody can aim at a bucket, or at another's tag. Two
handles of one bucket share a tag once in 2**28 times.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final, NamedTuple

from shadowcat.shm.region import LINE, WORD, Area, Plan, Region

SECRET: Final = 16
"""Bytes."""
LIFE: Final = 3600
"""Seconds for which a handle is known after its last use."""
GENERATIONS: Final = 1 << 8
"""A row's generation is known modulo this."""
MOST_ROWS: Final = 1 << 12
"""As many as `max_upstreams` allows."""
_BUCKETS: Final = 8192
"""64 Ki entries, 512 KiB: with 100 new handles a second each is known for ten minutes, as long as SDK servers
take a request state."""
_WAYS: Final = LINE // WORD
_UNIT: Final = 16
_TAG_AT: Final = 36
_ROW_AT: Final = 24
_GENERATION_AT: Final = 16
_TIME: Final = (1 << _GENERATION_AT) - 1
_SLACK: Final = 1
"""Units by which the clock of one worker's loop may be behind another's."""
_OLDEST: Final = LIFE // _UNIT + _SLACK


class Issuer(NamedTuple):
    """The upstream that issued a handle."""

    row: int
    generation: int
    """Modulo `GENERATIONS`."""


class AffinityTable:
    """The table, for every process."""

    __slots__ = ("_secret", "_words")

    def __init__(self, region: Region, area: Area, secret: bytes) -> None:
        """`secret`: random bytes. It is made before the fork and inherited, as all of this is."""
        self._secret = secret
        self._words = region.words(area.offset, _BUCKETS * _WAYS)

    @staticmethod
    def plan(plan: Plan) -> Area:
        """Set the memory aside."""
        return plan.add(_BUCKETS * LINE)

    def digest(self, scope: bytes, handle: bytes) -> int:
        """Digest a handle.

        Args:
            scope: Where it is good: the same handle in another scope is another one.
            handle: As mcp/issued.py gives it.
        """
        text = b"%d:%b%b" % (len(scope), scope, handle)
        return int.from_bytes(blake2b(text, digest_size=8, key=self._secret).digest(), "little")

    def note(self, digest: int, row: int, generation: int, now: float) -> None:
        """Note who issued a handle.

        Args:
            digest: Of the handle.
            row: Of the upstream, below `MOST_ROWS`.
            generation: Of the row.
            now: Monotonic seconds.
        """
        base, tag = _place(digest)
        time = int(now) // _UNIT & _TIME
        best = most = -1
        for way, entry in enumerate(self._words[base : base + _WAYS].tolist()):
            if entry and entry >> _TAG_AT == tag:
                best = way
                break
            age = _TIME + 1 if not entry else _age(entry, time)
            if age > most:
                best, most = way, age
        issuer = row << _ROW_AT | generation % GENERATIONS << _GENERATION_AT
        self._words[base + best] = tag << _TAG_AT | issuer | time

    def find(self, digest: int, now: float) -> Issuer | None:
        """Who issued a handle, whose life begins anew; None if that is not known (any more).

        Args:
            digest: Of the handle.
            now: Monotonic seconds.
        """
        base, tag = _place(digest)
        time = int(now) // _UNIT & _TIME
        for way, entry in enumerate(self._words[base : base + _WAYS].tolist()):
            if entry and entry >> _TAG_AT == tag:
                if _age(entry, time) > _OLDEST:
                    return None
                if entry & _TIME != time:  # The line stays shared by all caches as long as nothing changes.
                    self._words[base + way] = entry & ~_TIME | time
                return Issuer(entry >> _ROW_AT & MOST_ROWS - 1, entry >> _GENERATION_AT & GENERATIONS - 1)
        return None


def _place(digest: int) -> tuple[int, int]:
    """The number of a bucket's first word, and the tag, from bits that have nothing to do with each other."""
    return digest % _BUCKETS * _WAYS, digest >> _TAG_AT


def _age(entry: int, time: int) -> int:
    """Units since the last use, and the slack."""
    return time - entry + _SLACK & _TIME
