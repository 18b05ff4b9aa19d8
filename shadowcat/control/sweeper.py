"""The sweep: finds sessions whose time is over, a few slots at a time.

Nothing needs it for correctness: an expired session is refused wherever it is looked up, and its slot is
taken when none is left. The sweep tells the upstream, gives the slot and the owner's count back early,
and corrects the counts.

Control may be killed at any moment, so a sweep begins where the clock says it would be by now: killed every
two seconds, it still gets everywhere. What it remembers from one sweep to the next may be lost at no
cost but time: a session is then ordered to end once more.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final

from shadowcat.control.closer import Closer
from shadowcat.log import LOGGER
from shadowcat.shm.locks import LockBusyError
from shadowcat.shm.sessions.table import Session, SessionTable

TICK: Final = 0.05
"""Seconds between two slices."""
PERIOD: Final = 10_000_000_000
"""ns that a sweep of the whole table takes, whatever its size."""
_OVERLAP: Final = PERIOD // 10
"""ns by which a new process begins before its place: it took some time to be replaced."""
_STALL: Final = 500_000_000
"""ns between two slices from which on this process, and with it maybe the host, stood still."""
_RECOVERY: Final = 1_000_000_000
"""ns after a stall in which workers may show that they are alive, before sessions are ended without them."""
_LIMIT: Final = 4_000_000
"""ns after which a slice stops, done or not: the loop has requests to answer and a heart to beat."""
_CHUNK: Final = 256
"""Slots looked at between two looks at the clock: 0.7 ms if every one of them has expired."""
_ORDERS: Final = 32
"""Most orders to one worker in a slice: half of what its mailbox holds from one sender."""


class Sweeper:
    """Sweeps the table, slice by slice, over and over."""

    __slots__ = (
        "_clock", "_closer", "_credit", "_deadline", "_failures", "_left", "_noted", "_ordered", "_orders",
        "_position", "_recount", "_seen_ns", "_stalled_ns", "_table", "_timer", "_workers",
    )  # fmt: skip

    def __init__(
        self,
        table: SessionTable,
        closer: Closer,
        recount: Callable[[], None],
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Prepare the first sweep.

        Args:
            table: The sessions, as this process sees them.
            closer: Ends them.
            recount: Called at the end of each full sweep, to have the counts corrected.
            clock: CLOCK_MONOTONIC in ns.
        """
        now = clock()
        self._table = table
        self._closer = closer
        self._recount = recount
        self._clock = clock
        self._position, self._credit = divmod((now - _OVERLAP) % PERIOD * table.capacity, PERIOD)
        """The next slot; and how many are due, times PERIOD: small tables have less than one in a slice."""
        self._left = table.capacity
        self._seen_ns = now - _OVERLAP
        self._stalled_ns = now - _RECOVERY
        self._failures = 0
        self._ordered: dict[int, int] = {}
        """Slot -> version word of what the sweep before this one has ordered to end."""
        self._noted: dict[int, int] = {}
        """The same of this one."""
        self._workers: list[int] = []
        self._orders = 0
        self._deadline = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Sweep a slice now and every TICK seconds."""
        # Armed first: whatever happens in this slice, the next one comes.
        self._timer = loop.call_later(TICK, self.start, loop)
        self.slice()

    def stop(self) -> None:
        """Sweep no more."""
        if self._timer is not None:
            self._timer.cancel()

    def slice(self) -> None:
        """Sweep the slots that are due by now."""
        now = self._clock()
        capacity = self._table.capacity
        # What a stall or a flood of expired sessions has left behind is made up for, up to a tenth of the
        # table: a worker that was given an order keeps nearly a whole PERIOD to carry it out.
        most = max(2 * PERIOD, _OVERLAP * capacity)
        self._credit = min(self._credit + (now - self._seen_ns) * capacity, most)
        if self._workers and now - self._seen_ns > _STALL:
            self._stalled_ns = now
        self._seen_ns = now
        self._deadline = now + _LIMIT
        self._workers = self._closer.workers(now)
        if not self._workers and now - self._stalled_ns < _RECOVERY:
            return  # Those that were there have not beaten since; without them no upstream is told.
        self._orders = _ORDERS * len(self._workers)
        while self._credit >= PERIOD and self._clock() < self._deadline:
            count = min(_CHUNK, self._credit // PERIOD, self._left, capacity - self._position)
            done = self._chunk(count, now)
            self._credit -= done * PERIOD
            self._advance(done)
            if done < count:
                return

    def _chunk(self, count: int, now_ns: int) -> int:
        """Sweep the next `count` slots; returns how many of them need no second look."""
        first, done = self._position, count
        try:
            for session in self._table.sweep(first, count, now_ns):
                done = session.slot - first
                if self._workers and self._orders == 0:
                    return done
                self._close(session)
                done += 1
                if self._clock() >= self._deadline:
                    return done
        except Exception:  # noqa: BLE001  a bad slot must not keep the sweep from those behind it
            self._complain()
            return min(done + 1, count)
        return count

    def _close(self, session: Session) -> None:
        if self._ordered.get(session.slot) == session.version:
            # A worker has had a whole sweep's time for it: there was none, or the mail was lost.
            with contextlib.suppress(LockBusyError):
                self._closer.end(session)
                return
        else:
            self._orders -= 1
            self._closer.order(session, self._workers)
        self._noted[session.slot] = session.version

    def _advance(self, slots: int) -> None:
        self._position = (self._position + slots) % self._table.capacity
        self._left -= slots
        if self._left == 0:
            self._finish()

    def _finish(self) -> None:
        """All slots are seen: correct the counts and start over."""
        try:
            self._recount()
        except Exception:  # noqa: BLE001  the next sweep must come
            self._complain()
        if self._failures > 1:
            LOGGER.error("the sweep of sessions met %d errors from one end to the other", self._failures)
        self._ordered, self._noted = self._noted, {}
        self._left = self._table.capacity
        self._failures = 0

    def _complain(self) -> None:
        # One traceback in a sweep: what is wrong with a slot is wrong with a thousand.
        self._failures += 1
        if self._failures == 1:
            LOGGER.exception("the sweep of sessions met an error and goes on behind it")
