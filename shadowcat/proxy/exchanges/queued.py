"""Exchanges of a host that carries out only so many requests at a time: those that are to ask wait for it."""

from __future__ import annotations

from typing import Final

from shadowcat.errors import Refusal
from shadowcat.policy.line import Rank
from shadowcat.proxy.clients.denial import Denial
from shadowcat.proxy.exchanges.exchange import Exchange
from shadowcat.proxy.exchanges.exchange_state import State
from shadowcat.proxy.exchanges.initialize import InitializeExchange
from shadowcat.proxy.exchanges.layers import layered
from shadowcat.proxy.exchanges.session_exchange import SessionExchange

_DONE: Final = State.DONE


class Queued(Exchange):
    """Takes a place before anything else is done for it, and gives it back at its end."""

    __slots__ = ()

    def start(self) -> None:
        """Go, now or later."""
        if self.plane.places.enter(self, self.envelope, self._route.rank):
            super().start()

    def its_turn(self) -> None:
        """It has waited, and has a place now."""
        super().start()

    def shed(self) -> None:
        """It has waited for too long, or has to make room."""
        if self.state is not _DONE:
            self.plane.cells[self._route.meters.shed] += 1
            self.deny(Denial(Refusal.OVERLOADED))

    def _done(self) -> None:
        super()._done()
        self.plane.places.leave(self)


class _QueuedInitialize(Queued, InitializeExchange):
    """A request for a session: the first to be given up."""

    __slots__ = ()

    def start(self) -> None:
        """Go, now or later."""
        self.prepare()  # What was not opened is put away like what was.
        if self.plane.places.enter(self, self.envelope, Rank.OPENING):
            self.its_turn()


class _QueuedInSession(Queued, SessionExchange):
    """A request of a session, which is not looked up before."""

    __slots__ = ()

    def start(self) -> None:
        """Go, now or later."""
        # What is asked for should the client leave meanwhile.
        self._plight = None
        self.watch = None
        super().start()


def queued(kind: type[Exchange]) -> type[Exchange]:
    """The same kind of exchange, for such a host."""
    if issubclass(kind, InitializeExchange):
        return layered(_QueuedInitialize, kind)
    return layered(_QueuedInSession if issubclass(kind, SessionExchange) else Queued, kind)
