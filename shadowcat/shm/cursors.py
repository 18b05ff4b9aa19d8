"""Whose turn it is, counted by all workers together: one number per route.

    word    field           writers
    0       next number     any worker, under the lock of this line

Each number is taken by exactly one session, in whichever worker it is opened, so that (weighted) round robin
is exact for the host. What a killed worker had taken is one turn that nobody uses.
"""

from __future__ import annotations

from typing import Final

from shadowcat.shm.locks import Locks
from shadowcat.shm.region import LINE, WORD, Area, Plan, Region

_WORDS: Final = LINE // WORD


class Cursors:
    """The cursors of all routes, as one process uses them."""

    __slots__ = ("_locks", "_offset", "_words")

    def __init__(self, region: Region, area: Area, locks: Locks) -> None:
        """`locks` are those of the process that is to use it."""
        self._locks = locks
        self._offset = area.offset
        self._words = region.words(area.offset, area.length // WORD)

    @staticmethod
    def plan(plan: Plan, routes: int) -> Area:
        """Set the memory aside for `routes` routes."""
        return plan.add(routes * LINE)

    def take(self, route: int) -> int:
        """The next number of a route, by its place in the configuration.

        Raises:
            LockBusyError: Another process is taking one; nothing has changed.
        """
        line = self._offset + route * LINE
        self._locks.acquire(line)
        try:
            number = self._words[route * _WORDS]
            self._words[route * _WORDS] = number + 1
        finally:
            self._locks.release(line)
        return number
