"""Which tools exist for the callers of a route."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Final

from shadowcat.config.model import Tools
from shadowcat.mcp.envelope import LONGEST_KEPT
from shadowcat.policy.bounded import Bounded

_MOST_NAMES: Final = 4096


class ToolRules:
    """The `policy.tools` of a route, with what was found by it."""

    __slots__ = ("_allow", "_deny", "_known", "hides_any")

    def __init__(self, section: Tools | None) -> None:
        """Without a section every tool is shown."""
        self._deny = tuple(section.deny) if section is not None else ()
        self._allow = tuple(section.allow) if section is not None else ()
        self._known: Bounded[str, bool] = Bounded(_MOST_NAMES)
        self.hides_any = bool(self._deny or self._allow)
        """Whether there is anything to be asked."""

    def hides(self, name: str) -> bool:
        """Whether a tool is hidden. Letter case counts, as it does for servers."""
        found = self._known.get(name)
        if found is None:
            found = self._matches(name, self._deny) or bool(
                self._allow and not self._matches(name, self._allow)
            )
            if len(name) <= LONGEST_KEPT:
                self._known.put(name, found)
        return found

    @staticmethod
    def _matches(name: str, globs: tuple[str, ...]) -> bool:
        return any(fnmatchcase(name, glob) for glob in globs)
