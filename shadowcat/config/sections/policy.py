"""Who may do what on a route, once it is known who asks."""

from __future__ import annotations

from shadowcat.config.sections.base import Section
from shadowcat.config.units import Size


class Rule(Section, frozen=True, kw_only=True):
    """One rule: what it is about, when it holds, and what follows.

    `methods`, `tools`, `prompts` and `resources` say what it is about: whatever one of them names; without
    any of them it is about everything.
    """

    name: str
    """By which answers, logs and metrics call it; each rule has its own."""
    allow: bool
    """Whether a request for which it holds is carried out, or refused."""
    methods: list[str] = []
    """Patterns of JSON-RPC methods, such as tools/* ; GET and DELETE for requests without a message."""
    tools: list[str] = []
    """Patterns of the names of tools: calls of these."""
    prompts: list[str] = []
    """Patterns of the names of prompts: the getting of these."""
    resources: list[str] = []
    """Patterns of the URIs of resources: reading these, and subscribing to them."""
    when: str | None = None
    """A condition in CEL that must be true besides; default: none."""
    scopes: list[str] = []
    """What the token must allow besides, all of them. A token without them is told to get them (403,
    insufficient_scope); later rules are not asked."""


class Tools(Section, frozen=True, kw_only=True):
    """Which tools there are for a route's callers. A hidden one is on no list, and unknown if called."""

    deny: list[str] = []
    """Globs (*, ?, [abc]; letter case counts) of names that are hidden, whatever `allow` says."""
    allow: list[str] = []
    """Globs of names that are shown; all others are hidden. Default: all are shown but those of `deny`."""


class Policy(Section, frozen=True, kw_only=True):
    """What callers may do on a route."""

    rules: list[Rule] | None = None
    """The first that holds decides; what no rule allows is refused. Default: callers may do everything."""
    dry_run: bool = False
    """Carry out what the rules refuse, too, and log it."""
    roles_claim: str = "roles"
    """The claim that `roles` comes from; dots lead into it, as in realm_access.roles."""
    arguments_limit: Size = Size(64 * 2**10)
    """Largest message that conditions look into. With a larger one, a rule that does look cannot allow it,
    and one that denies holds."""
    tools: Tools | None = None
    """Off by default: every tool is shown. It only hides: whether what is shown may be called, the rules say,
    if there are any."""
