"""How much each upstream of a group has to do, and how fast it answers: what some strategies compare."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import exp
from typing import Final

MEMORY: Final = 10.0
"""Seconds after which an observation of latency counts for a third (1/e)."""


class Loads:
    """One kind of load (pinned sessions, or requests in flight) of each upstream, by its index in the group.

    The counts are those of the whole host. Each worker refreshes its own from the cells of all, and
    adds at once what it starts itself: two choices within a refresh see each other's effect.
    """

    __slots__ = ("counts", "total")

    def __init__(self, size: int) -> None:
        self.counts = [0] * size
        self.total = 0
        """Of the upstreams that `refresh` was told about."""

    def begin(self, index: int) -> None:
        """A session or request has begun there."""
        self.counts[index] += 1
        self.total += 1

    def end(self, index: int) -> None:
        """A session or request has ended there."""
        self.counts[index] -= 1
        self.total -= 1

    def refresh(self, counts: Sequence[int], members: Iterable[int]) -> None:
        """Replace what is known by what the cells of all workers say.

        Args:
            counts: Per upstream. A sum over cells that others write meanwhile may be out by a few, and so
                below 0, which counts as 0.
            members: The upstreams that can be chosen: only they share the load of the group.
        """
        self.counts[:] = counts
        if min(counts, default=0) < 0:
            self.counts[:] = [max(0, count) for count in counts]
        self.total = sum(map(self.counts.__getitem__, members))


class Latency:
    """A moving average of how long one upstream takes to answer, weighted by time.

    While it owes answers, no news is bad news, and the average stays. While it owes none, the average falls
    towards 0: who was slow once gets a request now and then, and so the chance to show that it no longer is.
    """

    __slots__ = ("_at", "_average", "pending")

    def __init__(self) -> None:
        self.pending = 0
        """Requests under way. The caller adds each that it begins; `observe` and `forget` take it off."""
        self._average = 0.0
        self._at = 0.0

    def observe(self, seconds: float, now: float) -> None:
        """An answer's head has come after so many seconds. `now`: monotonic seconds."""
        self.pending -= 1
        keep = exp((self._at - now) / MEMORY) if self._average else 0.0
        self._average = self._average * keep + seconds * (1.0 - keep)
        self._at = now

    def forget(self) -> None:
        """A request ended without telling anything about the upstream, such as by its client's wish."""
        self.pending -= 1

    def value(self, now: float) -> float:
        """The average in seconds; 0 before the first observation."""
        if self.pending:
            return self._average
        return self._average * exp((self._at - now) / MEMORY)
