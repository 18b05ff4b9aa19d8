"""Kinds of exchanges with something put over them."""

from __future__ import annotations

from typing import Final, cast

from shadowcat.proxy.exchanges.exchange import Exchange

_KINDS: Final[dict[tuple[type[Exchange], type[Exchange]], type[Exchange]]] = {}


def layered(layer: type[Exchange], kind: type[Exchange], **members: object) -> type[Exchange]:
    """The same kind of exchange, with the methods of `layer` before its own; always the same class.

    `members` are what the layer wants to have of the kind, so that no request looks it up.
    """
    found = _KINDS.get((layer, kind))
    if found is None:
        name = f"{layer.__name__.strip('_')}{kind.__name__}"
        made = type(name, (layer, kind), {"__slots__": (), **members})
        found = _KINDS[layer, kind] = cast("type[Exchange]", made)
    return found
