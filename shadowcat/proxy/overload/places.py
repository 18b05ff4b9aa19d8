"""Places for requests: how many the host carries out at a time, and which of the others wait.

    enter --a place is free, nobody waits--> begins
      +-----------------------------------> waits --its turn--> begins
                                              +-- too long, or too many wait: 503

A place that comes free here goes to who waits here. One that comes free at another worker is found by
looking every 10 ms; nobody has a timer or a task of its own.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from shadowcat.config.model import Config
from shadowcat.errors import Refusal
from shadowcat.mcp.batch import kind_of, read_batch
from shadowcat.mcp.envelope import Envelope, Kind
from shadowcat.mcp.methods import LISTEN
from shadowcat.policy.line import Line, Rank
from shadowcat.proxy.sessions.sessions import NANOSECONDS

if TYPE_CHECKING:
    from shadowcat.proxy.exchanges.queued import Queued
    from shadowcat.proxy.plane import DataPlane
    from shadowcat.shm.pressure import Pressure

_LOOK_EVERY: Final = 0.01
"""Seconds. Nobody tells a worker that a place has come free at another one."""
_UNBOUNDED: Final = 2**62
_REQUEST: Final = Kind.REQUEST


class Places:
    """Those of one worker, and its queue."""

    __slots__ = (
        "_held",
        "_is_serving",
        "_is_stopped",
        "_limit",
        "_line",
        "_loop",
        "_plane",
        "_pressure",
        "_timer",
    )

    def __init__(self, plane: DataPlane, pressure: Pressure) -> None:
        self._plane = plane
        self._loop = plane.loop
        self._pressure = pressure
        self._limit = _UNBOUNDED
        """Most requests of all workers together."""
        self._line = Line["Queued"]()
        self._held: set[Queued] = set()
        """Who has a place."""
        self._is_serving = self._is_stopped = False
        self._timer: asyncio.TimerHandle | None = None

    def take_up(self, config: Config) -> bool:
        """Go by this from now on. Returns whether requests have to `enter`."""
        section = config.overload
        self._limit = section.max_in_flight or _UNBOUNDED
        self._line.limit = -(-section.queue // config.workers)
        self._line.patience = section.queue_timeout
        return section.max_in_flight is not None

    def enter(self, exchange: Queued, envelope: Envelope | None, rank: Rank) -> bool:
        """Whether it may begin. If not, it is refused, or is told by `its_turn`."""
        if envelope is None or envelope.kind is not _REQUEST:
            if not _asks(exchange, envelope):
                return True
        elif envelope.method == LISTEN:
            return True
        # Whoever waits was here before.
        if not self._line and self._pressure.enter(self._limit):
            self._held.add(exchange)
            return True
        victim = self._line.join(exchange, rank, self._plane.clock())
        if victim is exchange:
            exchange.shed()
            return False
        self._look_soon()
        if victim is not None:
            # Not from here: its client may have sent another request, which would displace the next one.
            self._loop.call_soon(victim.shed)
        return False

    def leave(self, exchange: Queued) -> None:
        """It is over, however far it has come."""
        if exchange in self._held:
            self._held.discard(exchange)
            self._pressure.leave()
            if self._line:
                self._serve()
        elif self._line:
            self._line.leave(exchange)

    def publish(self) -> None:
        """Put the present levels where metrics come from; called ten times a second."""
        cells, meters = self._plane.cells, self._plane.meters
        cells[meters.overload_queue] = len(self._line)
        cells[meters.overload_in_flight] = len(self._held)

    def stop(self) -> None:
        """Stop the timer; nobody gets a place any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._is_stopped = True

    def _serve(self) -> None:
        """Let in who waits, as long as there are places."""
        if self._is_serving or self._is_stopped:
            return  # Some that were let in have ended at once, which is below this very loop.
        self._is_serving = True
        try:
            while self._line and self._pressure.enter(self._limit):
                exchange = self._line.next(self._plane.clock())
                self._held.add(exchange)
                exchange.its_turn()
        finally:
            self._is_serving = False

    def _look_soon(self) -> None:
        if self._timer is None and not self._is_stopped:
            self._say()
            self._timer = self._loop.call_later(_LOOK_EVERY, self._look)

    def _look(self) -> None:
        self._timer = None
        for exchange in self._line.overdue(self._plane.clock()):
            exchange.shed()
        self._serve()
        if self._line:
            self._look_soon()
        else:
            self._say()

    def _say(self) -> None:
        """Tell the other workers."""
        self._pressure.now_ns = int(self._plane.clock() * NANOSECONDS)
        self._pressure.wait(len(self._line))


def _asks(exchange: Queued, envelope: Envelope | None) -> bool:
    """Whether what is no single request is a batch of some. Anything else may be what others wait for."""
    if envelope is None or envelope.kind is not Kind.BATCH:
        return False
    batch = read_batch(exchange.body)
    return not isinstance(batch, Refusal) and kind_of(batch) is _REQUEST
