"""Until when limits are booked (policy/gcra.py), for all workers together.

Several tables, so that a flood of one kind of keys pushes out none of another. A table is of buckets of eight
entries, and each bucket is 16 words, under the lock line of its first byte:

    words 0-7     digests of keys; 0 where there was never one
    words 8-15    until when each is booked, CLOCK_MONOTONIC ns

A key is found by a digest, keyed with a secret made at the start: nobody can aim at a bucket. One that is
not there takes the place of the entry that is booked least far, and goes on from that time. If that has
passed, it is a clean start; if not, the bucket is full of keys that are limited now, and since the least of
them stays for whoever comes, no flood of fresh keys makes the table forget one that is limited.

A booking is one store, and so is a change of owner: a process that is killed at any moment leaves a table
that is right. Reading takes no lock, and who is refused by what is read takes none either.
"""

# ruff: noqa: FURB136  max() costs three times as much as a comparison, and there are two for each account.

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from hashlib import blake2b
from typing import Final, NamedTuple

from shadowcat.config.units import Limit
from shadowcat.policy.gcra import Rate
from shadowcat.shm.locks import Locks, requests_for
from shadowcat.shm.region import WORD, Area, Plan, Region

SECRET: Final = 16
"""Bytes."""
WAYS: Final = 8
_BUCKET: Final = 2 * WAYS
_FEW: Final = 64
"""Least buckets for what there is one of, for the host and for each route."""


class Tier(IntEnum):
    """What a limit is for."""

    GLOBAL = 0
    PER_IP = 1
    ROUTE = 2
    PER_USER = 3
    PER_SESSION = 4
    PER_TOOL = 5


TIERS: Final = tuple(tier.name.lower() for tier in Tier)
"""As the configuration names them."""


class Tables(NamedTuple):
    """Where the tables are."""

    area: Area
    starts: tuple[int, ...]
    """The first bucket of each tier's table; those of which there are few share one."""
    buckets: tuple[int, ...]
    """How many each has."""


