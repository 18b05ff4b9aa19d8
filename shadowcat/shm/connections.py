"""Connections to upstreams, counted by all workers together: one block per process, by the row's number.

    line    word    field           writers
    header  0       pools waiting   its process: how many of its pools wait for a connection
            1       looked at       its process, CLOCK_MONOTONIC ns: when these looked for one last
    rows    0       taken           its process, under the lock of the row; without it to give one back
    (4 each) 1      busy            its process, every 0.1 s: requests at or waiting for the upstream
            2       waiting         its process: requests that no connection is being opened for
            3       since           its process, CLOCK_MONOTONIC ns: when the first of those began to wait

Who opens a connection adds all blocks up under the row's lock, so the bound is exact for the host; opening
one is rare, and costs far more. A connection that is kept costs nothing here. The supervisor clears the block
of a process that it has reaped: by then the kernel has closed its sockets. It takes no connections itself, so
its own block, the first one, has the lock lines.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from shadowcat.shm.locks import Locks
from shadowcat.shm.region import LINE, WORD, Area, Plan, Region

_LINE_WORDS: Final = LINE // WORD
_POOLS: Final = 0
_LOOKED: Final = 1
_ROW_WORDS: Final = 4
_TAKEN: Final = 0
_BUSY: Final = 1
_WAITING: Final = 2
_SINCE: Final = 3
_FRESH: Final = 250_000_000
"""Nanoseconds. A worker that has not looked for so long was stopped, or is overloaded: nothing is kept free
for it. They look every 10 ms."""


class Demand(NamedTuple):
    """What other workers would like to have of a row."""

    requests: int
    """How many wait."""
    since: int
    """When the first of them began, CLOCK_MONOTONIC ns; 0 if there is none."""


_NO_DEMAND: Final = Demand(0, 0)


def _block_words(rows: int) -> int:
    return _LINE_WORDS + -(-rows * _ROW_WORDS // _LINE_WORDS) * _LINE_WORDS


class Connections:
    """The blocks of all processes."""

    __slots__ = ("block", "offset", "processes", "words")

    def __init__(self, region: Region, area: Area, rows: int, processes: int) -> None:
        self.offset = area.offset
        self.words = region.words(area.offset, area.length // WORD)
        self.block = _block_words(rows)
        self.processes = processes

    @staticmethod
    def plan(plan: Plan, rows: int, processes: int) -> Area:
        """Set the memory aside for `rows` upstreams."""
        return plan.add(processes * _block_words(rows) * WORD)

    def clear(self, process: int) -> None:
        """A process was reaped: its connections are gone. For the supervisor only."""
        words = self.words
        for word in range(process * self.block, (process + 1) * self.block):
            words[word] = 0


class Slots:
    """The connections as one worker takes them and gives them back. Times are CLOCK_MONOTONIC ns."""

    __slots__ = ("_block", "_locks", "_offset", "_others", "_own", "_words")

    def __init__(self, connections: Connections, process: int, locks: Locks) -> None:
        """`locks` are those of the process, `process` its number."""
        self._words = connections.words
        self._block = block = connections.block
        self._offset = connections.offset
        self._locks = locks
        self._own = process * block
        self._others = tuple(
            number * block for number in range(1, connections.processes) if number != process
        )

    def take(self, row: int, limit: int, since: int, now: int) -> bool:
        """Take one for a request that waits since `since`, if there is room for one more.

        What is free is for those who wait longest, whichever worker they are at.

        Args:
            row: The upstream's.
            limit: Most connections of all workers together.
            since: When the request began.
            now: The present.

        Raises:
            LockBusyError: Another worker takes one; nothing has changed.
        """
        line = self._offset + self._word(0, row, _TAKEN) * WORD
        self._locks.acquire(line)
        try:
            free = self.free(row, limit)
            if free <= 0 or free <= self._count_older(row, since, now):
                return False
            self._words[self._word(self._own, row, _TAKEN)] += 1
            return True
        finally:
            self._locks.release(line)

    def give(self, row: int) -> None:
        """Give one back: it is closed, or could not be opened."""
        self._words[self._word(self._own, row, _TAKEN)] -= 1

    def own(self, row: int) -> int:
        """How many this worker has taken."""
        return self._words[self._word(self._own, row, _TAKEN)]

    def holders(self, row: int) -> list[int]:
        """The numbers of the other workers that have taken some."""
        words, block = self._words, self._block
        return [other // block for other in self._others if words[self._word(other, row, _TAKEN)]]

    def free(self, row: int, limit: int) -> int:
        """How many more there may be; below 0 if there are too many, as the limit was lowered."""
        return limit - self._total(row, _TAKEN)

    # Waiting.

    def wait(self, row: int, count: int, since: int) -> None:
        """Say how many requests of this worker wait for a connection, the first one since `since`."""
        words = self._words
        words[self._word(self._own, row, _SINCE)] = since
        words[self._word(self._own, row, _WAITING)] = count

    def look(self, pools: int, now: int) -> None:
        """Say how many pools of this worker wait, and that they have looked for room just now."""
        words = self._words
        words[self._own + _LOOKED] = now
        words[self._own + _POOLS] = pools

    def waiting(self, row: int) -> int:
        """How many requests wait for a connection at all workers."""
        return self._total(row, _WAITING)

    def others_wait(self, now: int) -> bool:
        """Whether any other worker waits for a connection to any upstream."""
        return any(self._is_looking(block, now) for block in self._others)

    def demand(self, row: int, now: int) -> Demand:
        """What other workers wait for."""
        words = self._words
        total = first = 0
        for block in self._others:
            if self._is_looking(block, now) and (count := words[self._word(block, row, _WAITING)]):
                since = words[self._word(block, row, _SINCE)]
                first = min(first, since) if total else since
                total += count
        return Demand(total, first) if total else _NO_DEMAND

    def _count_older(self, row: int, since: int, now: int) -> int:
        words = self._words
        return sum(
            1
            for block in self._others
            if self._is_looking(block, now)
            and words[self._word(block, row, _WAITING)]
            and words[self._word(block, row, _SINCE)] < since
        )

    def _is_looking(self, block: int, now: int) -> bool:
        return bool(self._words[block + _POOLS]) and now - self._words[block + _LOOKED] < _FRESH

    # Load.

    def set_busy(self, row: int, count: int) -> None:
        """Say how many requests of this worker are at the upstream, or wait for it."""
        self._words[self._word(self._own, row, _BUSY)] = count

    def busy_elsewhere(self, row: int) -> int:
        """The sum of what the other workers said, up to 0.1 s ago."""
        return self._total(row, _BUSY) - self._words[self._word(self._own, row, _BUSY)]

    def _total(self, row: int, field: int) -> int:
        return sum(self._words[self._word(0, row, field) :: self._block])

    @staticmethod
    def _word(block: int, row: int, field: int) -> int:
        return block + _LINE_WORDS + row * _ROW_WORDS + field
