"""A client connection where each address may have only so many of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from shadowcat.policy.forwarded import network_of
from shadowcat.proxy.clients.downstream import ClientConnection
from shadowcat.proxy.flow import reset

if TYPE_CHECKING:
    from shadowcat.proxy.plane import DataPlane
    from shadowcat.shm.crowd import Places


class CountedConnection(ClientConnection):
    """Counts itself, and serves nobody who has too many.

    Trusted proxies are not counted: they come for many clients. One that says for whom (PROXY protocol) is
    counted by that.
    """

    __slots__ = ("_limit", "_places")

    def __init__(self, plane: DataPlane, limit: int) -> None:
        """`limit` is how many one address may have."""
        super().__init__(plane)
        self._limit = limit
        self._places: Places | None = None

    def serve(self, transport: asyncio.Transport, address: str) -> None:
        """Begin, unless there are too many."""
        plane = self._plane
        if not plane.trusted_proxies.trusts(address):
            self._places = plane.crowd.enter(network_of(address), self._limit)
            if self._places is None:
                plane.cells[self._meters.crowded] += 1
                reset(transport)
                return
        super().serve(transport, address)

    def connection_lost(self, exc: Exception | None) -> None:
        """Make room for another one."""
        super().connection_lost(exc)
        if self._places is not None:
            self._plane.crowd.leave(self._places)
            self._places = None
