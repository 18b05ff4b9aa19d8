"""What is known about each upstream, for all processes: one row per upstream, by the row's number.

    line    word    field           writers
    header  0       epoch           whoever changed something below that the choice of an upstream depends on
    row     0       session ids     workers: 0 unknown, 1 the upstream issues session ids, 2 it does not
            1       era             control: what a health check has found out, 0 unknown
            2       health          control (policy/health.py)
            3       ejection        any worker, and control, under the lock of the header (policy/outlier.py)
    row+1   0-9     breaker         any worker, under the lock of this line (policy/breaker.py)
            10-15   (unused)

A field is one word, so that it can be read without a lock. Who has changed one that others have to look at
stores a new epoch afterwards: every request compares it with the one it knows.
"""

from __future__ import annotations

import time
from typing import Final

from shadowcat.mcp.eras import Era
from shadowcat.policy.breaker import ROW_WORDS as BREAKER_WORDS
from shadowcat.shm.region import LINE, WORD, Area, Plan, Region

_LINE_WORDS: Final = LINE // WORD
_ROW_LINES: Final = 1 + -(-BREAKER_WORDS // _LINE_WORDS)
_ROW_WORDS: Final = _ROW_LINES * _LINE_WORDS
_ISSUES_IDS: Final = 0
_ERA: Final = 1
_HEALTH: Final = 2
_EJECTION: Final = 3
_ISSUES: Final = 1
_DOES_NOT: Final = 2
_ERAS: Final = (frozenset(Era), frozenset({Era.LEGACY}), frozenset({Era.MODERN}), frozenset(Era))
"""By the word: unknown, legacy, modern, dual."""
_PROCESS: Final = 0xFF


class Board:
    """The rows of all upstreams."""

    __slots__ = ("_offset", "_words", "epoch", "rows")

    def __init__(self, region: Region, area: Area, rows: int) -> None:
        self.rows = rows
        self._offset = area.offset
        self._words = region.words(area.offset, area.length // WORD)
        self.epoch = self._words[:1]
        """One word; another value than before means that something has changed."""

    @staticmethod
    def plan(plan: Plan, rows: int) -> Area:
        """Set the memory aside for `rows` upstreams."""
        return plan.add((1 + rows * _ROW_LINES) * LINE)

    def changed(self, process: int) -> None:
        """Tell all processes that there is something to look at; call it after the change.

        Two who do so at the same time may lose one of the two values, but not the news.
        """
        self.epoch[0] = time.monotonic_ns() << 8 | process & _PROCESS

    # Words of a row.

    def issues_ids(self, row: int) -> bool | None:
        """Whether the upstream answers `initialize` with a session id; None: not known yet."""
        word = self._words[self._base(row) + _ISSUES_IDS]
        return word == _ISSUES if word else None

    def set_issues_ids(self, row: int, issues: bool) -> None:
        """Note what a 2xx answer to `initialize` showed."""
        self._set(self._base(row) + _ISSUES_IDS, _ISSUES if issues else _DOES_NOT)

    def eras(self, row: int) -> frozenset[Era]:
        """What the upstream speaks, as far as that was found out: as long as nothing is known, all."""
        return _ERAS[self._words[self._base(row) + _ERA]]

    def set_eras(self, row: int, eras: frozenset[Era]) -> None:
        """Note what an upstream was found to speak."""
        self._set(self._base(row) + _ERA, _ERAS.index(eras, 1))

    def health(self, row: int) -> int:
        """The word of policy/health.py; 0: never checked."""
        return self._words[self._base(row) + _HEALTH]

    def set_health(self, row: int, word: int) -> None:
        """Store the word of policy/health.py; for control."""
        self._words[self._base(row) + _HEALTH] = word

    def ejection(self, row: int) -> int:
        """The word of policy/outlier.py; 0: never ejected."""
        return self._words[self._base(row) + _EJECTION]

    def set_ejection(self, row: int, word: int) -> None:
        """Store the word of policy/outlier.py, holding the lock `ejection_line`."""
        self._words[self._base(row) + _EJECTION] = word

    def breaker(self, row: int) -> memoryview:
        """The words of policy/breaker.py; to be written under the lock `breaker_line`."""
        first = self._base(row) + _LINE_WORDS
        return self._words[first : first + BREAKER_WORDS]

    def clear(self, row: int) -> None:
        """The row is another upstream's from now on; for control, while no worker uses it."""
        base = self._base(row)
        for word in (_ISSUES_IDS, _ERA, _HEALTH, _EJECTION):
            self._words[base + word] = 0

    # Lock lines.

    @property
    def ejection_line(self) -> int:
        """Of all ejections: how many there may be depends on all rows of a route."""
        return self._offset

    def breaker_line(self, row: int) -> int:
        """Of one breaker."""
        return self._offset + (self._base(row) + _LINE_WORDS) * WORD

    def _base(self, row: int) -> int:
        return _LINE_WORDS + row * _ROW_WORDS

    def _set(self, number: int, value: int) -> None:
        if self._words[number] != value:  # The line stays shared by all caches as long as nothing changes.
            self._words[number] = value
