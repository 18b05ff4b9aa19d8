"""Routes as the data plane uses them: which path belongs to which group of upstreams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from shadowcat.config import model
from shadowcat.mcp.envelope import LONGEST_KEPT, Envelope
from shadowcat.policy.line import Rank
from shadowcat.policy.retry import RetryBudget
from shadowcat.policy.tools import ToolRules
from shadowcat.policy.waits import Waits, waits_for
from shadowcat.proxy.meters import RouteMeters
from shadowcat.proxy.upstreams.balancer import COMPARES, Balancer, Purpose

if TYPE_CHECKING:
    from shadowcat.proxy.checks import Check
    from shadowcat.proxy.clients.access import Access
    from shadowcat.proxy.limits.check import LimitCheck
    from shadowcat.proxy.upstreams.credentialed import PersonalPool
    from shadowcat.proxy.upstreams.pool import Pool

_MOST_METHODS: Final = 256


class Route:
    """One route: its pools, its balancing, its time-outs."""

    __slots__ = (
        "_waits",
        "access",
        "attempts",
        "balancer",
        "checks",
        "compares",
        "exchanging",
        "has_choice",
        "is_limited_ahead",
        "legacy",
        "limits",
        "meters",
        "name",
        "needs_session",
        "only",
        "path",
        "pools",
        "presents",
        "queues",
        "rank",
        "renews",
        "retries",
        "timeouts",
        "tools",
        "usual_waits",
    )

    balancer: Balancer
    """This and what follows from it is known once the route is configured."""
    timeouts: model.Timeouts
    attempts: int

    def __init__(self, section: model.Route, meters: RouteMeters) -> None:
        """`configure` comes next."""
        self.name = section.path
        self.path = section.path.encode()
        self.meters = meters
        self.retries = RetryBudget(section.retry.budget)
        self.usual_waits: dict[str | None, Waits] = {}
        """What `waits` found for methods where only the method counts; a look here saves the call."""
        self._waits: dict[tuple[bytes, str | None, str | None], Waits] = {}
        self.pools: tuple[Pool, ...] = ()
        """Of all upstreams."""
        self.only: Pool | None = None
        """That of the one upstream that gets everything; None where there is a choice to make."""
        self.compares = False
        """Whether the choice depends on what the requests of this worker do."""
        self.has_choice = False
        """Whether there are, or once were, several upstreams: what one that leaves has issued goes back to
        it as long as it is there."""
        self.legacy: tuple[Pool, ...] = ()
        """Of those that get legacy requests."""
        self.access: Access | None = None
        """Who may use it; None: everybody."""
        self.checks: Sequence[Check] = ()
        """What else is asked of its requests, in this order."""
        self.is_limited_ahead = False
        """Whether the host has rates, which are charged before anything else."""
        self.limits: LimitCheck | None = None
        """Its limits, if it has any; they are among the checks, too."""
        self.tools = ToolRules(None)
        """Which tools there are for its clients."""
        self.exchanging: tuple[PersonalPool, ...] = ()
        """Those pools for which clients' tokens are exchanged."""
        self.presents = False
        """Whether an upstream is told who the client is."""
        self.renews = False
        """Whether an upstream has a credential that control fetches."""
        self.queues = False
        """Whether its requests may have to wait until others have ended."""
        self.rank = Rank.NORMAL
        """Which of those who wait go first."""
        self.needs_session = False
        """Whether all of `legacy` are known to issue session ids: no legacy request can do without."""

    def configure(self, section: model.Route, pools: tuple[Pool, ...], balancer: Balancer) -> None:
        """Go by this section, and by what was made of it, from now on."""
        self.pools = pools
        self.balancer = balancer
        self.has_choice = self.has_choice or len(pools) > 1
        self.compares = len(pools) > 1 and section.balance.strategy in COMPARES
        self.timeouts = section.timeouts
        self.attempts = section.retry.attempts
        self.rank = Rank[section.priority.upper()]
        self.retries.share = section.retry.budget
        self.tools = ToolRules(section.policy.tools if section.policy is not None else None)
        self.usual_waits.clear()
        self._waits.clear()
        self.look()

    def look(self) -> None:
        """Something may have happened to the upstreams."""
        balancer = self.balancer
        balancer.look()
        self.only = balancer.only
        self.legacy = balancer.members(Purpose.LEGACY)

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
            # Clients choose the names.
            if len(self._waits) < _MOST_METHODS and len(method or "") + len(tool or "") <= LONGEST_KEPT:
                self._waits[http_method, method, tool] = found
                if method is not None and not (self.timeouts.tools and method == "tools/call"):
                    self.usual_waits[method] = found
        return found


class Described(Protocol):
    """What has a document at a path of its own."""

    def document(self, base: str) -> bytes:
        """The document, for a client that called `base`."""


class RouteTable:
    """Finds the route of a path. The longest route that matches by whole segments wins."""

    __slots__ = ("_described", "_routes")

    def __init__(self, routes: list[Route], documents: Mapping[bytes, Described] | None = None) -> None:
        """`documents`: what else is described, by path."""
        self._routes = sorted(routes, key=lambda route: -len(route.path))
        described = [access for route in routes if (access := route.access) is not None]
        self._described: dict[bytes, Described] = {
            path.encode(): access
            for access in described
            for path in access.document_paths(alone=len(described) == 1)
        }
        """Whose metadata is at which path."""
        self._described.update(documents or {})

    def described(self, path: bytes) -> Described | None:
        """What is described at `path`; None if there is nothing."""
        return self._described.get(path) if self._described else None

    def match(self, path: bytes) -> tuple[Route, bytes] | None:
        """The route, and what of `path` follows the route's own; None if there is no route."""
        for route in self._routes:
            own = route.path.rstrip(b"/")
            if path.startswith(own) and path[len(own) : len(own) + 1] in (b"", b"/"):
                suffix = path[len(own) :]
                return route, b"" if path == route.path else suffix
        return None
