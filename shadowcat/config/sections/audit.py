"""The section of the audit file."""

from __future__ import annotations

from typing import Literal

from shadowcat.config.sections.base import Section
from shadowcat.config.units import Size

AuditEvent = Literal[
    "authentication",
    "login",
    "policy",
    "limit",
    "session",
    "recovery",
    "breaker",
    "config",
    "tool_call",
    "refusal",
]


class Audit(Section, frozen=True, kw_only=True):
    """A line of JSON per event that matters for security. SIGUSR1 opens the file anew."""

    path: str
    """The file to append to; it is made with mode 0600."""
    overflow: Literal["drop", "refuse"] = "drop"
    """When there is no room for a request's lines, because the file cannot be written fast enough or at all:
    carry it out and count what is lost, or refuse it (503)."""
    capacity: Size = Size(4 * 2**20)
    """Memory of each worker for lines that are not in the file yet. With `overflow: refuse` it also bounds
    the requests of a worker that are under way: one for each 2 KiB."""
    events: list[AuditEvent] | None = None
    """Which events are recorded; all by default."""
