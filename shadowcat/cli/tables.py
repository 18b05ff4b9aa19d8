"""How the commands print tables."""

from __future__ import annotations

import sys
from typing import Final

from rich.console import Console
from rich.table import Table

_PIPED_WIDTH: Final = 200
"""Columns where there is no terminal: rows that are not folded can be cut and grepped."""
_WORDS: Final = (
    "state", "statuses", "route", "upstream", "principal", "owner", "version", "era", "credential", "url",
    "tier", "tools", "limit",
)  # fmt: skip
"""Columns of text; all others hold numbers."""


def console() -> Console:
    """Where tables go. What is printed is text, whatever brackets the names in it have."""
    width = None if sys.stdout.isatty() else _PIPED_WIDTH
    return Console(markup=False, emoji=False, highlight=False, width=width)


def table(title: str, *columns: str) -> Table:
    """An empty table; the first column has the title for its head."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    made.add_column(title)
    for column in columns:
        made.add_column(column, justify="left" if column in _WORDS else "right")
    return made


def span(seconds: float | None) -> str:
    """A length of time in its two largest units."""
    if seconds is None:
        return "-"
    rest = int(seconds)
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, length)
        if count or parts or unit == "s":
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])
