"""What a session costs in the shared table: by its size, by how full it is, and with a busy neighbour."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest
from msgspec.structs import replace
from pytest_benchmark.fixture import BenchmarkFixture

from shadowcat.config.model import Config, Route, Sessions, Upstream
from shadowcat.shm.locks import LockBusyError
from shadowcat.shm.sessions.record import SessionRecord, SessionState
from shadowcat.shm.sessions.table import Session, SessionTable
from shadowcat.shm.shared import CONTROL, Shared, worker_number

SIZES = [1_000, 100_000] + ([1_000_000] if os.environ.get("BENCH_MILLION") else [])
FILLS = [10, 50, 90]
AT_ONCE = 50
ROUNDS = 100
HOT = 100
"""Sessions that take turns; as many at all sizes: what is compared is the table, not the CPU's cache."""
FAR = 50_000
"""Sessions that take turns where the cost of memory that is in no cache is to be seen."""
LIFETIME = 10**15
PARAMS = (
    b'{"protocolVersion":"2025-11-25","capabilities":{"roots":{"listChanged":true},"sampling":{},'
    b'"elicitation":{}},"clientInfo":{"name":"example-client","version":"1.0.0"}}'
)
RECORD = SessionRecord(
    b"", "anonymous", "203.0.113.17", "/mcp", 0, 0, b"fedcba9876543210fedcba9876543210", 1, SessionState.OPEN,
    "2025-11-25", ("logging", "prompts.listChanged", "resources.subscribe", "tools.listChanged"), 7, True,
)  # fmt: skip


Result = TypeVar("Result")


def patiently(work: Callable[[], Result]) -> Result:
    """The neighbour has its locks now and then; a worker would set a timer."""
    while True:
        with contextlib.suppress(LockBusyError):
            return work()


class Stage:
    """A table of one size, filled as far as the present test wants it."""

    def __init__(self, size: int) -> None:
        route = Route(upstreams=[Upstream(url="http://127.0.0.1:3001/mcp")])
        config = Config(workers=2, admin=None, routes=[route], sessions=Sessions(capacity=size))
        self.size = size
        self.shared = Shared.create(config)
        self.table = self.shared.sessions_for(worker_number(0))
        self.sessions: list[Session] = []
        self.hot: list[Session] = []
        self.far: list[bytes] = []
        self.now = time.monotonic_ns()
        self.random = random.Random(size)

    def fill(self, percent: int) -> None:
        while len(self.sessions) * 100 < self.size * percent:
            # Owners as of many clients; the slots in no order, as after some days.
            owner = f"10.{len(self.sessions) >> 8 & 0xFFF}.0.1"
            slot = self.table.reserve(self.now)
            assert slot is not None
            record = replace(RECORD, owner=owner)
            self.sessions.append(self.table.create(slot, record, PARAMS, self.now + LIFETIME, self.now))
        self.hot = self.random.sample(self.sessions, min(HOT, len(self.sessions)))
        # Ids arrive in a buffer that was just read: it is the table whose memory is to be cold, not theirs.
        far = self.random.sample(self.sessions, min(FAR, len(self.sessions)))
        self.far = [bytes(bytearray(session.id)) for session in far]

    def reserve(self, count: int) -> list[int]:
        slots = [patiently(lambda: self.table.reserve(self.now)) for _ in range(count)]
        assert None not in slots
        return slots  # type: ignore[return-value]

    def create(self, slot: int) -> Session:
        return patiently(lambda: self.table.create(slot, RECORD, PARAMS, self.now + LIFETIME, self.now))

    def delete(self, session: Session) -> None:
        patiently(lambda: self.table.delete(session))


@pytest.fixture(scope="module", params=SIZES)
def table_of(request: pytest.FixtureRequest) -> Iterator[Stage]:
    stage = Stage(request.param)
    yield stage
    stage.table.close()
    stage.shared.close()


@pytest.fixture(scope="module", params=FILLS, ids=lambda percent: f"{percent}%")
def filled(table_of: Stage, request: pytest.FixtureRequest) -> Stage:
    table_of.fill(request.param)
    return table_of


@pytest.fixture(params=[1, 2], ids=["alone", "two"])
def stage(filled: Stage, request: pytest.FixtureRequest) -> Iterator[Stage]:
    if request.param == 1:
        yield filled
        return
    pid = os.fork()
    if pid == 0:
        try:
            neighbour(filled)
        finally:
            os._exit(1)
    yield filled
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    filled.shared.sessions_for(0).repair(worker_number(1))


