"""Recoveries with several workers: one of them does it, all profit, and none is needed."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from shadowcat.policy.sessions import State
from shadowcat.proxy.plane import DataPlane
from shadowcat.proxy.sessions.recovery import Recoveries
from shadowcat.shm.shared import worker_number
from shadowcat.testing.loopback import Peer

from .servers import HOSTS, LIST, TOOL, Servers, note
from .sessions import caller_at, in_session, named, slot_of
from .stage import STREAM, Stage, bare, chunk, split
from .streams import deliver, lose_mail

MINE, THEIRS = worker_number(0), worker_number(1)


def now_ns(proxy: Stage) -> int:
    return int(proxy.loop.time() * 1e9)


def begin(proxy: Stage, other: DataPlane, servers: Servers) -> tuple[str, list[Peer]]:
    """A recovery that waits for its `initialize`; a request at each worker waits for it."""
    session = servers.open()
    assert servers.ping(session, caller_at(proxy, other)).status == 200
    servers.forget()
    servers.silent = {"initialize"}
    servers.seen.clear()
    clients = [
        servers.tell(in_session(session, LIST)),
        servers.tell(in_session(session, TOOL), caller_at(proxy, other)),
        servers.tell(in_session(session, LIST), caller_at(proxy, other)),
    ]
    servers.silent.clear()
    assert servers.methods() == ["tools/list", "initialize", "tools/call", "tools/list"]
    return session, clients


def complete(servers: Servers) -> None:
    for upstream, seen in servers.pending:
        upstream.send(servers.answer_to(seen))
    servers.pending.clear()
    servers.run()


def test_one_worker_does_it_for_all(proxy: Stage, other: DataPlane, servers: Servers) -> None:
    session, clients = begin(proxy, other, servers)
    servers.advance(1)
    assert servers.methods() == []
    complete(servers)
    assert servers.received(clients[0]).status == 200
    deliver(proxy, other)
    servers.run()
    for client in clients[1:]:
        got = servers.received(client)
        assert (got.status, got.header("Mcp-Session-Id")) == (200, session)
    assert servers.methods().count("initialize") == 0
    assert servers.ping(session, caller_at(proxy, other)).status == 200
    assert servers.methods() == ["tools/list"]


def test_mail_that_is_lost(proxy: Stage, other: DataPlane, servers: Servers) -> None:
    _, clients = begin(proxy, other, servers)
    complete(servers)
    lose_mail(proxy)
    servers.advance(0.3)
    assert [servers.received(client).status for client in clients] == [200] * 3


def test_an_end_is_an_end_for_all(proxy: Stage, other: DataPlane, servers: Servers) -> None:
    _, clients = begin(proxy, other, servers)
    servers.version = "2025-06-18"
    complete(servers)
    deliver(proxy, other)
    assert [servers.received(client).status for client in clients] == [404] * 3


def test_whoever_waits_elsewhere_tries_for_itself(proxy: Stage, other: DataPlane, servers: Servers) -> None:
    _, clients = begin(proxy, other, servers)
    ((upstream, _),) = servers.pending
    servers.pending.clear()
    upstream.reset()
    servers.run()
    assert servers.received(clients[0]).status == 503
    deliver(proxy, other)
    servers.run()
    assert [servers.received(client).status for client in clients[1:]] == [200, 200]


def test_the_worker_at_it_dies(proxy: Stage, other: DataPlane, servers: Servers) -> None:
    session = servers.open()
    table = other.sessions.table
    found = slot_of(proxy, session)
    now = now_ns(proxy)
    assert table.take_lease(found, THEIRS, now + 15 * 10**9, now)
    servers.forget()
    client = servers.tell(in_session(session, TOOL))
    servers.advance(5)
    assert servers.methods() == ["tools/call"]
    # It is reaped.
    table.repair(THEIRS)
    servers.advance(0.3)
    assert servers.received(client).status == 200
    assert servers.methods() == ["initialize", "notifications/initialized", "tools/call"]


def test_the_worker_at_it_is_stopped(proxy: Stage, other: DataPlane, servers: Servers) -> None:
    """And goes on when its time is over: what it brings is not wanted any more."""
    session, clients = begin(proxy, other, servers)
    for task in [proxy.plane._timer]:
        assert task is not None
        task.cancel()
    servers.advance(14)
    late = servers.tell(in_session(session, TOOL), caller_at(proxy, other))
    servers.advance(2)
    assert servers.received(late).status == 200
    assert servers.received(clients[1]).status in (200, 503)
    homes = dict(servers.sessions)
    assert len(homes) == 1
    servers.seen.clear()
    # The first one's answer has come meanwhile.
    complete(servers)
    assert servers.sessions == homes
    assert servers.methods().count("DELETE") == 1
    assert servers.ping(session, caller_at(proxy, other)).status == 200
    assert servers.sessions == homes


def test_a_lease_that_a_predecessor_left(proxy: Stage, other: DataPlane, servers: Servers) -> None:
    """The worker of the same number died, and its slots were not all to be had when it was reaped."""
    session = servers.open()
    now = now_ns(proxy)
    assert proxy.plane.sessions.table.take_lease(slot_of(proxy, session), MINE, now + 15 * 10**9, now)
    servers.forget()
    assert servers.ping(session).status == 200


def test_a_404_from_before_the_recovery(proxy: Stage, other: DataPlane, servers: Servers) -> None:
    """A request was under way when another worker brought the session back."""
    session = servers.open()
    servers.silent = {"tools/call"}
    late = servers.tell(in_session(session, TOOL))
    dropped = servers.tell(in_session(session, note("notifications/x")))
    assert servers.received(dropped).status == 202
    servers.silent = {"tools/call", "notifications/x"}
    dropped = servers.tell(in_session(session, note("notifications/x")))
    servers.silent.clear()
    servers.forget()
    assert servers.ping(session, caller_at(proxy, other)).status == 200
    # The new one lives in the same table slot and has been found by now.
    proxy.advance(2)
    servers.seen.clear()
    complete(servers)
    assert servers.received(late).status == 200
    assert servers.received(dropped).status == 202
    assert servers.methods() == ["tools/call"]


def test_streams_of_the_old_incarnation_end_everywhere(
    proxy: Stage, other: DataPlane, servers: Servers
) -> None:
    session = servers.open()
    servers.answers = {"GET": STREAM + chunk(b":\n\n"), "tools/call": STREAM + chunk(b":\n\n")}
    stream = servers.tell(bare("GET", named(session)), caller_at(proxy, other))
    running = servers.tell(in_session(session, TOOL), caller_at(proxy, other))
    for client in (stream, running):
        assert client.take().startswith(b"HTTP/1.1 200 OK\r\n")
    near = servers.tell(in_session(session, TOOL))
    servers.forget()
    assert servers.ping(session).status == 200
    deliver(proxy, other)
    assert stream.take() == b"0\r\n\r\n"
    servers.advance(0.1)
    assert running.is_closing()
    assert near.is_closing()


@pytest.mark.parametrize("released", [True, False])
def test_a_lock_that_is_held_when_a_session_comes_back(
    proxy: Stage, other: DataPlane, servers: Servers, released: bool
) -> None:
    session, clients = begin(proxy, other, servers)
    slot = slot_of(proxy, session).slot
    other.sessions.table._slots.lock(slot)
    complete(servers)
    servers.advance(0.5)
    assert clients[0].take() == b""
    if released:
        other.sessions.table._slots.unlock(slot)
        servers.advance(0.2)
        assert [servers.received(client).status for client in clients] == [200] * 3
        return
    servers.advance(20)
    # What came of it is of no use any more.
    assert [each.session for each in servers.seen if each.method == "DELETE"] == ["up-2"]
    assert split(clients[0].take())[0].status == 503
    other.sessions.table._slots.unlock(slot)
    # Nothing is left behind that would keep others from trying.
    assert servers.ping(session).status == 200


def test_a_lock_that_is_held_when_a_session_is_lost(proxy: Stage, other: DataPlane, servers: Servers) -> None:
    session = servers.open()
    slot = slot_of(proxy, session).slot
    servers.forget()
    other.sessions.table._slots.lock(slot)
    client = servers.tell(in_session(session, LIST))
    assert client.take() == b""
    servers.advance(0.1)
    got = servers.received(client)
    assert (got.status, got.header("Retry-After")) == (503, "1")
    other.sessions.table._slots.unlock(slot)
    assert servers.ping(session).status == 200


def test_two_at_it(proxy: Stage, other: DataPlane, servers: Servers) -> None:
    """One was stopped, and goes on before the other one, which took over, has its answer."""
    session, _ = begin(proxy, other, servers)
    timer = proxy.plane._timer
    assert timer is not None
    timer.cancel()
    servers.advance(14.5)
    servers.silent = {"initialize"}
    client = servers.tell(in_session(session, TOOL), caller_at(proxy, other))
    servers.advance(1)
    (first, early), (second, late) = servers.pending
    servers.silent.clear()
    first.send(servers.answer_to(early))
    servers.run()
    assert client.take() == b""
    assert servers.sessions == {}
    second.send(servers.answer_to(late))
    servers.run()
    assert servers.received(client).status == 200
    assert len(servers.sessions) == 1


def test_a_race_between_two(
    proxy: Stage, other: DataPlane, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one comes first, after a look said that nobody had."""
    session, _ = begin(proxy, other, servers)
    table = other.sessions.table
    found = slot_of(proxy, session)
    servers.sessions["up-9"] = HOSTS[0]
    changed = table.update(found, lambda record: replace(record, row=0, upstream_id=b"up-9"), repin=True)
    assert changed is not None
    monkeypatch.setattr(Recoveries, "_state", lambda *_: State.RECOVERING)
    complete(servers)
    assert set(servers.sessions) == {"up-9"}
    now = slot_of(proxy, session)
    assert (now.incarnation, now.record.upstream_id) == (changed.incarnation, b"up-9")
