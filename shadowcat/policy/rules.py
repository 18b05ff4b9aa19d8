"""The rules of a route: what a caller may do.

Rules are asked in their order. The first one that is about the request and whose condition is true decides;
what none decides is refused. A condition that cannot be evaluated (a claim that is not there, a message that
cannot be read reliably) never opens a door: a rule that allows does not hold then, and one that denies does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from fnmatch import translate
from typing import Any, Final

from shadowcat.config.conditions import NAMES, Condition, compile_condition, is_cut_short
from shadowcat.config.model import Policy, Rule
from shadowcat.config.rules import DEFAULT, SUBJECTS
from shadowcat.mcp.envelope import LONGEST_KEPT
from shadowcat.mcp.methods import REQUESTS
from shadowcat.mcp.methods import SUBJECTS as SUBJECT_OF
from shadowcat.policy.asked import MOST_OF_ALL, Asked, Caller, Verdict
from shadowcat.policy.bounded import Bounded

_BODILESS: Final = ("GET", "DELETE")
_OF_CALLER: Final = frozenset(
    {"claims", "client_id", "issuer", "principal", "roles", "route", "scopes", "subject"}
)
"""The variables that are the same in all requests of one caller."""
_MOST_SUBJECTS: Final = 1024
"""Of as many methods and names it is kept which rules are about them."""


class Finding(Enum):
    """What became of one rule."""

    OTHER = "is about something else"
    FALSE = "its condition is false"
    UNKNOWN = "its condition cannot be evaluated"
    SCOPES = "holds, but the token lacks scopes"
    HOLDS = "holds"


class _Rule:
    """One rule, ready to be asked."""

    __slots__ = ("_is_personal", "_subjects", "allow", "condition", "name", "scopes", "verdict")

    def __init__(self, section: Rule) -> None:
        self.name = section.name
        self.allow = section.allow
        self.scopes = tuple(section.scopes)
        self.verdict = Verdict(section.allow, section.name)
        """If it decides, and not for want of scopes."""
        self.condition: Condition | None = None
        if section.when is not None:
            self.condition = compile_condition(section.when)
        self._is_personal = self.uses <= _OF_CALLER
        self._subjects = {key: _any_of(patterns) for key in SUBJECTS if (patterns := getattr(section, key))}
        """What it is about; empty: everything."""

    @property
    def looks_at_names(self) -> bool:
        """Whether requests of the same method may differ to it."""
        return bool(self._subjects.keys() - {"methods"}) or bool(self.uses & NAMES)

    @property
    def uses(self) -> frozenset[str]:
        """The variables of its condition."""
        return self.condition.uses if self.condition is not None else frozenset()

    def may_be_about(self, kind: str) -> bool:
        """Whether any request of a method (or without a message, of an HTTP method) is its business."""
        return not self._subjects or self._names_method(kind) or SUBJECT_OF.get(kind) in self._subjects

    def examine(self, asked: Asked, caller: Caller) -> Finding:
        """See what it says about a request."""
        try:
            if not self.is_about(asked):
                return Finding.OTHER
        except ValueError:
            return Finding.UNKNOWN
        return self.weigh(asked, caller)

    def weigh(self, asked: Asked, caller: Caller) -> Finding:
        """See what it says about a request that it is about."""
        condition = self.condition
        if condition is not None:
            try:
                holds = self._holds(condition, asked, caller)
            except ValueError:
                holds = None
            if not holds:
                return Finding.UNKNOWN if holds is None else Finding.FALSE
        return Finding.HOLDS if caller.scopes.issuperset(self.scopes) else Finding.SCOPES

    def _holds(self, condition: Condition, asked: Asked, caller: Caller) -> bool | None:
        known = caller.facts
        if not self._is_personal:
            return condition.holds(
                {name: known[name] if name in known else asked.fact(name) for name in condition.uses}
            )
        found = caller.found
        if condition not in found:
            found[condition] = condition.holds({name: known[name] for name in condition.uses})
        return found[condition]

    def _names_method(self, kind: str) -> bool:
        methods = self._subjects.get("methods")
        return methods is not None and methods.match(kind) is not None

    def is_about(self, asked: Asked) -> bool:
        """Whether a request is its business.

        Raises:
            ValueError: That cannot be told reliably.
        """
        if not self._subjects or self._names_method(asked.kind):
            return True
        subject = asked.subject
        patterns = self._subjects.get(subject) if subject is not None else None
        if patterns is None:
            return False
        matches = [patterns.match(name) is not None for name in asked.names()]
        # Of several, all have to be allowed, and one that is denied is enough.
        return bool(matches) and all(matches) if self.allow else any(matches)


def _any_of(patterns: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(translate, patterns)))


_Step = tuple[int, _Rule, Callable[[Asked, Caller], Finding]]


class RuleSet:
    """All rules of a route, compiled once."""

    __slots__ = (
        "_about_it",
        "_all",
        "_facts",
        "_kept",
        "_roles",
        "_rules",
        "_scopes",
        "looks_at_address",
        "looks_at_names",
    )

    def __init__(self, route: str, policy: Policy, scopes: Sequence[str]) -> None:
        """Compile.

        Args:
            route: The route's path.
            policy: Its section, which was checked, and has rules.
            scopes: What each token of the route must allow.
        """
        self._rules = [_Rule(rule) for rule in policy.rules or ()]
        self._all: list[_Step] = [(number, rule, rule.examine) for number, rule in enumerate(self._rules)]
        self._about_it: list[_Step] = [(number, rule, rule.weigh) for number, rule in enumerate(self._rules)]
        """The same, for requests that they are about."""
        self._kept: Bounded[tuple[str, str], list[_Step]] = Bounded(_MOST_SUBJECTS)
        self._facts = {"route": route}
        self._roles = policy.roles_claim
        self._scopes = tuple(scopes)
        self.looks_at_names = any(rule.looks_at_names for rule in self._rules)
        """Whether the same verdict need not hold for another tool, prompt or resource."""
        self.looks_at_address = any("client" in rule.uses for rule in self._rules)
        """Whether the same verdict need not hold for another client address."""

    def caller(self, principal: str, scopes: frozenset[str], claims: Mapping[str, Any]) -> Caller:
        """Somebody who asks; `claims` are those of the token, none where nobody authenticates."""
        subject, issuer = claims.get("sub", ""), claims.get("iss", "")
        client = claims.get("client_id", claims.get("azp", ""))
        facts = self._facts | {
            "claims": claims,
            "scopes": sorted(scopes),
            "roles": _roles(claims, self._roles),
            "principal": principal,
            "subject": subject,
            "client_id": client,
            "issuer": issuer,
        }
        if is_cut_short(facts):
            facts = {name: value if not is_cut_short(value) else None for name, value in facts.items()}
        return Caller(self, scopes, facts)

    def anybody(self, principal: str) -> Caller:
        """Whoever asks, where nobody authenticates, and all are called `principal`."""
        facts = self.caller(principal, frozenset(), {}).facts
        return Caller(self, frozenset(), facts, MOST_OF_ALL)

    def decide(self, asked: Asked, caller: Caller) -> Verdict:
        """Whether a request may be carried out."""
        for number, rule, look in self._steps(asked):
            finding = look(asked, caller)
            if finding is Finding.HOLDS:
                return rule.verdict
            if finding is Finding.SCOPES:
                return Verdict(False, rule.name, self._wanted(number, asked, caller))
            if finding is Finding.UNKNOWN and not rule.allow:
                return rule.verdict
        return Verdict(False, DEFAULT)

    def explain(self, asked: Asked, caller: Caller) -> Iterator[tuple[str, Finding]]:
        """What each rule says about a request, those included that come after the one that decides."""
        for rule in self._rules:
            yield rule.name, rule.examine(asked, caller)

    def out_of_reach(self) -> list[str]:
        """The methods of MCP, and of HTTP, that no rule allows to anybody."""
        allowing = [rule for rule in self._rules if rule.allow]
        return [
            kind for kind in (*REQUESTS, *_BODILESS) if not any(rule.may_be_about(kind) for rule in allowing)
        ]

    def _steps(self, asked: Asked) -> list[_Step]:
        """The rules to be asked, in their order, each with the way to do so."""
        about = asked.outside
        if about is None:
            return self._all
        steps = self._kept.get(about)
        if steps is None:
            steps = [step for step in self._about_it if step[1].is_about(asked)]
            if len(about[0]) + len(about[1]) <= LONGEST_KEPT:
                self._kept.put(about, steps)
        return steps

    def _wanted(self, number: int, asked: Asked, caller: Caller) -> tuple[str, ...]:
        """All scopes by which rules from this one on would allow it, and those of the route: a client that
        gets a new token for these alone has to keep those it had, and one more step is to be enough.
        """
        wanted = dict.fromkeys(self._scopes)
        for rule in self._rules[number:]:
            finding = rule.examine(asked, caller)
            if finding in (Finding.HOLDS, Finding.SCOPES):
                if not rule.allow:
                    break
                wanted |= dict.fromkeys(rule.scopes)
            elif finding is Finding.UNKNOWN and not rule.allow:
                break
        return tuple(wanted)


def _roles(claims: Mapping[str, Any], path: str) -> list[str]:
    """The roles that a token names; none if it has no such claim, or another kind of value there."""
    found: Any = claims.get(path)
    if found is None:
        found = claims
        for step in path.split("."):
            found = found.get(step) if isinstance(found, dict) else None
    if isinstance(found, str):
        return [found]
    if not isinstance(found, list):
        return []
    return [role for role in found if isinstance(role, str)]
