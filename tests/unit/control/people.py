"""Sessions as a worker would make them."""

from __future__ import annotations

import time

from shadowcat.shm.sessions.record import SessionRecord, SessionState
from shadowcat.shm.sessions.table import Session, SessionTable

SECOND = 10**9
PARAMS = b'{"clientInfo":{"name":"secret-client"}}'
UPSTREAM_ID = b"secret-upstream-id"


def opened(
    table: SessionTable, now_ns: int | None = None, lifetime: float = 3600.0, **fields: object
) -> Session:
    """An open session whose hard end is `lifetime` seconds after `now_ns` (the present)."""
    now = time.monotonic_ns() if now_ns is None else now_ns
    record = SessionRecord(
        **{
            "key": b"",
            "principal": "anonymous",
            "owner": "192.0.2.7",
            "route": "/mcp",
            "row": 0,
            "generation": 1,
            "upstream_id": UPSTREAM_ID,
            "created_ns": now,
            "state": SessionState.OPEN,
            "version": "2025-06-18",
            **fields,
        }
    )
    slot = table.reserve(now)
    assert slot is not None
    return table.create(slot, record, PARAMS, now + round(lifetime * SECOND), now)
