"""Handles of the modern era (mcp/issued.py) as a worker deals with them: noted as they pass, found again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from shadowcat.mcp.envelope import Envelope
from shadowcat.mcp.issued import presented
from shadowcat.shm.affinity import GENERATIONS, AffinityTable

if TYPE_CHECKING:
    from shadowcat.proxy.plane import DataPlane
    from shadowcat.proxy.route import Route
    from shadowcat.proxy.upstreams.pool import Pool


class Affinity:
    """Whose handles are whose. What is issued to one principal is unknown to others."""

    __slots__ = ("_plane", "_table")

    def __init__(self, plane: DataPlane, table: AffinityTable) -> None:
        self._plane = plane
        self._table = table

    def home(self, route: Route, principal: str, envelope: Envelope, body: bytes) -> Pool | None:
        """The upstream that issued what a request presents; None if there is none, or it is not there now.

        Of several that issued the tasks of a filter it is the one that issued the most.
        """
        homes: dict[Pool, int] = {}
        now = self._plane.clock()
        for handle in presented(envelope, body):
            issuer = self._table.find(self._digest(route, principal, handle), now)
            if issuer is None:
                continue
            pool = self._plane.sessions.pools.get(issuer.row)
            if pool is not None and pool.generation % GENERATIONS == issuer.generation:
                homes[pool] = homes.get(pool, 0) + 1
        return max(homes, key=homes.__getitem__) if homes else None

    def note(self, route: Route, principal: str, pool: Pool, handles: Iterable[bytes]) -> None:
        """Note what an upstream has issued."""
        for handle in handles:
            now = self._plane.clock()
            self._table.note(self._digest(route, principal, handle), pool.row, pool.generation, now)

    def _digest(self, route: Route, principal: str, handle: bytes) -> int:
        return self._table.digest(b"%d:%b%b" % (len(route.path), route.path, principal.encode()), handle)
