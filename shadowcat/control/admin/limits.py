"""/api/limits: what is left of limits. Looking charges nothing, and takes no lock.

Keys are known by digests only, so nobody can list them: whose are wanted has to be said.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import orjson
from aiohttp import web

from shadowcat.config.access import authenticates
from shadowcat.control.present import Present
from shadowcat.policy.forwarded import network_of
from shadowcat.proxy.limits.accounts import HostRules, RouteRules, Rule
from shadowcat.shm.concurrency import Concurrency
from shadowcat.shm.limiter import TIERS, Limiter

_QUERY: Final = {"address", "principal"}


class LimitsApi:
    """Answers /api/limits."""

    def __init__(self, present: Present, limiter: Limiter, concurrency: Concurrency) -> None:
        self._present = present
        self._limiter = limiter
        self._concurrency = concurrency
        self._make = partial(Rule, limiter, concurrency)

    def routes(self) -> list[web.RouteDef]:
        """What to add to the application."""
        return [web.get("/api/limits", self._show)]

    async def _show(self, request: web.Request) -> web.Response:
        strange = request.query.keys() - _QUERY
        if strange:
            raise web.HTTPBadRequest(reason=f"unknown key {min(strange)}: known are address and principal")
        rows = list(self._rows(request.query.get("address"), request.query.get("principal")))
        return web.Response(body=orjson.dumps({"limits": rows}), content_type="application/json")

    def _rows(self, address: str | None, principal: str | None) -> Iterator[dict[str, Any]]:
        config = self._present.snapshot.config
        network = None if address is None else network_of(address)
        host = HostRules(config.limits, self._make)
        yield from self._row(None, host.everybody, "")
        yield from self._row(None, host.per_ip, network)
        for section in config.routes:
            rules = RouteRules(section, self._make)
            yield from self._row(section.path, rules.route, "")
            yield from self._row(section.path, rules.per_user, principal)
            is_known = authenticates(section)
            for pattern, rule in rules.patterns.items():
                yield from self._row(section.path, rule, principal if is_known else network, pattern)

    def _row(
        self, route: str | None, rule: Rule | None, key: str | None, pattern: str | None = None
    ) -> Iterator[dict[str, Any]]:
        """A limit, and what is left of it for a key; nothing if nobody asked for one."""
        if rule is None or key is None:
            return
        account, seats = rule.account(key), rule.seats(key)
        remaining = under_way = None
        if account is not None:
            remaining = account.rate.remaining(self._limiter.booked(account), time.monotonic_ns())
        if seats is not None:
            under_way = self._concurrency.under_way(seats)
        yield {
            "route": route,
            "tier": TIERS[rule.tier],
            "tools": pattern,
            "limit": str(rule.limit),
            "remaining": remaining,
            "under_way": under_way,
        }
