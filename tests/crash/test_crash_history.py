"""Processes that create, read, update and delete at random, and are killed in the middle of it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from shadowcat.shm.locks import LockBusyError
from shadowcat.shm.sessions.ids import ID_CHARS
from shadowcat.shm.sessions.table import SessionTable
from shadowcat.shm.shared import worker_number
from tests.children import in_child
from tests.crash.conftest import LONG, WORKERS, Host, check_whole, one_more, record, same_story, seed
from tests.crash.fuse import Fuse, was_killed
from tests.crash.history import BUSY, FOREVER, GONE, Life, Log, Operation, lives, read_log

KILLS = 240
CAPACITY = 48
MOST_STORES = 3_000
LIMIT = 40.0
"""Seconds."""
MEMORY = CAPACITY + 12
ID_LINE = ID_CHARS + 1
PARAMS = (b"{}", b'{"a":"' + b"a" * 300 + b'"}', b'{"b":"' + b"b" * 3_000 + b'"}')


class Worker:
    """Does random things to the table until it is killed."""

    def __init__(self, host: Host, slot: int, life: int, folder: Path) -> None:
        self.random = random.Random(f"{seed}/{slot}/{life}")
        self.process = worker_number(slot)
        self.table = host.table(self.process)
        self.log = Log(folder / f"{slot}-{life}")
        self.known = os.open(folder.parent / "ids", os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self.prefix = f"s{slot}x{life}x"
        self.made = 0
        self.ids: list[bytes] = []
        if not killed_from_outside(life):
            Fuse(self.random.randrange(1, MOST_STORES)).install(self.table)

    def work(self) -> None:
        verbs = [self.create] * 3 + [self.read] * 6 + [self.update] * 5 + [self.delete] * 2 + [self.mark]
        while True:
            if not self.made % 8:
                self.learn()
            with contextlib.suppress(LockBusyError):
                self.random.choice(verbs)()
            self.made += 1

    def learn(self) -> None:
        """Get to know the sessions that all have created of late: most live, some have been deleted."""
        size = os.fstat(self.known).st_size
        text = os.pread(self.known, MEMORY * ID_LINE, max(0, size - MEMORY * ID_LINE))
        self.ids = text.split()

    def create(self) -> None:
        now = time.monotonic_ns()
        slot = self.table.reserve(now)
        if slot is None:  # Some live ones nobody knows: their creators were killed before they told the id.
            self.ids = [session.id for session in self.table.live(0, CAPACITY)]
            self.delete()
            return
        name = f"{self.prefix}{self.made}"
        self.log.begin("create", b"-", name)
        owner = self.random.choice(("10.0.0.1", "10.0.0.2"))
        params = self.random.choice(PARAMS)
        try:
            session = self.table.create(slot, record(name, owner=owner), params, now + LONG, now)
        except LockBusyError:
            self.log.end("create", b"-", name, BUSY)
            self.table.unreserve(slot)
            return
        self.log.end("create", session.id, name)
        os.write(self.known, session.id + b"\n")

    def read(self) -> None:
        session_id = self.pick()
        if session_id is None:
            return
        self.log.begin("read", session_id)
        try:
            session = self.table.find(session_id, time.monotonic_ns())
        except LockBusyError:
            self.log.end("read", session_id, value=BUSY)
            return
        if session is None:
            self.log.end("read", session_id, value=GONE)
            return
        assert session.id == session_id
        self.log.end("read", session_id, *same_story(session.record))

    def update(self) -> None:
        session_id = self.pick()
        session = session_id and self.table.find(session_id, time.monotonic_ns())
        if not session:
            return
        self.log.begin("update", session.id)
        try:
            changed = self.table.update(session, one_more, repin=self.random.random() < 0.2)
        except LockBusyError:
            self.log.end("update", session.id, value=BUSY)
            return
        if changed is None:
            self.log.end("update", session.id, value=GONE)
        else:
            self.log.end("update", session.id, *same_story(changed.record))

    def delete(self) -> None:
        session_id = self.pick()
        session = session_id and self.table.find(session_id, time.monotonic_ns())
        if not session:
            return
        self.log.begin("delete", session.id)
        try:
            ended = self.table.delete(session)
        except LockBusyError:
            self.log.end("delete", session.id, value=BUSY)
            return
        self.log.end("delete", session.id, "-", GONE if ended is None else 0)

    def mark(self) -> None:
        """All that is not in the record."""
        session_id = self.pick()
        session = session_id and self.table.find(session_id, time.monotonic_ns())
        if not session:
            return
        now = time.monotonic_ns()
        self.table.subscribe(session, b"file:///%d" % self.random.randrange(5))
        self.table.unsubscribe(session, b"file:///%d" % self.random.randrange(5))
        self.table.expect(session, self.random.randrange(1, 40))
        self.table.answered(session, self.random.randrange(1, 40))
        self.table.take_stream(session, self.process)
        self.table.take_lease(session, self.process, now + 1_000_000, now)
        params = self.table.params(session)
        assert params is None or params in PARAMS
        self.table.sweep(0, CAPACITY, now)

    def pick(self) -> bytes | None:
        return self.random.choice(self.ids) if self.ids else None


def killed_from_outside(life: int) -> bool:
    """One in four is killed from outside, at any time; the others between two stores."""
    return life % 4 == 0


def run(host: Host, folder: Path) -> int:
    """Keep the workers running until enough have been killed; how many were."""
    supervisor: SessionTable = host.table(0)
    chance = random.Random(seed)
    children: dict[int, tuple[int, int, float]] = {}
    lives_of = [0] * WORKERS

    def start(slot: int) -> None:
        life = lives_of[slot]
        lives_of[slot] += 1
        pid = in_child(lambda: Worker(host, slot, life, folder).work())
        children[pid] = (
            slot,
            life,
            time.monotonic() + (chance.uniform(0.005, 0.1) if killed_from_outside(life) else LIMIT),
        )

    kills = 0
    try:
        for slot in range(WORKERS):
            start(slot)
        while kills < KILLS:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid:
                slot, life, _ = children.pop(pid)
                assert os.WIFSIGNALED(status), f"worker {slot}, life {life} failed (seed {seed})"
                assert os.WTERMSIG(status) == signal.SIGKILL
                kills += 1
                supervisor.repair(worker_number(slot))
                start(slot)
                continue
            now = time.monotonic()
            for pid, (_, _, deadline) in children.items():
                if deadline < now:
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.001)
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        for pid, (slot, _, _) in children.items():
            was_killed(pid)
            supervisor.repair(worker_number(slot))
    return kills


def test_no_history_is_impossible(host: Callable[..., Host], tmp_path: Path) -> None:
    print(f"CRASH_SEED={seed}")
    begun = time.monotonic()
    one = host(capacity=CAPACITY)
    logs = tmp_path / "logs"
    logs.mkdir()
    assert run(one, logs) >= KILLS
    operations: list[Operation] = []
    for path in logs.iterdir():
        operations += read_log(path)
    known = lives(operations)
    unborn = {o.name for o in operations if o.verb == "create" and o.ended == FOREVER}
    for life in known.values():
        life.check(unborn)

    # What is left after the last kill is a state that the history allows, and the table is whole.
    table = one.table(worker_number(0))
    left = {session.id: same_story(session.record) for session in table.live(0, CAPACITY)}
    for session_id, (name, value) in left.items():
        life = known.setdefault(session_id.decode(), Life(name, 0))
        read = Operation("read", session_id.decode(), FOREVER - 2, FOREVER - 1, name, value)
        life.reads = [read]
        life.check(unborn)
    for session_id, life in known.items():
        if session_id.encode() not in left:
            assert life.deletions, f"{life.name} is lost"
    check_whole(table, left)
    for session in table.live(0, CAPACITY):
        assert table.delete(session) is not None
    check_whole(table, {})

    enough = {"create": 300, "read": 1000, "update": 1000, "delete": 200}
    counts = {verb: sum(o.verb == verb for o in operations) for verb in enough}
    print(
        counts, f"{sum(o.ended == FOREVER for o in operations)} cut short, {time.monotonic() - begun:.1f} s"
    )
    assert all(counts[verb] >= least for verb, least in enough.items())
    assert time.monotonic() - begun < LIMIT
