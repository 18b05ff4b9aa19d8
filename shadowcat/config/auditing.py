"""What the `audit` section must say. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from shadowcat.config.units import Size

if TYPE_CHECKING:
    from shadowcat.config.model import Audit

LEAST: Final = Size(64 * 2**10)
MOST: Final = Size(2**30)
"""Of each worker's memory for lines."""


def audit_problems(audit: Audit) -> Iterator[str]:
    """Every problem of the section, as ``path: what is wrong``."""
    if not audit.path or "\0" in audit.path:
        yield "audit.path: not the name of a file: write one"
    elif audit.path == "-":
        yield "audit.path: standard output is no place for it, as it may be anybody's: name a file"
    if not LEAST <= audit.capacity <= MOST:
        yield f"audit.capacity: {audit.capacity}: must be {LEAST} to {MOST}"
    if audit.events is not None:
        if not audit.events:
            yield "audit.events: nothing would be recorded: name at least one, or leave the key out for all"
        seen = set()
        for i, event in enumerate(audit.events):
            if event in seen:
                yield f"audit.events[{i}]: {event} stands twice"
            seen.add(event)
