"""The limits of a worker's data plane, as the configuration of the moment has them.

Two groups. What the host admits is charged before a token is looked at, for every message, and not given back
(`Entrance`). What a route admits is asked once it is known who asks, and in which session (`LimitCheck`); so
is, for both, how many may be under way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from shadowcat.config.model import Config
from shadowcat.mcp.envelope import LONGEST_KEPT
from shadowcat.policy.bounded import Bounded
from shadowcat.policy.forwarded import network_of
from shadowcat.proxy.limits.accounts import MOST, HostRules, RouteRules, Rule
from shadowcat.proxy.limits.check import LimitCheck
from shadowcat.shm.concurrency import Seats
from shadowcat.shm.limiter import Account, Shortage
from shadowcat.shm.locks import LockBusyError
from shadowcat.shm.shared import Shared

if TYPE_CHECKING:
    from shadowcat.proxy.clients.downstream import ClientConnection
    from shadowcat.proxy.clients.template import RequestTemplate
    from shadowcat.proxy.exchanges.exchange import Exchange
    from shadowcat.proxy.plane import DataPlane
    from shadowcat.proxy.route import Route

_NOTHING: Final[tuple[tuple[int, int], ...]] = ()


class Limits:
    """What all routes share."""

    __slots__ = ("_concurrency", "_held", "_networks", "cells", "clock", "host", "limiter")

    host: HostRules
    """Known once a configuration was taken up."""

    def __init__(self, plane: DataPlane, shared: Shared, process: int, clock: Callable[[], int]) -> None:
        """`clock` tells CLOCK_MONOTONIC in nanoseconds: that of the loop is a millisecond old at times."""
        locks = plane.sessions.table.locks
        self.limiter = shared.limiter_with(locks)
        self._concurrency = shared.concurrency_with(locks, process)
        self.cells = plane.cells
        self.clock = clock
        self._held: dict[Exchange, Sequence[tuple[int, int]]] = {}
        """What each exchange has to give back."""
        self._networks: Bounded[tuple[bytes, bytes], str] = Bounded(MOST)

    def take_up(self, config: Config, routes: Sequence[Route]) -> bool:
        """Go by these from now on. What was admitted before counts, since the keys stay the same.

        Returns:
            Whether the host has rates, which are charged at the entrance.
        """
        make = partial(Rule, self.limiter, self._concurrency)
        self.host = HostRules(config.limits, make)
        ahead = any(rule is not None and rule.rate for rule in (self.host.everybody, self.host.per_ip))
        for route, section in zip(routes, config.routes, strict=True):
            route.is_limited_ahead = ahead
            check = LimitCheck(self, RouteRules(section, make), route.meters.limited)
            route.limits = check if check.asks else None
        return ahead

    def network(self, client: ClientConnection, template: RequestTemplate) -> str:
        """Where a request comes from, seen through trusted proxies."""
        key = client.address, template.chain
        if len(template.chain) > LONGEST_KEPT:
            return network_of(client.name(template))
        return self._networks.get(key) or self._networks.put(key, network_of(client.name(template)))

    def begin(
        self,
        exchange: Exchange,
        seats: Sequence[tuple[Seats, int]],
        charges: Sequence[tuple[Account, int]],
    ) -> Shortage | None:
        """Take seats and charge rates: all of it, or nothing.

        Raises:
            LockBusyError: It cannot be told yet; nothing was taken.
        """
        taken: list[tuple[int, int]] = []
        shortage = None
        try:
            for seat, count in seats:
                place = self._concurrency.take(seat, count)
                if place is None:
                    shortage = Shortage(seat.tier, seat.limit, None, 0, count > seat.limit.concurrent)
                    break
                taken.append((place, count))
            if shortage is None and charges:
                shortage = self.limiter.charge_many(charges, self.clock())
        except LockBusyError:
            self._give_back(taken)
            raise
        if shortage is not None:
            self._give_back(taken)
        elif taken:
            self._held[exchange] = taken
        return shortage

    def end(self, exchange: Exchange) -> None:
        """A request is no longer under way."""
        self._give_back(self._held.pop(exchange, _NOTHING))

    def _give_back(self, taken: Sequence[tuple[int, int]]) -> None:
        for place, count in taken:
            self._concurrency.give_back(place, count)
