"""Whose limits a request counts against: keys by who asks, and for what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Final

from msgspec import Struct

from shadowcat.config import model
from shadowcat.config.units import Limit
from shadowcat.mcp.envelope import LONGEST_KEPT
from shadowcat.policy.bounded import Bounded
from shadowcat.policy.gcra import Rate
from shadowcat.shm.concurrency import Concurrency, Seats
from shadowcat.shm.limiter import Account, Limiter, Tier

MOST: Final = 16_384
"""Keys that a worker knows at a time; what it has forgotten it looks up anew."""


class Bill(Struct, frozen=True, gc=False):
    """What one request is charged to."""

    accounts: tuple[Account, ...]
    """Of rates."""
    seats: tuple[Seats, ...]
    """Of limits on what is under way."""


class Rule:
    """One limit of the configuration, and the accounts of its keys."""

    __slots__ = ("_accounts", "_concurrency", "_limiter", "_scope", "_seats", "limit", "rate", "tier")

    def __init__(
        self, limiter: Limiter, concurrency: Concurrency, tier: Tier, limit: Limit, scope: str = ""
    ) -> None:
        """`scope` tells the limit from others of its tier: the same key in another one is another."""
        self._limiter = limiter
        self._concurrency = concurrency
        self.tier = tier
        self.limit = limit
        self.rate = Rate(limit) if limit.count else None
        raw = scope.encode()
        self._scope = b"%d:%b" % (len(raw), raw)
        self._accounts: Bounded[str, Account] = Bounded(MOST)
        self._seats: Bounded[str, Seats] = Bounded(MOST)

    def account(self, key: str = "") -> Account | None:
        """The account of a key, which is one object as long as it is known; None if there is no rate."""
        if self.rate is None:
            return None
        found = self._accounts.get(key)
        if found is None:
            found = self._limiter.account(self.tier, self.limit, self.rate, self._text(key))
            self._accounts.put(key, found)
        return found

    def seats(self, key: str = "") -> Seats | None:
        """The seats of a key; None if any number may be under way."""
        if not self.limit.concurrent:
            return None
        found = self._seats.get(key)
        if found is None:
            found = self._seats.put(key, self._concurrency.seats(self.tier, self.limit, self._text(key)))
        return found

    def _text(self, key: str) -> bytes:
        return self._scope + key.encode("utf-8", "surrogatepass")


class HostRules:
    """The limits of the host."""

    __slots__ = ("everybody", "per_ip")

    def __init__(self, section: model.Limits, make: Callable[[Tier, Limit], Rule]) -> None:
        """`make` makes a rule."""
        self.everybody = None if section.global_ is None else make(Tier.GLOBAL, section.global_)
        self.per_ip = None if section.per_ip is None else make(Tier.PER_IP, section.per_ip)

    def accounts(self, network: str) -> tuple[Account, ...]:
        """What a message from a network is charged to."""
        found = (
            self.everybody.account() if self.everybody is not None else None,
            self.per_ip.account(network) if self.per_ip is not None else None,
        )
        return tuple(account for account in found if account is not None)

    def seats(self, network: str) -> tuple[Seats, ...]:
        """Where a request from a network takes its seats."""
        found = (
            self.everybody.seats() if self.everybody is not None else None,
            self.per_ip.seats(network) if self.per_ip is not None else None,
        )
        return tuple(seats for seats in found if seats is not None)


class RouteRules:
    """The limits of a route."""

    __slots__ = ("_named", "patterns", "per_session", "per_user", "route")

    def __init__(self, section: model.Route, make: Callable[[Tier, Limit, str], Rule]) -> None:
        """`make` makes a rule of a scope."""
        limits, path = section.limits or model.RouteLimits(), section.path
        self.route = None if limits.route is None else make(Tier.ROUTE, limits.route, path)
        self.per_user = None if limits.per_user is None else make(Tier.PER_USER, limits.per_user, path)
        self.per_session = (
            None if limits.per_session is None else make(Tier.PER_SESSION, limits.per_session, path)
        )
        self.patterns: Mapping[str, Rule] = {
            pattern: make(Tier.PER_TOOL, limit, f"{path} {pattern}")
            for pattern, limit in limits.per_tool.items()
        }
        self._named: Bounded[str, tuple[Rule, ...]] = Bounded(MOST)

    def rules(self) -> list[Rule]:
        """All of them."""
        single = (self.route, self.per_user, self.per_session)
        return [*(rule for rule in single if rule is not None), *self.patterns.values()]

    @property
    def depend_on_nobody(self) -> bool:
        """Whether all requests are charged to the same."""
        return self.per_user is None and self.per_session is None and not self.patterns

    def of_tool(self, name: str) -> tuple[Rule, ...]:
        """Those of a tool."""
        found = self._named.get(name)
        if found is None:
            rules = tuple(rule for glob, rule in self.patterns.items() if fnmatchcase(name, glob))
            if len(name) > LONGEST_KEPT:
                return rules
            found = self._named.put(name, rules)
        return found

    def bill(self, who: str | None, session: str | None, tools: tuple[Rule, ...]) -> Bill:
        """What a request is charged to.

        Args:
            who: The principal, or the network of an unknown client; None for what no user is charged.
            session: Of which session it is.
            tools: Those of the tool that it calls.
        """
        keyed: list[tuple[Rule | None, str]] = [(self.route, "")]
        if who is not None:
            keyed.append((self.per_user, who))
        if session is not None:
            keyed.append((self.per_session, session))
        if who is not None:
            keyed += [(rule, who) for rule in tools]
        accounts = [rule.account(key) for rule, key in keyed if rule is not None]
        seats = [rule.seats(key) for rule, key in keyed if rule is not None]
        return Bill(
            tuple(account for account in accounts if account is not None),
            tuple(seat for seat in seats if seat is not None),
        )
