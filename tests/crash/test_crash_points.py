"""Each operation, killed after each of its stores in turn: what the others find afterwards."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from shadowcat.shm.locks import LockBusyError
from shadowcat.shm.sessions.table import Session, SessionTable
from tests.children import in_child
from tests.crash.conftest import FIRST, LONG, SECOND, Host, check_whole, one_more, record, same_story
from tests.crash.fuse import Fuse, was_killed

INLINE, APART = b'{"short":1}', b'{"long":"' + b"x" * 2000 + b'"}'
MOST_STORES = 200


def create(table: SessionTable, name: str, params: bytes = INLINE, owner: str = "10.0.0.1") -> Session:
    now = time.monotonic_ns()
    slot = table.reserve(now)
    assert slot is not None
    return table.create(slot, record(name, owner=owner), params, now + LONG, now)


def again(table: SessionTable, session: Session) -> Session | None:
    return table.find(session.id, time.monotonic_ns())


Operation = Callable[[SessionTable, Session], object]

OPERATIONS: dict[str, Operation] = {
    "create": lambda table, _: create(table, "new", owner="10.0.0.2"),
    "create with a block": lambda table, _: create(table, "new", APART, owner="10.0.0.2"),
    "update": lambda table, old: table.update(old, one_more),
    "re-pin": lambda table, old: table.update(old, one_more, repin=True),
    "delete": lambda table, old: table.delete(old),
    "subscribe": lambda table, old: table.subscribe(old, b"file:///b"),
    "unsubscribe": lambda table, old: table.unsubscribe(old, b"file:///a"),
    "expect": lambda table, old: table.expect(old, 77),
    "answered": lambda table, old: table.answered(old, 55),
    "take_stream": lambda table, old: table.take_stream(old, FIRST),
    "take_lease": lambda table, old: table.take_lease(old, FIRST, 2**50, time.monotonic_ns()),
}


@pytest.mark.parametrize("mender", ["supervisor", "sibling"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_killed_after_any_store(host: Callable[..., Host], name: str, mender: str) -> None:
    operation = OPERATIONS[name]
    outcomes = set()
    for stores in range(1, MOST_STORES):
        one = host()
        sibling = one.table(SECOND)
        old = create(sibling, "old", APART)
        other = create(sibling, "other")
        assert sibling.subscribe(old, b"file:///a")
        sibling.expect(old, 55)

        def work(one: Host = one, old: Session = old, stores: int = stores) -> None:
            table = one.table(FIRST)
            mine = again(table, old)
            assert mine is not None
            Fuse(stores).install(table)
            operation(table, mine)

        killed = was_killed(in_child(work))
        if mender == "supervisor":
            one.table(0).repair(FIRST)
        # A sibling that comes across it before the supervisor has reaped the dead mends it as well.
        found = again(sibling, old)
        assert same_story(again(sibling, other).record) == ("other", 0)  # type: ignore[union-attr]
        outcomes.add(None if found is None else same_story(found.record)[1])
        if name != "delete":
            assert found is not None, f"lost by a kill after store {stores}"
            assert sibling.params(found) == APART
            if "subscribe" not in name:
                assert sibling.subscriptions(found) == [b"file:///a"]
        if name == "update":
            assert sibling.answered(found, 55)  # type: ignore[arg-type]
        # The table goes on: what was interrupted can be done now, by anybody.
        create(sibling, "next", owner="10.0.0.2")
        if found is not None:
            changed = sibling.update(found, one_more)
            assert changed is not None
            assert same_story(changed.record)[1] == same_story(found.record)[1] + 1
        one.table(0).repair(FIRST)
        expected = {session.id: same_story(session.record) for session in sibling.live(0, one.capacity)}
        check_whole(sibling, expected)
        if not killed:
            break
    else:
        pytest.fail(f"{name} never came to its end")
    if name in ("update", "re-pin"):
        assert outcomes == {0, 1}
    elif name == "delete":
        assert outcomes == {None, 0}
    assert stores > 1


def test_nobody_but_its_own_slot_waits_for_a_stopped_process(host: Callable[..., Host]) -> None:
    one = host(capacity=64)
    table = one.table(SECOND)
    held, others = create(table, "held"), [create(table, f"s{index}") for index in range(10)]

    def work() -> None:
        mine = one.table(FIRST)
        session = again(mine, held)
        assert session is not None
        # Store 7 is the first one after the version has become odd.
        Fuse(HALF_WRITTEN, signal.SIGSTOP).install(mine)
        mine.update(session, one_more)

    pid = in_child(work)
    try:
        assert os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
        assert table._words[held.base + 23] & 1
        slowest = 0.0
        for _ in range(50):
            begun = time.monotonic()
            for session in others:
                found = again(table, session)
                assert found is not None
                assert table.update(found, one_more) is not None
            assert table.delete(create(table, "short")) is not None
            table.sweep(0, 64, time.monotonic_ns())
            table.recount()
            for refused in (
                lambda: again(table, held),
                lambda: table.at(held.slot),
                lambda: table.update(held, one_more),
                lambda: table.delete(held),
                lambda: table.take_stream(held, SECOND),
            ):
                with pytest.raises(LockBusyError):
                    refused()
            slowest = max(slowest, time.monotonic() - begun)
        assert slowest < 0.05
    finally:
        os.kill(pid, signal.SIGKILL)
        assert was_killed(pid)
    one.table(0).repair(FIRST)
    found = again(table, held)
    assert found is not None
    assert same_story(found.record) == ("held", 1)


HALF_WRITTEN = 10
