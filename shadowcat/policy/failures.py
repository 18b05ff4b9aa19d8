"""How many failures open a breaker: in a row as one worker sees them, or as a share of all workers' requests.

Each worker counts into words of its own, BUCKETS per upstream, which others read without a lock:

    bits    field       from the low end
    22      failures    in this bucket
    22      requests    sent in it, and failures that were not even sent
    20      number      of the bucket since the clock's zero; a word with another number is old, so empty
"""

from __future__ import annotations

from collections.abc import Iterable, MutableSequence
from typing import Final

from shadowcat.config.model import Breaker

BUCKETS: Final = 3
_COUNT_BITS: Final = 22
_COUNT: Final = (1 << _COUNT_BITS) - 1
_NUMBER: Final = (1 << 20) - 1
_NUMBER_SHIFT: Final = 2 * _COUNT_BITS
_NS: Final = 1_000_000_000


def bucket_length(section: Breaker) -> int:
    """How long one bucket is, in ns: 10 s for the usual window of 30 s."""
    return max(1, int(section.window * _NS / BUCKETS))


class Failures:
    """One worker's count for one upstream."""

    __slots__ = ("_at", "_base", "_empty", "_end", "_words", "bucket", "in_a_row")

    def __init__(self, words: MutableSequence[int] | memoryview, base: int = 0) -> None:
        """`words[base : base + BUCKETS]` are this worker's for this upstream."""
        self._words = words
        self._base = base
        self._at = base
        self._empty = self._end = 0
        self.bucket = 0
        self.in_a_row = 0
        """To be set to 0 by whoever sees the upstream answer."""
        self.advance(0)

    def advance(self, bucket: int) -> None:
        """Bucket number `now // bucket_length(section)` has begun; to be told a second late does no harm."""
        self.bucket = bucket
        self._at = self._base + bucket % BUCKETS
        self._empty = (bucket & _NUMBER) << _NUMBER_SHIFT
        self._end = self._empty + (1 << _NUMBER_SHIFT)

    def sent(self, requests: int) -> None:
        """So many requests have been sent since the last call: no request pays for a word of its own."""
        if requests:
            self._count(requests, 0)

    def failed(self, *, is_sent: bool = True) -> None:
        """A request has failed; one that could not be sent is none that `sent` tells of."""
        self.in_a_row += 1
        self._count(0 if is_sent else 1, 1)

    def _count(self, requests: int, failures: int) -> None:
        word = self._words[self._at]
        if not self._empty <= word < self._end:
            word = self._empty
        # After four million in a bucket the rate is known well enough.
        requests = min(requests, _COUNT - (word >> _COUNT_BITS & _COUNT))
        failures = min(failures, _COUNT - (word & _COUNT))
        self._words[self._at] = word + (requests << _COUNT_BITS) + failures


def trips(section: Breaker, in_a_row: int, words: Iterable[int], bucket: int, closed_at: int) -> bool:
    """Whether a breaker has to open; asked after each failure, and after none other.

    Args:
        section: The route's.
        in_a_row: Failures in a row, of the worker that asks.
        words: The counts of all workers for the upstream.
        bucket: The current bucket's number.
        closed_at: When the breaker last closed, ns: what was counted before, or in the same bucket, is of
            the trouble that is over.
    """
    if in_a_row >= section.consecutive_failures:
        return True
    oldest = bucket - BUCKETS + 1
    if closed_at:
        oldest = max(oldest, closed_at // bucket_length(section) + 1)
    wanted = {number & _NUMBER for number in range(max(0, oldest), bucket + 1)}
    requests = failures = 0
    for word in words:
        if word >> _NUMBER_SHIFT in wanted:
            requests += word >> _COUNT_BITS & _COUNT
            failures += word & _COUNT
    return requests >= section.min_requests and failures >= section.error_rate * requests
