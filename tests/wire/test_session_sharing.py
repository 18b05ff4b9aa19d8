"""Sessions that several workers use at once, and what happens while one of them holds a lock."""

from __future__ import annotations

from typing import Any

import pytest

from shadowcat.proxy.plane import DataPlane
from shadowcat.shm.sessions.layout import VERSION as VERSION_WORD
from shadowcat.shm.shared import worker_number
from shadowcat.testing.loopback import Peer

from .sessions import (
    INITIALIZE,
    PING,
    REFUSED,
    VERSION,
    answer,
    caller_at,
    end_session,
    farewells,
    in_session,
    lives,
    named,
    open_session,
    result,
    slot_of,
    turn,
)  # fmt: skip
from .stage import Got, Stage, bare, post, split


@pytest.fixture
def options() -> dict[str, Any]:
    return {"upstreams": 2, "sessions": {"capacity": 8, "idle_timeout": 30}}


def lives_at(proxy: Stage, plane: DataPlane, session: str) -> bool:
    """Whether another worker knows a session."""
    client = caller_at(proxy, plane)
    proxy.tell(client, in_session(session))
    own = client.take()
    if own:
        (got,) = split(own)
        assert got.status == 404
        return False
    (upstream,) = [each for each in proxy.upstreams if each.writes]
    (request,) = split(upstream.take())
    assert request.header("Mcp-Session-Id") == "up-1"
    upstream.send(answer(b"{}", "up-1"))
    proxy.settle()
    (got,) = split(client.take())
    assert got.header("Mcp-Session-Id") == session
    client.abort()
    proxy.settle()
    return True


def test_a_session_of_one_worker_is_good_at_the_other(proxy: Stage, other: DataPlane) -> None:
    session = open_session(proxy)
    for _ in range(3):
        assert lives_at(proxy, other, session)
        assert lives(proxy, session)


def test_a_session_goes_to_its_upstream_from_any_worker(proxy: Stage, other: DataPlane) -> None:
    homes = {}
    for number in range(4):
        done = turn(proxy, post(INITIALIZE), answer(result(), f"up-{number}"))
        session = done.answer.header("Mcp-Session-Id")
        assert session is not None
        homes[session] = done.host
    assert len(set(homes.values())) == 2
    for session, host in homes.items():
        assert turn(proxy, in_session(session), client=caller_at(proxy, other)).host == host


def test_an_end_at_one_worker_is_one_at_the_other(proxy: Stage, other: DataPlane) -> None:
    session = open_session(proxy)
    assert lives_at(proxy, other, session)
    turn(proxy, bare("DELETE", named(session)))
    assert not lives_at(proxy, other, session)
    session = open_session(proxy)
    assert lives_at(proxy, other, session)
    assert lives(proxy, session)
    turn(proxy, bare("DELETE", named(session)), client=caller_at(proxy, other))
    assert not lives(proxy, session)


def test_use_at_one_worker_counts_at_the_other(proxy: Stage, other: DataPlane) -> None:
    session = open_session(proxy)
    assert lives_at(proxy, other, session)
    for _ in range(5):
        proxy.advance(20)
        assert lives(proxy, session)
    assert lives_at(proxy, other, session)


def test_what_one_worker_learns_of_an_upstream_the_other_knows(proxy: Stage, other: DataPlane) -> None:
    for _ in range(2):
        open_session(proxy)
    proxy.advance(1.2)
    client = caller_at(proxy, other)
    proxy.tell(client, post(PING))
    (got,) = split(client.take())
    assert (got.status, got.code) == (400, -32600)


# Locks.


class Holder:
    """Another process, which was stopped while it held a lock."""

    def __init__(self, other: DataPlane, slot: int) -> None:
        self._slots = other.sessions.table._slots
        self._slot = slot
        self._slots.lock(slot)

    def release(self) -> None:
        self._slots.unlock(self._slot)


def busy(client: Peer) -> Got:
    """The refusal for a lock that stays held."""
    (got,) = split(client.take())
    assert (got.status, got.code, got.header("Retry-After")) == (503, -32603, "1")
    return got


def opened_under_a_lock(proxy: Stage, other: DataPlane, body: bytes) -> tuple[str, Holder]:
    """Let an `initialize` be answered with this; the lock is held when the end of the answer comes."""
    client = proxy.caller()
    proxy.tell(client, post(INITIALIZE))
    (upstream,) = proxy.upstreams
    upstream.take()
    text = answer(body, "up-1")
    upstream.send(text[:-1])
    session = split(client.take() + text[-1:])[0].header("Mcp-Session-Id")
    assert session is not None
    holder = Holder(other, slot_of(proxy, session).slot)
    upstream.send(text[-1:])
    proxy.settle()
    assert client.take() == text[-1:]
    return session, holder


def test_a_held_lock_does_not_hold_up_requests(proxy: Stage, other: DataPlane) -> None:
    session = open_session(proxy)
    holder = Holder(other, slot_of(proxy, session).slot)
    assert lives(proxy, session)
    assert lives_at(proxy, other, session)
    holder.release()


