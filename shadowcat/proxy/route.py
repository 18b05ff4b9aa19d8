"""Routes as the data plane uses them: which path belongs to which group of upstreams."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shadowcat.config import model
from shadowcat.policy.balance import RoundRobin
from shadowcat.proxy.meters import RouteMeters
from shadowcat.shm.counters import Layout

if TYPE_CHECKING:
    from shadowcat.proxy.pool import Pool


class Route:
    """One route: its pools, its balancing, its time-outs."""

    __slots__ = ("balancer", "meters", "path", "pools", "timeouts")

    def __init__(self, config: model.Route, layout: Layout, start: int) -> None:
        """`start` is where this worker's turn-taking begins."""
        self.path = config.path.encode()
        self.timeouts = config.timeouts
        self.meters = RouteMeters(layout, config)
        self.balancer = RoundRobin(start)
        self.pools: tuple[Pool, ...] = ()


class RouteTable:
    """Finds the route of a path. The longest route that matches by whole segments wins."""

    __slots__ = ("_routes",)

    def __init__(self, routes: list[Route]) -> None:
        self._routes = sorted(routes, key=lambda route: -len(route.path))

    def match(self, path: bytes) -> tuple[Route, bytes] | None:
        """The route, and what of `path` follows the route's own; None if there is no route."""
        for route in self._routes:
            own = route.path.rstrip(b"/")
            if path.startswith(own) and path[len(own) : len(own) + 1] in (b"", b"/"):
                suffix = path[len(own) :]
                return route, b"" if path == route.path else suffix
        return None
