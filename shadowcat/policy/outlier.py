"""Passive ejection: an upstream that does worse than the others of its route gets nothing new for a while.

One word per upstream, shared by all workers, written under the lock of the route:

    bits    field    from the low end
    16      times    ejections that still count
    48      until    monotonic ms; 0: never ejected

Sessions pinned to an ejected upstream go on there: to shut it off is the breaker's part. So an ejection is
cheap, may come earlier than a breaker, and needs no trial: when its time is over the upstream has its turns
again, and if it fails again it is out for twice as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final, NamedTuple

from shadowcat.config.model import Outlier

_TIMES_BITS: Final = 16
_TIMES: Final = (1 << _TIMES_BITS) - 1
_MOST_TIMES: Final = 20
"""More doublings than any longest time needs."""
_MS: Final = 1_000_000


class Answers(NamedTuple):
    """What an upstream did in an interval."""

    number: int
    seconds: float
    """Sum of the times to its answers' heads."""


def barred_until(word: int) -> int:
    """Until when an upstream is ejected, monotonic ns; 0, or in the past, if it is not."""
    return (word >> _TIMES_BITS) * _MS


def eject(section: Outlier, words: Sequence[int], index: int, others: int, now: int) -> int | None:
    """Decide whether an upstream that deserves it is ejected.

    Args:
        section: The route's.
        words: Those of all its upstreams.
        index: Which one it is about.
        others: How many other upstreams can be chosen as things are.
        now: Monotonic ns.

    Returns:
        Its new word; None if it stays, or is out already.
    """
    if barred_until(words[index]) > now or (not others and not section.eject_last):
        return None
    percent = section.max_ejection_percent
    most = max(1, len(words) * percent // 100) if percent else 0
    if sum(barred_until(word) > now for word in words) >= most:
        return None
    times = min(_counting(section, words[index], now) + 1, _MOST_TIMES)
    # Rounded up: `barred_until` of the new word is never in the past.
    until = -(-(now + _length(section, times)) // _MS)
    return until << _TIMES_BITS | times


def _length(section: Outlier, times: int) -> int:
    """How long the ejection of this number lasts, ns."""
    seconds: float = min(section.ejection_time * 2.0 ** (times - 1), section.max_ejection_time)
    return round(seconds * 1_000_000_000)


def _counting(section: Outlier, word: int, now: int) -> int:
    """How many of the ejections so far still count: one is forgiven for each good time as long as it was."""
    times = word & _TIMES
    good = now - barred_until(word)
    while times and good >= (length := _length(section, times)):
        good -= length
        times -= 1
    return times


def find_slow(section: Outlier, answers: Sequence[Answers | None]) -> list[int]:
    """Who was much slower than the others in an interval, the slowest first.

    Whoever gave too few answers is neither judged nor a measure for others, so of two slow ones among three
    none may be found: with nobody to compare with, slowness may be the nature of the work.

    Args:
        section: The route's.
        answers: Per upstream; None where it could not be chosen throughout the interval.
    """
    means = {
        index: given.seconds / given.number
        for index, given in enumerate(answers)
        if given is not None and given.number >= section.min_requests
    }
    slow = []
    for index, mean in means.items():
        rest = [other for number, other in means.items() if number != index]
        if rest and mean > max(section.min_latency, section.latency_factor * median(rest)):
            slow.append(index)
    return sorted(slow, key=lambda index: -means[index])
