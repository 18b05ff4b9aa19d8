"""How many sessions each owner has, for the caps.

A hashed table of buckets. A bucket is 16 words under one lock line: word 0 counts its changes, an entry is
tag << 21 | sessions in one word, 0 when free, so that no crash leaves half an entry. Tag and bucket come
from a digest of the owner, keyed with a secret made at the start: nobody can aim at a bucket. There are
almost two entries per slot of the table; should a bucket be full all the same (0.8 % of them, if each session
of a full table has an owner of its own), the owner is not counted there, and its cap not enforced.

A process killed between a count and its session leaves the count wrong by one: `recount` corrects it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b
from typing import Final

from shadowcat.shm.locks import Locks
from shadowcat.shm.region import LINE, WORD, Region
from shadowcat.shm.sessions.layout import BUCKET_WORDS, Areas

_COUNT_BITS: Final = 21
_COUNT: Final = (1 << _COUNT_BITS) - 1
_KNOWN: Final = 1024
SECRET: Final = 16
"""Bytes."""


class Owners:
    """The counts, for one process."""

    __slots__ = ("_buckets", "_locks", "_offset", "_secret", "_words", "digest")

    digest: Callable[[str], int]
    """The digest of an owner; never 0. Those used last are remembered: 0.8 us saved."""

    def __init__(self, region: Region, areas: Areas, locks: Locks) -> None:
        self._locks = locks
        self._buckets = areas.buckets
        self._offset = areas.owners.offset + LINE
        self._secret = region.view(areas.owners.offset, SECRET).tobytes()
        self._words = region.words(self._offset, areas.buckets * BUCKET_WORDS)
        self.digest = lru_cache(_KNOWN)(self._digest)

    @staticmethod
    def seed(region: Region, areas: Areas, secret: bytes) -> None:
        """Store the secret of the digests, before any process counts: 16 random bytes."""
        region.view(areas.owners.offset, SECRET)[:] = secret

    def _digest(self, owner: str) -> int:
        digest = blake2b(owner.encode("utf-8", "surrogatepass"), digest_size=8, key=self._secret).digest()
        return int.from_bytes(digest, "little") or 1

    def count(self, digest: int) -> int:
        """Sessions of an owner."""
        bucket, tag = self._place(digest)
        for entry in self._entries(bucket):
            if entry >> _COUNT_BITS == tag and entry & _COUNT:
                return entry & _COUNT
        return 0

    def add(self, digest: int, change: int) -> None:
        """Count a session more (1) or less (-1).

        Raises:
            LockBusyError: Another process has the bucket; nothing was counted.
        """
        bucket, tag = self._place(digest)
        line = self._offset + bucket * BUCKET_WORDS * WORD
        words = self._words
        base = bucket * BUCKET_WORDS
        self._locks.acquire(line)
        try:
            entries = words[base : base + BUCKET_WORDS].tolist()
            words[base] = entries[0] + 1
            for entry in entries[1:]:
                if entry >> _COUNT_BITS == tag and entry:
                    index = entries.index(entry, 1)
                    words[base + index] = entry + change if (entry & _COUNT) + change > 0 else 0
                    return
            if change > 0 and 0 in entries[1:]:
                words[base + entries.index(0, 1)] = tag << _COUNT_BITS | change
        finally:
            self._locks.release(line)

    def recount(self, read: Callable[[], list[int]]) -> int:
        """Correct the counts.

        A bucket is touched only if it is wrong in the same way twice in a row and nobody changed it
        meanwhile: between a session and its count there is a moment in which one of them is missing.

        Args:
            read: Reads the owner digests of all slots, 0 where there is no session.

        Returns:
            How many buckets were wrong.

        Raises:
            LockBusyError: Another process has a bucket; those before it are corrected.
        """
        suspects = self._wrong(read())
        if not suspects:
            return 0
        changes = {bucket: self._words[bucket * BUCKET_WORDS] for bucket in suspects}
        confirmed = self._wrong(read())
        corrected = 0
        for bucket, entries in suspects.items():
            if confirmed.get(bucket) == entries:
                corrected += self._correct(bucket, entries, changes[bucket])
        return corrected

    def _correct(self, bucket: int, entries: list[int], changes: int) -> bool:
        base = bucket * BUCKET_WORDS
        line = self._offset + base * WORD
        self._locks.acquire(line)
        try:
            if self._words[base] != changes:
                return False
            self._words[base] += 1
            padded = entries[: BUCKET_WORDS - 1] + [0] * (BUCKET_WORDS - 1 - len(entries))
            for index, entry in enumerate(padded, base + 1):
                self._words[index] = entry
            return True
        finally:
            self._locks.release(line)

    def _wrong(self, digests: list[int]) -> dict[int, list[int]]:
        """The entries as they should be, sorted, of each bucket that has others."""
        due: dict[int, list[int]] = {}
        for digest, sessions in Counter(digests).items():
            if digest:
                bucket, tag = self._place(digest)
                due.setdefault(bucket, []).append(tag << _COUNT_BITS | sessions)
        wrong = {}
        for bucket in range(self._buckets):
            entries = sorted(filter(None, self._entries(bucket)))
            expected = sorted(due.get(bucket, ()))
            if entries != expected and len(expected) < BUCKET_WORDS:
                wrong[bucket] = expected
        return wrong

    def _entries(self, bucket: int) -> list[int]:
        base = bucket * BUCKET_WORDS
        entries: list[int] = self._words[base + 1 : base + BUCKET_WORDS].tolist()
        return entries

    def _place(self, digest: int) -> tuple[int, int]:
        return digest % self._buckets, digest >> _COUNT_BITS
