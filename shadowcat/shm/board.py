"""What is known about each upstream, for all processes: one row per upstream, in the order of the config.

    word    field           writers
    0       session ids     workers: 0 unknown, 1 the upstream issues session ids, 2 it does not

A row is one word, and every writer stores what it saw last: no lock is needed.
"""

from __future__ import annotations

from typing import Final

from shadowcat.shm.region import WORD, Area, Plan, Region

_ISSUES: Final = 1
_DOES_NOT: Final = 2


class Board:
    """The rows of all upstreams."""

    __slots__ = ("_words", "rows")

    def __init__(self, region: Region, area: Area, rows: int) -> None:
        self.rows = rows
        self._words = region.words(area.offset, rows)

    @staticmethod
    def plan(plan: Plan, rows: int) -> Area:
        """Set the memory aside for `rows` upstreams."""
        return plan.add(rows * WORD)

    def issues_ids(self, row: int) -> bool | None:
        """Whether the upstream answers `initialize` with a session id; None: not known yet."""
        word = self._words[row]
        return word == _ISSUES if word else None

    def set_issues_ids(self, row: int, issues: bool) -> None:
        """Note what a 2xx answer to `initialize` showed."""
        word = _ISSUES if issues else _DOES_NOT
        if self._words[row] != word:  # The line stays shared by all caches as long as nothing changes.
            self._words[row] = word
