"""Where a connection to an upstream is in its work."""

from __future__ import annotations

from enum import Enum


class Phase(Enum):
    """Where a connection is.

    CLOSED -connected-> IDLE -begin-> HEAD -final head-> BODY -end of body-> IDLE or CLOSED
    Any fault leads to CLOSED.
    """

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    CLOSED = "closed"
