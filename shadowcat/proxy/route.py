"""Routes as the data plane uses them: which path belongs to which group of upstreams."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shadowcat.config import model
from shadowcat.mcp.envelope import Envelope
from shadowcat.policy.retry import RetryBudget
from shadowcat.policy.waits import Waits, waits_for
from shadowcat.proxy.meters import RouteMeters
from shadowcat.shm.counters import Layout

if TYPE_CHECKING:
    from shadowcat.proxy.balancer import Balancer
    from shadowcat.proxy.pool import Pool

_MOST_METHODS: Final = 256


class Route:
    """One route: its pools, its balancing, its time-outs."""

    __slots__ = (
        "_waits",
        "attempts",
        "balancer",
        "compares",
        "legacy",
        "meters",
        "name",
        "needs_session",
        "only",
        "path",
        "pools",
        "retries",
        "timeouts",
        "usual_waits",
    )

    balancer: Balancer
    """Set by the assembly, as is what follows from it: `pools`, `only`, `compares` and `legacy`."""

    def __init__(self, config: model.Route, layout: Layout, cells: memoryview) -> None:
        self.name = config.path
        self.path = config.path.encode()
        self.timeouts = config.timeouts
        self.meters = RouteMeters(layout, config, cells)
        self.pools: tuple[Pool, ...] = ()
        """Of all upstreams."""
        self.only: Pool | None = None
        """That of the one upstream that gets everything; None where there is a choice to make."""
        self.compares = False
        """Whether the choice depends on what the requests of this worker do."""
        self.legacy: tuple[Pool, ...] = ()
        """Of those that get legacy requests."""
        self.needs_session = False
        """Whether all of `legacy` are known to issue session ids: no legacy request can do without."""
        self.retries = RetryBudget(config.retry.budget)
        self.attempts = config.retry.attempts
        self.usual_waits: dict[str | None, Waits] = {}
        """What `waits` found for methods where only the method counts; a look here saves the call."""
        self._waits: dict[tuple[bytes, str | None, str | None], Waits] = {}

    def waits(self, http_method: bytes, envelope: Envelope | None) -> Waits:
        """How long an answer may take; looked up, because it follows from the method and the tool alone."""
        if envelope is None:
            method = tool = None
        else:
            method = envelope.method
            tool = envelope.name if self.timeouts.tools and method == "tools/call" else None
        found = self._waits.get((http_method, method, tool))
        if found is None:
            found = waits_for(http_method, method, tool, self.timeouts)
            if len(self._waits) < _MOST_METHODS:  # Clients choose the names.
                self._waits[http_method, method, tool] = found
                if method is not None and not (self.timeouts.tools and method == "tools/call"):
                    self.usual_waits[method] = found
        return found


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
