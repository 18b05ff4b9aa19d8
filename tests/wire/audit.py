"""What a worker has recorded in the audit trail: the test plays control."""

from __future__ import annotations

import json
from typing import Any, Final

from shadowcat.config.model import Audit
from shadowcat.shm.rings import Ring

from .stage import Stage

AUDIT: Final = Audit(path="never-written-here")
MEMBERS: Final = [
    "time", "id", "event", "outcome", "reason", "request_id", "trace_id", "rpc_id", "session", "principal",
    "client", "http", "method", "tool", "status", "seconds", "route", "upstream", "worker", "data",
]  # fmt: skip
_EVERYTHING: Final = 1 << 30


def ring_of(proxy: Stage, slot: int = 0) -> Ring:
    """A worker's ring."""
    return proxy._shared.rings()[slot + 1]


def lines(proxy: Stage) -> list[bytes]:
    """What was recorded since the last look, in bytes."""
    ring = ring_of(proxy)
    taken = ring.read(_EVERYTHING)
    ring.release(taken.position)
    return taken.records


def events(proxy: Stage, *kinds: str) -> list[dict[str, Any]]:
    """What was recorded since the last look; of these kinds, or of all."""
    found = []
    for line in lines(proxy):
        assert line.endswith(b"}\n")
        event = json.loads(line)
        assert list(event) == MEMBERS
        if not kinds or event["event"] in kinds:
            found.append(event)
    return found


def one(proxy: Stage, *kinds: str) -> dict[str, Any]:
    """The only event since the last look."""
    (event,) = events(proxy, *kinds)
    return event


def briefly(found: list[dict[str, Any]], *members: str) -> list[tuple[Any, ...]]:
    """Event and outcome, and further members."""
    return [tuple(event[name] for name in ("event", "outcome", *members)) for event in found]
