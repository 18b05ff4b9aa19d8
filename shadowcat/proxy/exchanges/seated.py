"""Exchanges of routes that limit what is under way: each gives back what it has taken when it ends."""

from __future__ import annotations

from typing import Final, cast

from shadowcat.proxy.exchanges.exchange import Exchange


class _Seated(Exchange):
    """A request that may have taken seats (`Limits.begin`)."""

    __slots__ = ()

    def _done(self) -> None:
        super()._done()
        self.plane.limits.end(self)


_KINDS: Final[dict[type[Exchange], type[Exchange]]] = {}


def seated(kind: type[Exchange]) -> type[Exchange]:
    """The same kind of exchange, for such a route."""
    found = _KINDS.get(kind)
    if found is None:
        made = type(f"Seated{kind.__name__}", (_Seated, kind), {"__slots__": ()})
        found = _KINDS[kind] = cast("type[Exchange]", made)
    return found
