"""How far a client connection has come."""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """What the connection is doing.

    READING -whole request-> ANSWERING -answer-> READING
    A last answer, own or relayed, leads to LINGERING, and that to CLOSED.
    """

    READING = "reading"
    ANSWERING = "answering"
    """A request is being answered, or its token judged; what arrives now belongs to the next one."""
    LINGERING = "lingering"
    """The last answer is out, what still arrives is discarded: closing at once would reset the connection
    and could destroy the answer (RFC 9112 section 9.6)."""
    CLOSED = "closed"
