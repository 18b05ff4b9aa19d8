"""Whether the policy of a route can be used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from shadowcat.config.access import authenticates, scope_problems
from shadowcat.config.conditions import ConditionError, compile_condition
from shadowcat.config.model import Policy, Route, Rule

DEFAULT: Final = "default"
"""What answers and logs call the refusal of what no rule allows."""
LONGEST_NAME: Final = 64
MOST_RULES: Final = 256
_SAID_BY_TOKENS: Final = frozenset({"claims", "client_id", "issuer", "roles", "scopes", "subject"})
"""Variables of conditions that are empty where no token is verified."""
SUBJECTS: Final = ("methods", "tools", "prompts", "resources")
"""The keys that say what a rule is about."""


def has_rules(route: Route) -> bool:
    """Whether requests of the route are judged by rules."""
    return route.policy is not None and route.policy.rules is not None


def policy_problems(path: str, route: Route) -> Iterator[str]:
    """Every problem of a route's `policy` section, as ``path: what is wrong``."""
    policy = route.policy
    assert policy is not None
    if policy.rules is None:
        for key in ("dry_run", "roles_claim", "arguments_limit"):
            if getattr(policy, key) != getattr(Policy(), key):
                yield f"{path}.{key}: there are no rules that go by it: add rules, or remove it"
        return
    if not policy.rules:
        yield f"{path}.rules: without any rule nobody could do anything: write one, or remove the key"
    if len(policy.rules) > MOST_RULES:
        yield f"{path}.rules: {len(policy.rules)} are too many for each request: at most {MOST_RULES}"
    if not all(policy.roles_claim.split(".")):
        yield f"{path}.roles_claim: {policy.roles_claim!r} is no claim: write one such as realm_access.roles"
    seen: dict[str, str] = {}
    for i, rule in enumerate(policy.rules):
        where = f"{path}.rules[{i}]"
        yield from _rule(where, rule, authenticates(route))
        if rule.name in seen:
            yield f"{where}.name: {rule.name} is already the name of {seen[rule.name]}: give each its own"
        seen.setdefault(rule.name, where)


def _rule(path: str, rule: Rule, has_tokens: bool) -> Iterator[str]:
    if not 0 < len(rule.name) <= LONGEST_NAME or not rule.name.isprintable():
        yield f"{path}.name: 1 to {LONGEST_NAME} printable characters"
    elif rule.name == DEFAULT:
        yield f"{path}.name: {DEFAULT} is what the refusal without any rule is called: choose another name"
    for key in SUBJECTS:
        for j, pattern in enumerate(getattr(rule, key)):
            if not pattern:
                yield f"{path}.{key}[{j}]: an empty pattern is like nothing: remove it, or write * for all"
    if rule.when is not None:
        try:
            uses = compile_condition(rule.when).uses
        except ConditionError as error:
            yield f"{path}.when: {error}"
        else:
            said = sorted(uses & _SAID_BY_TOKENS)
            if said and not has_tokens:
                # "subject != 'mallory'" would be true of everybody.
                yield (
                    f"{path}.when: no token is verified on this route, so there is nothing in"
                    f" {' and '.join(said)}: give it an auth section (mode: resource), or leave them out"
                )
    yield from scope_problems(f"{path}.scopes", rule.scopes)
    if rule.scopes and not rule.allow:
        yield f"{path}.scopes: a rule that denies needs no scopes: remove them, or deny by when"
    elif rule.scopes and not has_tokens:
        yield f"{path}.scopes: no token is verified on this route: give it an auth section, or remove them"
