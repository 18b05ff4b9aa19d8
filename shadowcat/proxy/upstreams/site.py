"""What a pool is made for: one upstream of a route, and its place among all others."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from shadowcat.config import model
    from shadowcat.proxy.meters import UpstreamMeters
    from shadowcat.proxy.upstreams.origin import Origin


class Site(NamedTuple):
    """An upstream as its pool finds it."""

    origin: Origin
    section: model.Pool
    """Of the route."""
    upstream: model.Upstream
    meters: UpstreamMeters
    row: int
    """The upstream's number among those of all routes, by which all workers know it."""
    generation: int
    """Tells it from others that had the number before."""
