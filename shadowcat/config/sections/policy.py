"""What the callers of a route may do, beyond having got in."""

from __future__ import annotations

from shadowcat.config.sections.base import Section


class Tools(Section, frozen=True, kw_only=True):
    """Which tools there are for a route's callers. A hidden one is on no list, and unknown if called."""

    deny: list[str] = []
    """Globs (*, ?, [abc]; letter case counts) of names that are hidden, whatever `allow` says."""
    allow: list[str] = []
    """Globs of names that are shown; all others are hidden. Default: all are shown but those of `deny`."""


class Policy(Section, frozen=True, kw_only=True):
    """What the callers of a route may do."""

    tools: Tools | None = None
    """Off by default: every tool is shown. It only hides: who may use the route may call what is shown."""
