"""What the whole host has taken on: requests under way, bytes in memory. One block per process.

    word    field       writers
    0       in flight   its process: requests under way
    1       waiting     its process: requests that wait for one of those to end
    2       looked      its process, CLOCK_MONOTONIC ns: when these looked for a place last
    3       buffered    its process: bytes

Nobody takes a lock: a worker adds itself before it adds all up, so that two who do so at the same moment may
both see one too many, and go back, but never one too few. The supervisor clears the block of a process that
it has reaped.

Each worker has a share of the places. It may have more as long as no other one waits that has less than its
own: a worker that has places would otherwise give each that comes free to the next one of its own queue, and
one that has none would never get any.
"""

from __future__ import annotations

from typing import Final

from shadowcat.shm.region import LINE, WORD, Area, Plan, Region

_BLOCK: Final = LINE // WORD
_IN_FLIGHT: Final = 0
_WAITING: Final = 1
_LOOKED: Final = 2
_BUFFERED: Final = 3
_FRESH: Final = 250_000_000
"""Nanoseconds. A worker that has not looked for so long was stopped: nothing is kept free for it. They look
every 10 ms."""


def plan_pressure(plan: Plan, processes: int) -> Area:
    """Set the memory aside."""
    return plan.add(processes * LINE)


def clear(region: Region, area: Area, process: int) -> None:
    """A process was reaped: nothing is under way in it any more. For the supervisor only."""
    region.view(area.offset + process * LINE, LINE)[:] = bytes(LINE)


class Pressure:
    """The blocks, as one worker writes its own and adds all of them up."""

    __slots__ = ("_levels", "_others", "_own", "_sizes", "_words", "_workers", "now_ns")

    def __init__(self, region: Region, area: Area, process: int, workers: range) -> None:
        """`workers` are the numbers of all processes that carry traffic, `process` that of this one."""
        self._words = region.words(area.offset, area.length // WORD)
        self._levels = self._words[_IN_FLIGHT::_BLOCK]
        self._sizes = self._words[_BUFFERED::_BLOCK]
        self._own = process * _BLOCK
        self._others = tuple(number * _BLOCK for number in workers if number != process)
        self._workers = len(workers)
        self.now_ns = 0
        """CLOCK_MONOTONIC, as of the last `wait`; to be set before it."""

    # Requests.

    def enter(self, limit: int) -> bool:
        """Take a place for a request, if there is one for this worker."""
        words, own = self._words, self._own
        count = words[own] + 1
        words[own] = count
        if sum(self._levels) > limit or (count > (share := limit // self._workers) and self._lack(share)):
            words[own] = count - 1
            return False
        return True

    def leave(self) -> None:
        """A request that had a place is over."""
        self._words[self._own] -= 1

    def wait(self, count: int) -> None:
        """Say how many requests of this worker wait, and that they look for a place just now (`now_ns`)."""
        words, own = self._words, self._own
        words[own + _LOOKED] = self.now_ns
        words[own + _WAITING] = count

    @property
    def in_flight(self) -> int:
        """Requests of this worker that have a place."""
        return self._words[self._own]

    def _lack(self, share: int) -> bool:
        """Whether another worker that has less than its share waits."""
        words = self._words
        return any(
            words[other + _WAITING]
            and words[other + _IN_FLIGHT] < share
            and self.now_ns - words[other + _LOOKED] < _FRESH
            for other in self._others
        )

    # Memory.

    def hold(self, size: int, limit: int) -> bool:
        """Have so many bytes more in memory, if the host may."""
        words, place = self._words, self._own + _BUFFERED
        held = words[place] + size
        words[place] = held
        if sum(self._sizes) > limit:
            words[place] = held - size
            return False
        return True

    def change(self, size: int) -> None:
        """So many bytes more or less are in memory, whatever the host may have."""
        self._words[self._own + _BUFFERED] += size

    @property
    def buffered(self) -> int:
        """Bytes that this worker has in memory."""
        return self._words[self._own + _BUFFERED]
