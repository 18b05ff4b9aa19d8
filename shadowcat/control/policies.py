"""Saying what the rules of routes keep everybody from: the first rule closes all other doors."""

from __future__ import annotations

import logging

from shadowcat.config.model import Route
from shadowcat.config.rules import has_rules
from shadowcat.config.seats import Snapshot
from shadowcat.policy.rules import RuleSet

LOGGER = logging.getLogger(__name__)


class PolicyNotices:
    """Says it once for each set of rules."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def configure(self, snapshot: Snapshot) -> None:
        """Go by this snapshot from now on."""
        said = {route.path: notice(route) for route in snapshot.config.routes if has_rules(route)}
        for path, text in said.items():
            if self._said.get(path) != text:
                LOGGER.info("%s: %s", path, text)
        self._said = said


def notice(route: Route) -> str:
    """What the rules of a route, which has some, keep everybody from."""
    policy = route.policy
    assert policy is not None
    closed = RuleSet(route.path, policy, ()).out_of_reach()
    verb = "would refuse (dry_run)" if policy.dry_run else "refuse"
    if not closed:
        return f"policy.rules {verb} whatever no rule allows; each method is allowed by some rule to somebody"
    return f"policy.rules {verb} {', '.join(closed)} to everybody, and whatever else no rule allows"
