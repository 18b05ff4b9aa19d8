"""Sessions whose upstream refuses connections: how long it is waited for, and where they go then."""

from __future__ import annotations

import pytest

from .servers import HOSTS, LIST, RECOVERED, TOOL, Servers, counted, lose, note, reply
from .sessions import in_session
from .stage import Stage


@pytest.fixture
def proxy(single: Stage) -> Stage:
    return single


def test_an_upstream_that_comes_back_has_its_sessions(proxy: Stage, servers: Servers) -> None:
    session = servers.open()
    lose(servers, session)
    clients = [servers.tell(in_session(session, body)) for body in (LIST, TOOL, note("notifications/x"))]
    servers.advance(2.5)
    assert [client.take() for client in clients] == [b""] * 3
    # One try at a time, however many wait.
    assert 12 <= len(proxy.loop.dialled) <= 30
    servers.refusing.clear()
    servers.advance(0.4)
    assert [servers.received(client).status for client in clients] == [200, 200, 202]
    assert sorted(servers.methods()) == ["notifications/x", "tools/call", "tools/list"]
    proxy.advance(0.2)
    assert counted(proxy) == (0, 0)


def test_an_upstream_that_stays_away_is_replaced(proxy: Stage, servers: Servers) -> None:
    session = servers.open()
    home = lose(servers, session)
    (other,) = set(HOSTS) - {home}
    client = servers.tell(in_session(session, TOOL))
    told = servers.tell(in_session(session, note("notifications/x")))
    deleted = servers.tell(in_session(session, reply(1)))
    servers.advance(2.8)
    assert client.take() == told.take() == b""
    servers.silent = {"initialize"}
    servers.advance(0.4)
    # It is back at last: the session that it may still have is of no more use.
    servers.refusing.clear()
    servers.silent.clear()
    ((upstream, seen),) = servers.pending
    assert seen.host == other
    upstream.send(servers.answer_to(seen))
    servers.run()
    assert servers.received(client).status == 200
    assert servers.received(told).status == servers.received(deleted).status == 202
    *most, last = sorted(servers.seen, key=lambda each: each.host == home)
    assert [each.method for each in most] == ["initialize", "notifications/initialized", "tools/call"]
    assert (last.method, last.session, last.host) == ("DELETE", "up-1", home)
    servers.seen.clear()
    assert servers.ping(session).status == 200
    assert [each.host for each in servers.seen] == [other]
    proxy.advance(0.2)
    assert counted(proxy) == (1, 0)
    created, ended = "sessions_created_total", "sessions_ended_total"
    assert [proxy.metric(name, "/mcp", home) for name in (created, ended)] == [1, 1]
    assert [proxy.metric(name, "/mcp", other) for name in (created, ended)] == [1, 0]


def test_a_lost_session_goes_elsewhere_if_its_upstream_is_down_by_then(servers: Servers) -> None:
    session = servers.open()
    (home,) = set(servers.sessions.values())
    servers.forget()
    servers.refusing.add(home.split(":")[0])
    assert servers.ping(session).status == 200
    assert [each.host == home for each in servers.seen] == [True, False, False, False]


def test_tries_take_nothing_from_the_retry_budget(servers: Servers, proxy: Stage) -> None:
    session = servers.open()
    lose(servers, session)
    clients = [servers.tell(in_session(session, LIST)) for _ in range(30)]
    servers.advance(2)
    servers.refusing.clear()
    servers.advance(0.5)
    assert {servers.received(client).status for client in clients} == {200}
    assert proxy.plane.routes[0].retries._retries == 0


def test_waiting_does_not_shorten_an_answers_time(servers: Servers) -> None:
    session = servers.open()
    lose(servers, session)
    client = servers.tell(in_session(session, LIST))
    servers.advance(2.5)
    servers.refusing.clear()
    servers.silent = {"tools/list"}
    servers.advance(9.5)
    assert client.take() == b""
    ((upstream, seen),) = servers.pending
    upstream.send(servers.answer_to(seen))
    assert servers.received(client).status == 200


def test_a_dial_without_an_answer_is_no_loss(servers: Servers, proxy: Stage) -> None:
    session = servers.open()
    lose(servers, session)
    clients = [servers.tell(in_session(session, TOOL)) for _ in range(3)]
    servers.refusing.clear()
    proxy.loop.answering = False
    servers.advance(2)
    # One is enough to find that out.
    assert len(proxy.loop.dialled) == 3 + 1
    servers.advance(30)
    assert {servers.received(client).status for client in clients} <= {503, 504}
    assert servers.methods() == []


