"""The routes and upstreams of a worker, kept in step with what control has published.

A worker looks whether anything has changed before each request, at one word. What stays is kept: a route its
counts, an upstream its connections. What was removed stays, too, as long as its sessions do.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from shadowcat.config import model
from shadowcat.config.seats import Phase, Seat, Snapshot
from shadowcat.errors import StartError
from shadowcat.proxy.meters import RouteMeters, UpstreamMeters
from shadowcat.proxy.route import Route
from shadowcat.proxy.upstreams.balancer import Balancer, Host
from shadowcat.proxy.upstreams.credentialed import pool_class, present_at
from shadowcat.proxy.upstreams.origin import Origin
from shadowcat.proxy.upstreams.outcomes import Marks, Outcomes
from shadowcat.proxy.upstreams.pool import Pool
from shadowcat.proxy.upstreams.site import Site
from shadowcat.shm.ejections import Place
from shadowcat.shm.shared import Shared
from shadowcat.shm.snapshots import SnapshotError

if TYPE_CHECKING:
    from shadowcat.proxy.plane import DataPlane

_log: Final = logging.getLogger(__name__)


class Roster:
    """Who serves what, as of one snapshot."""

    __slots__ = ("_host", "_marks", "_page", "_plane", "_routes", "_shared", "_version", "pools")

    def __init__(self, plane: DataPlane, shared: Shared, process: int, host: Host) -> None:
        """Begin with nothing."""
        self._plane = plane
        self._shared = shared
        self._page = shared.page(process)
        self._host = host
        locks = plane.sessions.table.locks
        self._marks = Marks(shared.breakers_with(locks, process), shared.ejections_with(locks, process))
        self._version = 0
        self._routes: dict[str, Route] = {}
        self.pools: dict[int, Pool] = {}
        """By row, those included that leave."""

    def begin(self) -> None:
        """Take up the present snapshot.

        Raises:
            StartError: Something in it cannot be used, such as a certificate file.
            SnapshotError: It is spoilt.
        """
        snapshot = self._shared.present()
        if self._page.incarnation > 1:
            # Rows may have been given up after the process before this one had counted in them.
            used = {seat.row for _, _, _, seat in snapshot.upstreams()}
            for row in range(self._shared.board.rows):
                if row not in used:
                    self._clear(row)
        self._take_up(snapshot)

    def refresh(self) -> None:
        """Something has changed; what cannot be used of it is left, and said."""
        if self._shared.snapshot.version != self._version:
            try:
                self._take_up(self._shared.present())
            except (StartError, SnapshotError) as error:
                _log.error("a change of the configuration is not taken up: %s", error)
        for route in self._plane.routes:
            route.look()
        self._plane.sessions.tick()

    def _take_up(self, snapshot: Snapshot) -> None:
        # First whatever may fail: afterwards there is no way back.
        origins = {
            seat.row: Origin(upstream)
            for _, _, upstream, seat in snapshot.upstreams()
            if not self._is_known(upstream, seat)
        }
        plane = self._plane
        before, self.pools = self.pools, {}
        routes = []
        for number, section, seats in snapshot.routes():
            route = self._routes.get(section.path)
            if route is None:
                route = Route(section, RouteMeters(self._shared.layout, number, plane.cells))
            pools = [
                self._pool(before, origins, section, upstream, seat)
                for upstream, seat in zip(section.upstreams, seats, strict=True)
            ]
            self._watch(section, seats, pools)
            balancer = Balancer(section, number, seats, pools, self._host, self._shared.board)
            route.configure(section, tuple(pools), balancer)
            routes.append(route)
        beside: dict[str, list[Pool]] = {}
        for one in snapshot.leaving:
            pool = self._pool(before, origins, one.route, one.route.upstreams[0], one.seat)
            self._watch(one.route, [one.seat], [pool])
            beside.setdefault(one.route.path, []).append(pool)
        for route in routes:
            present_at(route, [*route.pools, *beside.get(route.name, ())])
        for row, pool in before.items():
            if self.pools.get(row) is not pool:
                pool.close()
                self._clear(row)
        self._routes = {route.name: route for route in routes}
        self._version = snapshot.version
        plane.take_up(snapshot.config, routes, self.pools)
        # Whoever sees the version may rely on the counts: what leaves and has nothing to do is given up.
        for pool in self.pools.values():
            pool.publish()
        self._page.set_version(snapshot.version)

    def _is_known(self, upstream: model.Upstream, seat: Seat) -> bool:
        """Whether there is a pool with an origin that is still right."""
        pool = self.pools.get(seat.row)
        if pool is None or pool.generation != seat.generation:
            return False
        had = pool.upstream
        return (had.url, had.tls, had.credential) == (upstream.url, upstream.tls, upstream.credential)

    def _pool(
        self,
        before: Mapping[int, Pool],
        origins: Mapping[int, Origin],
        section: model.Route,
        upstream: model.Upstream,
        seat: Seat,
    ) -> Pool:
        """The pool of an upstream: the one that it has, or a new one."""
        row = seat.row
        pool = before.get(row)
        if pool is None or pool.generation != seat.generation:
            plane = self._plane
            meters = UpstreamMeters(self._shared.layout, row, plane.cells)
            site = Site(origins[row], section.pool, upstream, meters, row, seat.generation)
            pool = pool_class(upstream)(plane, site)
        else:
            pool.change(section.pool, upstream, origins.get(row))
        self.pools[row] = pool
        if seat.phase is Phase.DRAINED:
            pool.abort()
        return pool

    def _watch(self, section: model.Route, seats: Sequence[Seat], pools: Sequence[Pool]) -> None:
        """Have what becomes of the requests to a route's upstreams looked at, if that is for something."""
        places = [
            Place(seat.row, enabled=upstream.enabled and seat.phase is Phase.SERVING)
            for upstream, seat in zip(section.upstreams, seats, strict=True)
        ]
        for pool in pools:
            if section.breaker is None and section.outlier is None:
                pool.watch(None)
            elif pool.outcomes is None:
                pool.watch(Outcomes(self._plane, pool, self._marks, section, places))
            else:
                pool.outcomes.configure(section, places)

    def _clear(self, row: int) -> None:
        """Count from 0 for whoever gets the row next."""
        for cell in self._shared.layout.row(row):
            self._plane.cells[cell] = 0
