"""The breakers of all upstreams, as one process uses them, and the counts that open them.

    words   content                                                writers
    0-2     buckets of one process for one upstream's row          that process; 0 by the supervisor
            (policy/failures.py)                                   once it has reaped it

They lie process by process, so no two processes write to one line. The breakers' own words are the board's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final, NamedTuple

from shadowcat.config.model import Breaker
from shadowcat.policy.breaker import ROW_WORDS, STATE_MASK, Event, Row, State, Step, state_of, step
from shadowcat.policy.failures import BUCKETS, Failures
from shadowcat.shm.board import Board
from shadowcat.shm.locks import LockBusyError, Locks
from shadowcat.shm.region import LINE, WORD, Area, Plan, Region

_LINE_WORDS: Final = LINE // WORD
_ANY: Final = Breaker()
"""For events where the section does not matter."""


class Change(NamedTuple):
    """What an event has made of a breaker."""

    before: int
    """Its first word."""
    after: int
    lease: int = 0
    """What a request that asked was given; 0: nothing."""

    @property
    def states(self) -> tuple[State, State] | None:
        """From which state to which; None if it stayed as it was."""
        return None if self.before == self.after else (state_of(self.before), state_of(self.after))


class Breakers:
    """All breakers."""

    __slots__ = ("_board", "_buckets", "_locks", "_page", "_process")

    def __init__(self, board: Board, region: Region, area: Area, locks: Locks, process: int) -> None:
        """`locks` are those of `process`, which is to use it."""
        self._board = board
        self._buckets = region.words(area.offset, area.length // WORD)
        self._page = _page(board.rows)
        self._locks = locks
        self._process = process

    @staticmethod
    def plan(plan: Plan, processes: int, rows: int) -> Area:
        """Set the memory aside for the counts of `processes` processes for `rows` upstreams."""
        return plan.add(processes * _page(rows) * WORD)

    def words(self, row: int) -> memoryview:
        """Those of one breaker; the first one may be read without a lock."""
        return self._board.breaker(row)

    def failures(self, row: int) -> Failures:
        """This process's count for an upstream, to be made once."""
        first = self._process * self._page + row * BUCKETS
        return Failures(self._buckets[first : first + BUCKETS])

    def counts(self, row: int) -> Iterator[int]:
        """The counts of all processes for an upstream."""
        for first in range(row * BUCKETS, len(self._buckets), self._page):
            yield from self._buckets[first : first + BUCKETS]

    def step(
        self,
        row: int,
        event: Event,
        section: Breaker,
        now: int,
        *,
        began: int | None = None,
        lease: int = 0,
    ) -> Change:
        """Take an event in.

        Args:
            row: Of the upstream.
            event: What has happened.
            section: The route's.
            now: Monotonic ns.
            began: The first word as the exchange knows it that the event is about; if it is another one now,
                nothing happens.
            lease: What a trial was given.

        Raises:
            LockBusyError: Another process is at it; nothing has changed.
        """
        return self._step(row, event, Step(section, now, self._process, lease), began)

    def replace(self, row: int, now: int) -> Change:
        """The row is another upstream's from now on, and its breaker closed.

        Raises:
            LockBusyError: Another process is at it; nothing has changed.
        """
        return self._step(row, Event.REPLACED, Step(_ANY, now, self._process))

    def repair(self, process: int) -> None:
        """Give back what a process held that has been reaped. For the supervisor, before it forks another.

        A lease whose breaker another process has locked at this moment ends by its deadline.
        """
        first = process * self._page
        for number in range(first, first + self._page):
            self._buckets[number] = 0
        for row in range(self._board.rows):
            if self.words(row)[0] & STATE_MASK == State.HALF_OPEN:
                try:
                    self._step(row, Event.REAPED, Step(_ANY, time.monotonic_ns(), process))
                except LockBusyError:
                    continue

    def _step(self, row: int, event: Event, data: Step, began: int | None = None) -> Change:
        words = self.words(row)
        line = self._board.breaker_line(row)
        self._locks.acquire(line)
        try:
            before = words[0]
            if began is not None and began != before:
                return Change(before, before)
            taken = step(Row.unpack(words), event, data)
            after = taken.row.pack()
            # The first word last: whoever reads it without the lock, and who comes after this process if it
            # is killed here, finds the old state, or the new one as a whole.
            for number in reversed(range(ROW_WORDS)):
                if words[number] != after[number]:
                    words[number] = after[number]
        finally:
            self._locks.release(line)
        if after[0] != before:
            self._board.changed(data.process)
        return Change(before, after[0], taken.lease)


def _page(rows: int) -> int:
    """Words of one process, whole lines."""
    return -(-rows * BUCKETS // _LINE_WORDS) * _LINE_WORDS