def test_nobody_can_take_it_now(proxy: Stage, servers: Servers) -> None:
    session = servers.open()
    home = lose(servers, session)
    servers.refusing |= {host.split(":")[0] for host in HOSTS}
    client = servers.tell(in_session(session, LIST))
    servers.advance(3.5)
    got = servers.received(client)
    assert (got.status, got.code, got.header("Retry-After")) == (503, -32603, "1")
    proxy.advance(0.2)
    assert counted(proxy) == (0, 1)
    # It may be back soon, and the session with it.
    servers.refusing.clear()
    assert servers.ping(session).status == 200
    assert [each.host for each in servers.seen] == [home]


def test_a_client_that_leaves_while_it_waits(proxy: Stage, servers: Servers) -> None:
    session = servers.open()
    lose(servers, session)
    for body in (LIST, TOOL):
        servers.tell(in_session(session, body)).reset()
    late = servers.tell(in_session(session, LIST))
    servers.advance(1)
    late.reset()
    servers.refusing.clear()
    servers.advance(0.5)
    assert servers.methods() == []
    servers.forget()
    servers.silent = {"initialize"}
    late = servers.tell(in_session(session, LIST))
    late.reset()
    servers.silent.clear()
    for upstream, seen in servers.pending:
        upstream.send(servers.answer_to(seen))
    servers.run()
    # The session is back all the same.
    assert servers.methods() == RECOVERED[:-1]
    proxy.advance(0.3)
    assert proxy.metric("requests_in_flight", "/mcp") == 0
    assert servers.ping(session).status == 200
    assert servers.methods() == ["tools/list"]


def test_not_too_many_wait(servers: Servers, proxy: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shadowcat.proxy.sessions.recovery._MOST_HELD", 3)
    session = servers.open()
    lose(servers, session)
    clients = [servers.tell(in_session(session, TOOL)) for _ in range(4)]
    got = servers.received(clients.pop())
    assert (got.status, got.header("Retry-After")) == (503, "1")
    servers.refusing.clear()
    servers.advance(0.5)
    assert {servers.received(client).status for client in clients} == {200}
    servers.forget()
    servers.silent = {"initialize"}
    clients = [servers.tell(in_session(session, TOOL)) for _ in range(4)]
    assert servers.received(clients.pop()).status == 503
    servers.silent.clear()
    for upstream, seen in servers.pending:
        upstream.send(servers.answer_to(seen))
    servers.run()
    assert {servers.received(client).status for client in clients} == {200}


def test_all_are_told_in_time(servers: Servers) -> None:
    session = servers.open()
    lose(servers, session)
    clients = [servers.tell(in_session(session, note("notifications/x"))) for _ in range(40)]
    servers.advance(2.8)
    assert all(client.take() == b"" for client in clients)
    servers.advance(0.5)
    assert {servers.received(client).status for client in clients} == {202}


def test_the_next_upstream_is_waited_for_as_long(servers: Servers) -> None:
    session = servers.open(initialized=False)
    home = lose(servers, session)
    (other,) = set(HOSTS) - {home}
    client = servers.tell(in_session(session, LIST))
    servers.silent = {"initialize"}
    servers.advance(3.5)
    servers.silent.clear()
    ((upstream, seen),) = servers.pending
    servers.refusing.add(other.split(":")[0])
    upstream.send(servers.answer_to(seen).replace(b"Content-Length", b"Connection: close\r\nContent-Length"))
    servers.advance(1)
    assert client.take() == b""
    servers.refusing.clear()
    servers.advance(0.4)
    assert servers.received(client).status == 200


def test_a_recovery_does_not_hold_up_others(servers: Servers) -> None:
    """Two sessions have the upstream that is away; the recovery of one takes its time."""
    sessions = [servers.open() for _ in range(4)]
    home = servers.sessions["up-1"]
    sessions = [each for number, each in enumerate(sessions, 1) if servers.sessions[f"up-{number}"] == home]
    for upstream in servers.proxy.upstreams:
        upstream.reset()
    servers.refusing.add(home.split(":")[0])
    clients = [servers.tell(in_session(session, LIST)) for session in sessions]
    servers.silent = {"initialize"}
    servers.advance(3.5)
    assert len(servers.pending) == len(clients) == 2