@pytest.mark.parametrize("released", [True, False])
def test_a_session_that_is_created_where_a_lock_is_held(
    proxy: Stage, other: DataPlane, released: bool
) -> None:
    client = proxy.caller()
    proxy.tell(client, post(INITIALIZE))
    (slot,) = proxy.plane.sessions.table._free.reserved_by(worker_number(0))
    holder = Holder(other, slot)
    (upstream,) = proxy.upstreams
    upstream.take()
    upstream.send(answer(result(), "up-1"))
    proxy.settle()
    assert client.take() == b""
    assert not upstream.reading
    if released:
        holder.release()
    proxy.advance(0.1)
    proxy.settle()
    if released:
        (got,) = split(client.take())
        session = got.header("Mcp-Session-Id")
        assert session is not None
        assert got.body == result()
        assert upstream.reading
        assert lives(proxy, session)
    else:
        assert busy(client).error["id"] == 7
        assert [upstream_id for _, upstream_id, _ in farewells(proxy)] == ["up-1"]
        holder.release()
    assert lives(proxy, open_session(proxy))


@pytest.mark.parametrize("released", [True, False])
def test_a_session_that_is_deleted_while_its_lock_is_held(
    proxy: Stage, other: DataPlane, released: bool
) -> None:
    session = open_session(proxy)
    client = proxy.caller()
    proxy.tell(client, bare("DELETE", named(session)))
    (upstream,) = [each for each in proxy.upstreams if each.writes]
    upstream.take()
    holder = Holder(other, slot_of(proxy, session).slot)
    upstream.send(answer())
    proxy.settle()
    assert client.take() == b""
    if released:
        holder.release()
    proxy.advance(0.1)
    if released:
        assert split(client.take())[0].status == 200
    else:
        busy(client)
        holder.release()
    assert lives(proxy, session) is not released


def test_a_result_does_not_wait_for_a_lock(proxy: Stage, other: DataPlane) -> None:
    session, holder = opened_under_a_lock(proxy, other, result("2025-03-26"))
    assert lives(proxy, session)
    proxy.advance(1)
    holder.release()
    proxy.advance(0.1)
    # The version is known by now.
    turn(proxy, in_session(session, b"[%b]" % PING))


def test_an_error_does_not_wait_for_a_lock(proxy: Stage, other: DataPlane) -> None:
    session, holder = opened_under_a_lock(proxy, other, REFUSED)
    assert farewells(proxy) == []
    holder.release()
    proxy.advance(0.1)
    assert [upstream_id for _, upstream_id, _ in farewells(proxy)] == ["up-1"]
    assert not lives(proxy, session)


def test_an_order_to_end_a_session_waits_for_its_lock(proxy: Stage, other: DataPlane) -> None:
    found = slot_of(proxy, open_session(proxy))
    holder = Holder(other, found.slot)
    end_session(proxy, found.slot, found.version)
    proxy.advance(5)
    assert farewells(proxy) == []
    holder.release()
    proxy.advance(0.1)
    assert [version for _, _, version in farewells(proxy)] == [VERSION]


def test_a_slot_that_is_being_written(proxy: Stage, other: DataPlane) -> None:
    """The holder of the lock was stopped in the middle of a write."""
    session = open_session(proxy)
    found = slot_of(proxy, session)
    holder = Holder(other, found.slot)
    words = proxy.plane.sessions.table._words
    words[found.base + VERSION_WORD] += 1
    client = proxy.caller()
    proxy.tell(client, in_session(session))
    assert client.take() == b""
    proxy.advance(0.1)
    assert busy(client).error["id"] == 7
    # Another client has left before its time was up.
    late = proxy.caller()
    proxy.tell(late, in_session(session))
    late.reset()
    # And for a third one it was soon enough.
    proxy.tell(client, in_session(session))
    words[found.base + VERSION_WORD] -= 1
    holder.release()
    proxy.advance(0.1)
    (upstream,) = [each for each in proxy.upstreams if each.writes]
    upstream.take()
    upstream.send(answer())
    assert split(client.take())[0].status == 200
    assert len(proxy.upstreams) == 1
    proxy.advance(0.2)
    assert proxy.metric("requests_in_flight", "/mcp") == 0


@pytest.mark.parametrize("released", [True, False])
def test_a_slot_that_cannot_be_reserved(proxy: Stage, other: DataPlane, released: bool) -> None:
    free = other.sessions.table._free
    free._locks.acquire(free._line)
    client = proxy.caller()
    proxy.tell(client, post(INITIALIZE))
    late = proxy.caller()
    proxy.tell(late, post(INITIALIZE))
    late.reset()
    if released:
        free._locks.release(free._line)
    proxy.advance(0.1)
    if released:
        (upstream,) = proxy.upstreams
        upstream.take()
        upstream.send(answer(result(), "up-1"))
        assert split(client.take())[0].header("Mcp-Session-Id") is not None
    else:
        busy(client)
        assert proxy.untouched
        free._locks.release(free._line)
    proxy.advance(0.1)
    assert proxy.metric("requests_in_flight", "/mcp") == 0
    assert proxy.plane.sessions.table._free.reserved_by(worker_number(0)) == []
