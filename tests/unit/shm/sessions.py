"""What the tests of the session table share."""

from __future__ import annotations

from collections.abc import Callable

from shadowcat.config.model import Sessions
from shadowcat.config.units import Duration
from shadowcat.shm.region import Plan, Region
from shadowcat.shm.sessions import layout
from shadowcat.shm.sessions.owners import SECRET, Owners
from shadowcat.shm.sessions.record import SessionRecord, SessionState
from shadowcat.shm.sessions.table import Session, SessionTable

NS = 10**9
NOW = 1_000 * NS
IDLE = 60
END = NOW + 3_600 * NS
PARAMS = b'{"protocolVersion":"2025-11-25"}'


class Host:
    """A region with a table, and the tables of several processes on it (each with locks of its own)."""

    def __init__(self, capacity: int = 8, workers: int = 2, idle: float = IDLE) -> None:
        plan = Plan()
        plan.add(64)
        self.areas = layout.plan(plan, capacity, 2 + workers)
        self.region = Region(plan.size)
        Owners.seed(self.region, self.areas, bytes(range(SECRET)))
        self.section = Sessions(capacity=capacity, idle_timeout=Duration(idle))
        self.tables: list[SessionTable] = []

    def table(self, process: int, **more: Callable[[int], bytes]) -> SessionTable:
        table = SessionTable(self.region, self.areas, self.section, process, **more)
        self.tables.append(table)
        return table

    def close(self) -> None:
        for table in self.tables:
            table.close()
        self.region.close()


def record(upstream_id: bytes = b"upstream", owner: str = "10.0.0.1", **more: object) -> SessionRecord:
    return SessionRecord(
        key=b"", principal="anonymous", owner=owner, route="/mcp", row=0, generation=1,
        upstream_id=upstream_id, created_ns=NOW, state=SessionState.OPEN, **more,
    )  # type: ignore[arg-type]  # fmt: skip


def create(table: SessionTable, now: int = NOW, params: bytes = PARAMS, **fields: object) -> Session:
    slot = table.reserve(now)
    assert slot is not None
    return table.create(slot, record(**fields), params, END, now)  # type: ignore[arg-type]


def free_slots(table: SessionTable, now: int = NOW) -> list[int]:
    """All slots that can be had; they stay free."""
    found = []
    while (slot := table.reserve(now)) is not None:
        found.append(slot)
    for slot in found:
        table.unreserve(slot)
    return sorted(found)
