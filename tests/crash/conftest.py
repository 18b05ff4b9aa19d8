from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import pytest
from msgspec.structs import replace

from shadowcat.config.model import Config, Route, Sessions, Upstream
from shadowcat.config.units import Duration
from shadowcat.shm.sessions.record import SessionRecord, SessionState
from shadowcat.shm.sessions.table import SessionTable
from shadowcat.shm.shared import Shared, worker_number

WORKERS = 4
LONG = 3_600 * 10**9


class Host:
    """The shared memory of a host without its processes."""

    def __init__(self, capacity: int, idle: float) -> None:
        upstream = Upstream(url="http://127.0.0.1:3001/mcp")
        sessions = Sessions(capacity=capacity, idle_timeout=Duration(idle))
        config = Config(workers=WORKERS, admin=None, routes=[Route(upstreams=[upstream])], sessions=sessions)
        self.shared = Shared.create(config)
        self.capacity = capacity
        self.tables: list[SessionTable] = []

    def table(self, process: int) -> SessionTable:
        table = self.shared.sessions_for(process)
        self.tables.append(table)
        return table

    def close(self) -> None:
        for table in self.tables:
            table.close()
        self.shared.close()


@pytest.fixture
def host() -> Iterator[Callable[..., Host]]:
    hosts: list[Host] = []

    def start(capacity: int = 8, idle: float = 1800) -> Host:
        hosts.append(Host(capacity, idle))
        return hosts[-1]

    yield start
    for one in hosts:
        one.close()


def record(name: str, value: int = 0, owner: str = "10.0.0.1") -> SessionRecord:
    """A record in which every field tells the same story."""
    return SessionRecord(
        key=b"",
        principal=f"{name}/{value}",
        owner=owner,
        route=f"/{name}",
        row=value % 7,
        generation=value,
        upstream_id=name.encode() * 3,
        created_ns=value,
        state=SessionState.OPEN,
        version=str(value),
        capabilities=tuple(f"{name}.{value}.{index}" for index in range(value % 8)),
        log_level=name,
    )


def same_story(found: SessionRecord) -> tuple[str, int]:
    """The name and the value of a record made by `record`; fails if its fields contradict each other."""
    name, value = found.log_level, found.created_ns
    # `recoverable` says whether there was a block left.
    expected = replace(record(name, value, found.owner), key=found.key, recoverable=found.recoverable)
    assert found == expected, f"torn: {found}"
    return name, value


def one_more(was: SessionRecord) -> SessionRecord:
    """The record with its value increased by 1."""
    name, value = same_story(was)
    return replace(record(name, value + 1, was.owner), key=was.key, recoverable=was.recoverable)


def check_whole(table: SessionTable, expected: dict[bytes, tuple[str, int]]) -> None:
    """After a full sweep: exactly the expected sessions, exact counts, and every other slot can be had."""
    now = time.monotonic_ns()
    assert table.sweep(0, table.capacity, now) == []
    table.recount()
    found = {session.id: same_story(session.record) for session in table.live(0, table.capacity)}
    assert found == expected
    owners: dict[str, int] = {}
    for session in table.live(0, table.capacity):
        owners[session.record.owner] = owners.get(session.record.owner, 0) + 1
    for owner in owners.keys() | {"10.0.0.1", "10.0.0.2"}:
        assert table.owned_by(owner) == owners.get(owner, 0)
    blocks = {block for block, _ in table._blocks.taken()}
    assert len(blocks) == sum(count_blocks(table, session) for session in table.live(0, table.capacity))
    free = []
    while (slot := table.reserve(now)) is not None:
        free.append(slot)
    assert sorted(free + [session.slot for session in table.live(0, table.capacity)]) == list(
        range(table.capacity)
    )
    for slot in free:
        table.unreserve(slot)


def count_blocks(table: SessionTable, session) -> int:  # type: ignore[no-untyped-def]
    params = table.params(session)
    return bool(params is not None and len(params) > 464) + bool(table.subscriptions(session))


FIRST, SECOND = worker_number(0), worker_number(1)
seed = int(os.environ.get("CRASH_SEED", "0")) or int.from_bytes(os.urandom(4), "big")
