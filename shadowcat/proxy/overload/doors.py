"""Who is let in when there are too many clients, or descriptors run short.

A connection that nobody has accepted hangs, and its client with it. So everybody is accepted: for a newcomer
that is one too many, the connection that has been idle for longest is closed, as its client can open another
one at any time; if there is none, the newcomer gets 503 and is let go.
"""

from __future__ import annotations

import logging
from heapq import nlargest
from math import inf
from typing import TYPE_CHECKING, Final

from shadowcat.config.model import Config
from shadowcat.errors import Refusal
from shadowcat.proxy.clients.denial import Denial

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from shadowcat.proxy.clients.downstream import ClientConnection

_log: Final = logging.getLogger(__name__)

_MARK: Final = 0.9
"""Share of the descriptors for clients. The rest is for upstreams, logs, and those who are told to go."""
_LEAST_IDLE: Final = 1.0
"""Seconds. Before, a client may be about to send its next request."""
_MOST_LOOKED_UP: Final = 64
"""Idle connections that are found in one go; looking at 10,000 takes 3 ms, so it is done once per tick."""
_MOST_TOLD: Final = 64
"""Newcomers that may be there at the same time only to be told to go; further ones are cut off."""
_QUIET: Final = 60.0
"""Seconds between two log lines."""


class Doors:
    """Those of one worker."""

    __slots__ = (
        "_cells",
        "_clients",
        "_clock",
        "_closed",
        "_idle",
        "_levels",
        "_limit",
        "_logged_at",
        "_looked_at",
        "_mark",
        "_refused",
        "_told",
    )

    def __init__(
        self,
        clients: Collection[ClientConnection],
        levels: Sequence[memoryview],
        descriptors: int,
        clock: Callable[[], float],
        cells: memoryview,
        counters: tuple[int, int],
    ) -> None:
        """Let everybody in.

        Args:
            clients: Those of the worker.
            levels: Each worker's cell with the number of its clients.
            descriptors: How many this process may have.
            clock: Seconds.
            cells: The worker's own.
            counters: Where it is counted who was told to go, and who was closed as idle.
        """
        self._clients = clients
        self._levels = levels
        self._mark = int(descriptors * _MARK)
        self._clock = clock
        self._cells = cells
        self._refused, self._closed = counters
        self._limit: int | None = None
        self._idle: list[ClientConnection] = []
        """Of this tick, the one that has been idle for longest at the end."""
        self._looked_at = self._logged_at = -inf
        self._told: set[ClientConnection] = set()

    def take_up(self, config: Config) -> None:
        """Go by this from now on."""
        self._limit = config.overload.max_connections

    def objection(self, descriptor: int, now: float) -> Denial | None:
        """Why a client that has just connected cannot stay.

        Args:
            descriptor: The number of its own, which is the least that was free: so many are in use.
            now: Of the last tick.
        """
        if self._limit is not None and sum([level[0] for level in self._levels]) > self._limit:
            refusal = Refusal.TOO_MANY_CLIENTS
        elif descriptor >= self._mark:
            refusal = Refusal.OUT_OF_DESCRIPTORS
        else:
            return None
        if self._close_idle(now):
            return None
        self._cells[self._refused] += 1
        if self._clock() - self._logged_at >= _QUIET:
            self._logged_at = self._clock()
            _log.warning("clients are turned away: %s", refusal.message)
        return Denial(refusal)

    def may_tell(self, client: ClientConnection) -> bool:
        """Whether a client is told why; if not, it is cut off."""
        if len(self._told) >= _MOST_TOLD:
            return False
        self._told.add(client)
        return True

    def tick(self) -> None:
        """Forget who has gone."""
        if self._told:
            self._told = {client for client in self._told if not client.is_gone}

    def _close_idle(self, now: float) -> bool:
        if now != self._looked_at:
            self._looked_at = now
            found = nlargest(
                _MOST_LOOKED_UP, ((client.idle_for(now), id(client), client) for client in self._clients)
            )
            self._idle = [client for _, _, client in reversed(found)]
        while self._idle:
            client = self._idle.pop()
            if client.idle_for(now) >= _LEAST_IDLE:
                client.close_idle()
                self._cells[self._closed] += 1
                return True
        return False
