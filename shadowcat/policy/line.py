"""Who waits for a place, who gets the next one, and who is sent away. No clock: times are arguments.

Ranks come first: what is worth more is served before what is worth less, and never sent away in its favour.
Within a rank it is first come, first served, as long as that works. Once the first one has waited for
`STANDING`, a queue does no more than make everybody late, and perhaps too late; then the newest goes first,
and the oldest are those that time out (adaptive LIFO; B. Maurer, "Fail at Scale", ACM Queue 13/8, 2015).
"""

from __future__ import annotations

from collections import OrderedDict
from enum import IntEnum
from typing import Final, Generic, TypeVar

STANDING: Final = 0.1
"""Seconds."""

T = TypeVar("T")


class Rank(IntEnum):
    """What is given up first comes first."""

    OPENING = 0
    """A request for a new session: those that have one go before it."""
    LOW = 1
    NORMAL = 2
    HIGH = 3


class Line(Generic[T]):
    """Those who wait. Whoever is in it can leave at any time."""

    __slots__ = ("_ranks", "_size", "limit", "patience")

    def __init__(self) -> None:
        self._ranks: tuple[OrderedDict[T, float], ...] = tuple(OrderedDict() for _ in Rank)
        """Since when each waits, the one that came first at the front."""
        self._size = 0
        self.limit = 0
        """How many may wait."""
        self.patience = 0.0
        """Seconds that each may wait."""

    def __len__(self) -> int:
        return self._size

    def join(self, item: T, rank: Rank, now: float) -> T | None:
        """Let it wait; returns who is sent away for that, which may be itself."""
        if not self.patience:
            return item
        victim = None
        if self._size >= self.limit:
            least = next((one for one in Rank if self._ranks[one]), None)
            if least is None or least > rank:
                return item
            if least == rank and not self._stands(least, now):
                return item
            victim, _ = self._ranks[least].popitem(last=False)
            self._size -= 1
        self._ranks[rank][item] = now
        self._size += 1
        return victim

    def next(self, now: float) -> T:
        """Take out whose turn it is.

        Raises:
            IndexError: Nobody waits.
        """
        for rank in reversed(Rank):
            waiting = self._ranks[rank]
            if waiting:
                item, _ = waiting.popitem(last=self._stands(rank, now))
                self._size -= 1
                return item
        raise IndexError("nobody waits")

    def leave(self, item: T) -> bool:
        """Let one go that does not want to wait any more; whether it did."""
        for waiting in self._ranks:
            if waiting.pop(item, None) is not None:
                self._size -= 1
                return True
        return False

    def overdue(self, now: float) -> list[T]:
        """Take out all who have waited for too long."""
        found: list[T] = []
        for waiting in self._ranks:
            while waiting and now - next(iter(waiting.values())) >= self.patience:
                item, _ = waiting.popitem(last=False)
                found.append(item)
        self._size -= len(found)
        return found

    def _stands(self, rank: Rank, now: float) -> bool:
        return now - next(iter(self._ranks[rank].values())) >= STANDING
