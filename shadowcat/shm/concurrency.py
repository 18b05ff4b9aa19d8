"""How many requests of a key are under way, in all workers together.

A table of buckets of eight entries; an entry is the digest of a key (see shm/limiter.py), and a count for
each process, in a block of that process:

    digests       one cache line for each bucket, under the lock line of its first byte
    counts        for each process a word for each entry; written by that process only

To begin, a worker adds the counts up under the lock. To end it takes no lock: nobody else writes its words.
An entry may change its owner once all of its counts are 0. What a dead process had under way goes with its
block, which the supervisor clears.
"""

from __future__ import annotations

from typing import NamedTuple

from shadowcat.config.units import Limit
from shadowcat.shm.limiter import WAYS, Tier, digest_of
from shadowcat.shm.locks import LockBusyError, Locks, requests_for
from shadowcat.shm.region import LINE, WORD, Area, Plan, Region


class ConcurrencyAreas(NamedTuple):
    """Where the table is."""

    digests: Area
    counts: Area
    entries: int


def plan_concurrency(plan: Plan, capacity: int, processes: int) -> ConcurrencyAreas:
    """Set the memory aside; `capacity` is that of the limiter."""
    # A key whose bucket is full is refused, so most entries have to be free: with 65,536 of them, and 10,000
    # keys that have something under way, it happens to 1 in 20,000; with an eighth of that, to three in four.
    buckets = -(-capacity // WAYS)
    entries = buckets * WAYS
    return ConcurrencyAreas(plan.add(buckets * LINE), plan.add(processes * entries * WORD), entries)


def clear(region: Region, areas: ConcurrencyAreas, process: int) -> None:
    """Nothing is under way in a process that has died; for the supervisor."""
    length = areas.entries * WORD
    region.view(areas.counts.offset + process * length, length)[:] = bytes(length)


class Seats:
    """One key of one limit."""

    __slots__ = ("at", "base", "digest", "giving", "limit", "line", "taking", "tier")

    def __init__(self, tier: Tier, limit: Limit, digest: int, base: int, line: int) -> None:
        self.tier = tier
        self.limit = limit
        self.digest = digest
        self.base = base
        """The first entry of its bucket."""
        self.at = base
        """Where its digest was last."""
        self.line = line
        """The lock line of its bucket."""
        self.taking, self.giving = requests_for(line)


class Concurrency:
    """The table, for one process."""

    __slots__ = ("_areas", "_counts", "_digests", "_locks", "_own", "_secret")

    def __init__(
        self, region: Region, areas: ConcurrencyAreas, secret: bytes, locks: Locks, process: int
    ) -> None:
        """`locks` are those of `process`; `secret` is the same for all."""
        self._areas = areas
        self._locks = locks
        self._secret = secret
        self._digests = region.words(areas.digests.offset, areas.digests.length // WORD)
        self._counts = region.words(areas.counts.offset, areas.counts.length // WORD)
        self._own = process * areas.entries

    def seats(self, tier: Tier, limit: Limit, key: bytes) -> Seats:
        """The seats of a key, which tells it from all other keys of the tier."""
        digest = digest_of(self._secret, tier, key)
        bucket = digest % (self._areas.entries // WAYS)
        return Seats(tier, limit, digest, bucket * WAYS, self._areas.digests.offset + bucket * LINE)

    def take(self, seats: Seats, count: int) -> int | None:
        """Have so many more under way; the place to give back to, or None if that would be too many.

        Raises:
            LockBusyError: Another process has the bucket, or it is full; nothing has changed.
        """
        self._locks.acquire(seats.line, seats.taking)
        try:
            place = seats.at
            if self._digests[place] != seats.digest:
                place = self._claim(seats)
            if self.taken(place) + count > seats.limit.concurrent:
                return None
            self._counts[self._own + place] += count
            return place
        finally:
            self._locks.release(seats.line, seats.giving)

    def give_back(self, place: int, count: int) -> None:
        """So many less are under way."""
        self._counts[self._own + place] -= count

    def taken(self, place: int) -> int:
        """How many are under way."""
        return sum(self._counts[place :: self._areas.entries].tolist())

    def under_way(self, seats: Seats) -> int:
        """How many requests of a key are under way."""
        base = seats.base
        digests = self._digests[base : base + WAYS].tolist()
        return self.taken(base + digests.index(seats.digest)) if seats.digest in digests else 0

    def _claim(self, seats: Seats) -> int:
        """The place of a key, under its lock."""
        base = seats.base
        digests = self._digests[base : base + WAYS].tolist()
        if seats.digest in digests:
            place = base + digests.index(seats.digest)
        else:
            free = (place for place in range(base, base + WAYS) if not self.taken(place))
            place = next(free, -1)
            if place < 0:
                raise LockBusyError(f"all entries of bucket {base // WAYS} have something under way")
            self._digests[place] = seats.digest
        seats.at = place
        return place
