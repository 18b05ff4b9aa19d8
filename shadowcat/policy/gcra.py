"""The generic cell rate algorithm: a limit's whole state is one time, until which it is booked.

A request costs `interval`. It moves the booked time, which is never before now, on by that; it is admitted if
what is booked then reaches no farther than `span` into the future. So `span / interval` pass at once, and one
more with each interval. All times are whole nanoseconds of one clock; an interval is rounded up, never down.

A worker that sees much of a key takes a lease: it books a piece of the future ahead, and spends it without
asking anybody. A piece that is not spent when its time comes is lost, so that whatever the workers hold and
the shared time together never admit more than one worker alone would.
"""

from __future__ import annotations

from typing import Final

from shadowcat.config.units import Limit

SECOND: Final = 10**9
LEASE: Final = SECOND // 100
"""How long a lease should do; also the most that one may book."""
HORIZON: Final = SECOND // 10
"""How far ahead leases may book: what nobody spends is free again so soon."""
_SHARES: Final = 64
"""A lease is at most this part of the burst."""
_RESTS: Final = 4


class Rate:
    """The rate of a limit as the arithmetic wants it."""

    __slots__ = ("horizon", "interval", "most_leased", "span")

    def __init__(self, limit: Limit) -> None:
        """`limit` has a rate."""
        self.interval = -(-limit.period // limit.count)
        """Nanoseconds from one to the next."""
        self.span = limit.burst * self.interval
        """Nanoseconds that may be booked ahead."""
        self.most_leased = max(1, min(LEASE // self.interval, limit.burst // _SHARES))
        """Most requests in a lease; 1 where there are none."""
        self.horizon = min(HORIZON, self.span // 2)
        """Nanoseconds ahead in which leases may book."""

    def wait(self, booked: int, now: int, count: int = 1) -> int:
        """Nanoseconds until so many requests would be admitted: 0 or less if they are now."""
        return max(now, booked) + count * self.interval - self.span - now

    def remaining(self, booked: int, now: int) -> int:
        """How many requests would be admitted at once."""
        return max(0, self.span - max(booked - now, 0)) // self.interval

    def lease(self, last: int, elapsed: int) -> int:
        """How many requests to take at once.

        Args:
            last: How many were taken the last time.
            elapsed: Nanoseconds since then.
        """
        if elapsed < LEASE:
            return min(2 * last, self.most_leased)
        return last // 2 or 1 if elapsed < _RESTS * LEASE else 1


def seconds(wait: int) -> int:
    """A time to wait, in nanoseconds, as whole seconds: never less, and at least one."""
    return max(1, -(-wait // SECOND))