def neighbour(stage: Stage) -> None:
    """Another worker, at most as busy as one can be: it looks up, changes, creates and deletes."""
    table = stage.shared.sessions_for(worker_number(1))
    parent = os.getppid()
    record = replace(RECORD, owner="203.0.113.99")
    while os.getppid() == parent:
        for session in stage.random.sample(stage.hot, 20):
            with contextlib.suppress(LockBusyError):
                table.find(session.id, stage.now)
        with contextlib.suppress(LockBusyError):
            slot = table.reserve(stage.now)
            if slot is not None:
                own = table.create(slot, record, PARAMS, stage.now + LIFETIME, stage.now)
                table.update(own, lambda was: was)
                patiently(lambda own=own: table.delete(own))


def each_of(sessions: list[Result]) -> Callable[[], Result]:
    return itertools.cycle(sessions).__next__


def test_nothing(benchmark: BenchmarkFixture, table_of: Stage) -> None:
    table_of.fill(FILLS[0])
    benchmark(each_of(table_of.hot))


def test_use(benchmark: BenchmarkFixture, stage: Stage) -> None:
    table, now, following = stage.table, stage.now, each_of([cached(stage.table, one) for one in stage.hot])
    assert benchmark(lambda: table.use(following(), now))


def cached(table: SessionTable, session: Session) -> Session:
    found = patiently(lambda: table.find(session.id, session.touched))
    assert found is not None
    return found


def test_find_cached(benchmark: BenchmarkFixture, stage: Stage) -> None:
    table, now, following = stage.table, stage.now, each_of([session.id for session in stage.hot])
    assert benchmark(lambda: table.find(following(), now)) is not None


@pytest.mark.parametrize("where", ["hot", "far"])
def test_find_uncached(benchmark: BenchmarkFixture, stage: Stage, where: str) -> None:
    table, now = stage.table, stage.now
    following = each_of([session.id for session in stage.hot] if where == "hot" else stage.far)

    def find() -> Session | None:
        table._young.clear()
        table._old.clear()
        return table.find(following(), now)

    table._old = {}
    assert patiently(lambda: benchmark(find)) is not None


def test_touch(benchmark: BenchmarkFixture, stage: Stage) -> None:
    """A use that is noted, as one in a second is."""
    table, following = stage.table, each_of([cached(stage.table, one) for one in stage.hot])
    clock = itertools.count(stage.now, 2)

    def touch() -> bool:
        session = following()
        session.fresh_until = 0
        return table.use(session, next(clock))

    assert benchmark(touch)


def test_update(benchmark: BenchmarkFixture, stage: Stage) -> None:
    table, following = stage.table, each_of(stage.hot)
    assert benchmark(lambda: patiently(lambda: table.update(following(), lambda was: was))) is not None


def test_reserve_50(benchmark: BenchmarkFixture, stage: Stage) -> None:
    def give_back() -> None:
        while reserved:
            stage.table.unreserve(reserved.pop())

    reserved: list[int] = []
    benchmark.pedantic(lambda: reserved.extend(stage.reserve(AT_ONCE)), setup=give_back, rounds=ROUNDS)
    give_back()


def test_create_50(benchmark: BenchmarkFixture, stage: Stage) -> None:
    made: list[Session] = []

    def setup() -> tuple[tuple[list[int]], dict[str, object]]:
        while made:
            stage.delete(made.pop())
        return (stage.reserve(AT_ONCE),), {}

    benchmark.pedantic(lambda slots: made.extend(map(stage.create, slots)), setup=setup, rounds=ROUNDS)
    while made:
        stage.delete(made.pop())


def test_delete_50(benchmark: BenchmarkFixture, stage: Stage) -> None:
    def setup() -> tuple[tuple[list[Session]], dict[str, object]]:
        return ([stage.create(slot) for slot in stage.reserve(AT_ONCE)],), {}

    def delete(sessions: list[Session]) -> None:
        for session in sessions:
            stage.delete(session)

    benchmark.pedantic(delete, setup=setup, rounds=ROUNDS)


def test_sweep_1000(benchmark: BenchmarkFixture, filled: Stage) -> None:
    """A slice of 1,000 slots of which none has expired, in control."""
    control = filled.shared.sessions_for(CONTROL)
    first = itertools.cycle(range(0, filled.size, 1_000)).__next__
    assert benchmark(lambda: control.sweep(first(), 1_000, filled.now)) == []
    control.close()


def test_recount(benchmark: BenchmarkFixture, filled: Stage) -> None:
    """The end of a full sweep."""
    control = filled.shared.sessions_for(CONTROL)
    benchmark.pedantic(control.recount, rounds=3)
    control.close()


def test_repair(benchmark: BenchmarkFixture, filled: Stage) -> None:
    """After the death of a worker, in the supervisor."""
    supervisor = filled.shared.sessions_for(0)
    benchmark.pedantic(supervisor.repair, (worker_number(1),), rounds=3)
    supervisor.close()