def plan_limiter(plan: Plan, capacity: int, routes: int) -> Tables:
    """Set the memory aside for so many routes, and for `capacity` keys of each tier that has many."""
    few, many = max(_FEW, routes), -(-capacity // WAYS)
    starts, buckets, end = [], [], few
    for tier in Tier:
        if tier in (Tier.GLOBAL, Tier.ROUTE):
            starts.append(0)
            buckets.append(few)
        else:
            starts.append(end)
            buckets.append(many)
            end += many
    return Tables(plan.add(end * _BUCKET * WORD), tuple(starts), tuple(buckets))


def digest_of(secret: bytes, tier: Tier, key: bytes) -> int:
    """What a key is found by; never 0."""
    text = b"%d:%b" % (tier, key)
    return int.from_bytes(blake2b(text, digest_size=8, key=secret).digest(), "little") or 1


class Account:
    """One key of one limit, as one worker charges it; may hold a lease."""

    __slots__ = (
        "at",
        "base",
        "cursor",
        "digest",
        "end",
        "giving",
        "interval",
        "leased",
        "leases",
        "limit",
        "line",
        "rate",
        "span",
        "taken",
        "taking",
        "tier",
    )

    def __init__(self, tier: Tier, limit: Limit, rate: Rate, digest: int, base: int, line: int) -> None:
        self.tier = tier
        self.limit = limit
        self.rate = rate
        self.interval = rate.interval
        self.span = rate.span
        self.digest = digest
        self.base = base
        """The first word of its bucket."""
        self.at = base
        """Where its digest was last."""
        self.line = line
        """The lock line of its bucket."""
        self.taking, self.giving = requests_for(line)
        self.leases = rate.most_leased > 1
        """Whether it makes sense to take more than one at once."""
        self.cursor = self.end = 0
        """The lease: what is booked from `cursor` to `end` is this worker's."""
        self.leased = 1
        """How many requests were taken at once the last time."""
        self.taken = 0
        """When that was."""


class Shortage(NamedTuple):
    """A limit that does not admit a request."""

    tier: Tier
    limit: Limit
    wait: int | None
    """Nanoseconds until its rate would; None if too many are under way."""
    remaining: int
    """How many it would admit now."""
    is_final: bool = False
    """Whether it never admits so many at once, however long they wait."""


class Limiter:
    """The tables, for one process."""

    __slots__ = ("_locks", "_secret", "_tables", "_words")

    def __init__(self, region: Region, tables: Tables, secret: bytes, locks: Locks) -> None:
        """`locks` are those of the process that is to use it; `secret` is the same for all."""
        self._locks = locks
        self._tables = tables
        self._secret = secret
        self._words = region.words(tables.area.offset, tables.area.length // WORD)

    def account(self, tier: Tier, limit: Limit, rate: Rate, key: bytes) -> Account:
        """The account of a key.

        Args:
            tier: Of the limit.
            limit: The limit.
            rate: What was made of it.
            key: Tells it from all other keys of the tier, in whatever limit.
        """
        digest = digest_of(self._secret, tier, key)
        base = (self._tables.starts[tier] + digest % self._tables.buckets[tier]) * _BUCKET
        return Account(tier, limit, rate, digest, base, self._tables.area.offset + base * WORD)

    def charge(self, accounts: Sequence[Account], now: int) -> Shortage | None:
        """Charge one request to all of these, or to none of them; then the tightest one is told.

        Raises:
            LockBusyError: Another process has a bucket; nothing was charged.
        """
        if len(accounts) == 1:
            account = accounts[0]
            cursor = account.cursor
            after = (cursor if cursor > now else now) + account.interval
            if after > account.end:
                return self._charge_one(account, now)
            account.cursor = after
            return None
        for account in accounts:
            cursor = account.cursor
            if (cursor if cursor > now else now) + account.interval > account.end:
                return self._charge_each(accounts, now)
        for account in accounts:
            cursor = account.cursor
            account.cursor = (cursor if cursor > now else now) + account.interval
        return None

    def charge_many(self, charges: Sequence[tuple[Account, int]], now: int) -> Shortage | None:
        """Charge several requests to each of these, or nothing to any; as `charge`."""
        shared = []
        leased = []
        shortage = None
        for each in charges:
            account, count = each
            cursor = account.cursor
            after = (cursor if cursor > now else now) + count * account.interval
            if after <= account.end:
                leased.append((account, after))
                continue
            shared.append(each)
            # Most of what is refused is refused here: a flood takes no locks from anybody.
            booked = self.booked(account)
            if (booked if booked > now else now) + count * account.interval > now + account.span:
                shortage = _tighter(shortage, account, count, booked, now)
        if shortage is None and shared:
            shortage = self._charge_shared(shared, now)
        if shortage is None:
            for account, after in leased:
                account.cursor = after
        return shortage

    def _charge_one(self, account: Account, now: int) -> Shortage | None:
        """The same as `charge_many` of one request to one account, in a third of the time."""
        words = self._words
        at = account.at
        digest = account.digest
        last = now + account.span
        booked = words[at + WAYS] if words[at] == digest else self.booked(account)
        if (booked if booked > now else now) + account.interval > last:
            return _tighter(None, account, 1, booked, now)
        locks = self._locks
        line = account.line
        locks.acquire(line, account.taking)
        try:
            if words[at] != digest:
                at = self._claim(account, ())
            booked = words[at + WAYS]
            spent = (booked if booked > now else now) + account.interval
            if spent > last:
                return _tighter(None, account, 1, booked, now)
            words[at + WAYS] = _lease(account, spent, now) if account.leases else spent
        finally:
            locks.release(line, account.giving)
        return None

    def _charge_each(self, accounts: Sequence[Account], now: int) -> Shortage | None:
        """The same as `charge_many` of one request to each of several accounts, in half of the time."""
        words = self._words
        leased = []
        shared = []
        lines = set()
        for account in accounts:
            cursor = account.cursor
            if (cursor if cursor > now else now) + account.interval <= account.end:
                leased.append(account)
                continue
            at = account.at
            booked = words[at + WAYS] if words[at] == account.digest else self.booked(account)
            if (booked if booked > now else now) + account.interval > now + account.span:
                break
            shared.append(account)
            lines.add(account.line)
        # What is refused, and what shares a bucket, takes the long way.
        if len(lines) + len(leased) < len(accounts) or not self._charge_locked(shared, now):
            return self.charge_many([(account, 1) for account in accounts], now)
        for account in leased:
            cursor = account.cursor
            account.cursor = (cursor if cursor > now else now) + account.interval
        return None

    def _charge_locked(self, accounts: Sequence[Account], now: int) -> bool:
        """Charge one request to each of these, which are in buckets of their own. Whether they have admitted
        it; if not, nothing was charged.
        """
        words = self._words
        locks = self._locks
        held = []
        spent = []
        try:
            for account in accounts:
                locks.acquire(account.line, account.taking)
                held.append(account)
                if words[account.at] != account.digest:
                    self._claim(account, ())
                booked = words[account.at + WAYS]
                after = (booked if booked > now else now) + account.interval
                if after > now + account.span:
                    return False
                spent.append(after)
            for account, after in zip(accounts, spent, strict=True):
                words[account.at + WAYS] = _lease(account, after, now) if account.leases else after
        finally:
            for account in held:
                locks.release(account.line, account.giving)
        return True

    def _charge_shared(self, charges: Sequence[tuple[Account, int]], now: int) -> Shortage | None:
        words = self._words
        locks = self._locks
        lines: dict[int, bytes] = {}
        places: list[int] = []
        spent: list[int] = []
        shortage = None
        try:
            for account, count in charges:
                line = account.line
                if line not in lines:
                    locks.acquire(line, account.taking)
                    lines[line] = account.giving
                at = account.at
                if words[at] != account.digest or at in places:
                    at = self._claim(account, places)
                booked = words[at + WAYS]
                after = (booked if booked > now else now) + count * account.interval
                if after > now + account.span:
                    shortage = _tighter(shortage, account, count, booked, now)
                places.append(at)
                spent.append(after)
            if shortage is None:
                for (account, _), at, after in zip(charges, places, spent, strict=True):
                    words[at + WAYS] = _lease(account, after, now) if account.leases else after
        finally:
            for line, giving in lines.items():
                locks.release(line, giving)
        return shortage

    def booked(self, account: Account) -> int:
        """Until when a key is booked, or would be if it came now; ns."""
        words = self._words
        at = account.at
        if words[at] == account.digest:
            return int(words[at + WAYS])
        base = account.base
        entries = words[base : base + _BUCKET].tolist()
        if account.digest in entries[:WAYS]:
            return int(entries[entries.index(account.digest) + WAYS])
        return int(min(entries[WAYS:]))

    def _claim(self, account: Account, taken: Sequence[int]) -> int:
        """The place of a key, under its lock; `taken` are others of the same request."""
        words = self._words
        base = account.base
        entries = words[base : base + _BUCKET].tolist()
        if account.digest in entries[:WAYS]:
            place = base + entries.index(account.digest)
        else:
            free = [way for way in range(WAYS) if base + way not in taken]
            place = base + min(free, key=lambda way: entries[way + WAYS])
            words[place] = account.digest
        account.at = place
        return place


def _tighter(found: Shortage | None, account: Account, count: int, booked: int, now: int) -> Shortage:
    """The limit that has to be waited for longest, perhaps for ever: what was found so far, or this one."""
    wait = account.rate.wait(booked, now, count)
    is_final = count * account.interval > account.span
    if found is not None and found.wait is not None and (found.is_final, found.wait) >= (is_final, wait):
        return found
    return Shortage(account.tier, account.limit, wait, account.rate.remaining(booked, now), is_final)


def _lease(account: Account, spent: int, now: int) -> int:
    """Take a lease behind what is `spent`, if one makes sense: until when the key is booked then."""
    rate = account.rate
    account.leased = size = rate.lease(account.leased, now - account.taken)
    account.taken = now
    end = spent + (size - 1) * rate.interval
    if end - now > rate.horizon:
        return spent
    account.cursor, account.end = spent, end
    return end
