"""How far an exchange has come.

QUEUED --send--> SENT --open--> OPEN --end--> DONE
   |               |              |
   +---------------+--------------+-- refuse, cut_off, cancel --> DONE
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """How far an exchange has come."""

    QUEUED = "queued"
    """No connection yet: nothing of the request has left."""
    SENT = "sent"
    """The request was written; no part of an answer is there."""
    OPEN = "open"
    """The answer's head went to the client."""
    DONE = "done"
