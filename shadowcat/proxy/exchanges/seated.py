"""Exchanges of routes that limit what is under way: each gives back what it has taken when it ends."""

from __future__ import annotations

from shadowcat.proxy.exchanges.exchange import Exchange
from shadowcat.proxy.exchanges.layers import layered


class Seated(Exchange):
    """A request that may have taken seats (`Limits.begin`)."""

    __slots__ = ()

    def _done(self) -> None:
        super()._done()
        self.plane.limits.end(self)


def seated(kind: type[Exchange]) -> type[Exchange]:
    """The same kind of exchange, for such a route."""
    return layered(Seated, kind)
