"""How the streams of sessions end: by the word of the upstream, with the session, with its incarnation."""

from __future__ import annotations

from typing import Any

import pytest

from shadowcat.proxy.plane import DataPlane
from shadowcat.proxy.wheel import TICK
from shadowcat.shm.sessions.layout import INCARNATION
from shadowcat.shm.shared import worker_number
from shadowcat.testing.loopback import Peer

from .sessions import (
    INITIALIZE,
    OPENS_STREAM,
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
)
from .stage import Stage, bare, chunk, message, post, split, stage
from .streams import (
    HELLO,
    LAST,
    LOOK,
    PATIENCE,
    accepted,
    asked,
    carries,
    deliver,
    get,
    lose_mail,
    opened,
    pair,
    status,
    took_over,
)


@pytest.fixture
def options() -> dict[str, Any]:
    return {"sessions": {"capacity": 8, "idle_timeout": 30}}


# What the upstream says.


def conflict(proxy: Stage) -> Peer:
    (upstream,) = asked(proxy)
    upstream.take()
    upstream.send(answer(b"{}", "up-1", status="409 Conflict"))
    proxy.settle()
    return upstream


def test_a_conflict_with_a_stream_that_is_gone_is_not_passed_on(proxy: Stage, other: DataPlane) -> None:
    session = open_session(proxy)
    first, second = proxy.caller(), caller_at(proxy, other)
    opened(proxy, first, session)
    proxy.tell(second, get(session))
    deliver(proxy, other)
    for _ in range(3):
        assert conflict(proxy).ending == "aborted"
        assert second.take() == b""
        assert asked(proxy) == []
        proxy.advance(0.4)
    assert carries(proxy, second, accepted(proxy, second))


@pytest.mark.parametrize("last", [None, "5"])
def test_a_conflict_that_stays_is_passed_on(proxy: Stage, last: str | None) -> None:
    session = open_session(proxy)
    client = proxy.caller()
    proxy.tell(client, get(session, last))
    tries, start = 0, proxy.loop.time()
    while asked(proxy):
        tries += 1
        conflict(proxy)
        proxy.advance(0.4 if tries < 7 else 0)
    assert tries == 7
    assert proxy.loop.time() - start < 3
    (got,) = split(client.take())
    assert (got.status, got.body, got.header("Mcp-Session-Id")) == (409, b"{}", session)
    proxy.advance(TICK)
    assert proxy.answered("/mcp", 409) == 1
    assert turn(proxy, in_session(session), client=client).answer.status == 200


def test_a_conflict_is_no_verdict_on_the_next_stream(proxy: Stage) -> None:
    """Even if the connection knows the answer, and nothing else in it is of interest."""
    declares_nothing = INITIALIZE.replace(b'"sampling": {}, "roots": {"listChanged": true}', b"")
    assert declares_nothing != INITIALIZE
    session = turn(proxy, post(declares_nothing), answer(result(), "up-1")).answer.header("Mcp-Session-Id")
    assert session is not None
    client = proxy.caller()
    for _ in range(2):
        proxy.tell(client, get(session))
        for _ in range(7):
            assert client.take() == b""
            conflict(proxy)
            proxy.advance(0.4 if not client.writes else 0)
        assert status(client) == 409


def test_a_client_that_leaves_while_the_next_try_waits_for_a_connection() -> None:
    with pair(pool={"max_connections": 1}) as (proxy, _):
        session = open_session(proxy)
        client, busy = proxy.caller(), proxy.caller()
        proxy.tell(client, get(session))
        conflict(proxy)
        proxy.tell(busy, in_session(session))
        (upstream,) = asked(proxy)
        upstream.take()
        proxy.advance(0.1)
        client.reset()
        upstream.send(answer())
        assert split(busy.take())[0].status == 200
        assert lives(proxy, session)


def test_a_stream_gives_way_between_two_tries(proxy: Stage, other: DataPlane) -> None:
    session = open_session(proxy)
    first, second = proxy.caller(), caller_at(proxy, other)
    proxy.tell(first, get(session))
    conflict(proxy)
    proxy.tell(second, get(session))
    deliver(proxy, other)
    assert status(first) == 409
    now = accepted(proxy, second)
    proxy.advance(1)
    assert carries(proxy, second, now)


def test_the_wake_of_others_does_not_hasten_the_next_try(proxy: Stage) -> None:
    session = open_session(proxy)
    client = proxy.caller()
    proxy.tell(client, get(session))
    for _ in range(3):
        conflict(proxy)
        proxy.advance(0.4)
    conflict(proxy)
    proxy.plane.wake(slot_of(proxy, session).slot)
    proxy.loop.stall(0.05)
    assert asked(proxy) == []
    proxy.advance(0.4)
    accepted(proxy, client)


def test_a_wake_means_nothing_to_an_open_stream(proxy: Stage) -> None:
    session = open_session(proxy)
    client = proxy.caller()
    stream = opened(proxy, client, session)
    proxy.plane.wake(slot_of(proxy, session).slot)
    proxy.advance(0.1)
    assert asked(proxy) == []
    assert carries(proxy, client, stream)


def test_a_client_that_leaves_between_two_tries(proxy: Stage) -> None:
    session = open_session(proxy)
    client = proxy.caller()
    proxy.tell(client, get(session))
    conflict(proxy)
    client.reset()
    proxy.advance(1)
    assert asked(proxy) == []
    assert proxy.metric("requests_in_flight", "/mcp") == 0


@pytest.mark.parametrize("said", ["405 Method Not Allowed", "500 Oops", "200 OK"])
def test_other_answers_are_passed_on_at_once(proxy: Stage, other: DataPlane, said: str) -> None:
    session = open_session(proxy)
    assert turn(proxy, get(session), answer(b"{}", status=said)).answer.status == int(said[:3])
    opened(proxy, caller_at(proxy, other), session)


@pytest.mark.parametrize("how", ["client leaves", "upstream ends", "upstream breaks off", "drain"])
def test_a_stream_that_is_over_is_nobodys(proxy: Stage, other: DataPlane, how: str) -> None:
    session = open_session(proxy)
    first, second = proxy.caller(), caller_at(proxy, other)
    before = opened(proxy, first, session)
    match how:
        case "client leaves":
            first.reset()
            assert before.ending == "aborted"
        case "upstream ends":
            before.send(LAST)
        case "upstream breaks off":
            before.reset()
        case "drain":
            proxy.plane.begin_drain()
            assert first.take() == LAST
    proxy.settle()
    # Without a word from the other worker.
    opened(proxy, second, session)


def test_who_has_been_taken_over_leaves_nothing(proxy: Stage, other: DataPlane) -> None:
    session = open_session(proxy)
    first, second, third = proxy.caller(), caller_at(proxy, other), proxy.caller()
    opened(proxy, first, session)
    proxy.tell(second, get(session))
    lose_mail(proxy)
    proxy.advance(PATIENCE)
    now = accepted(proxy, second)
    first.reset()
    proxy.settle()
    # The second one is the owner still.
    proxy.tell(third, get(session))
    assert asked(proxy) == []
    deliver(proxy, other)
    assert now.ending == "aborted"
    accepted(proxy, third)


def test_a_dead_worker_owns_nothing(proxy: Stage, other: DataPlane) -> None:
    session = open_session(proxy)
    opened(proxy, proxy.caller(), session)
    other.sessions.table.repair(worker_number(0))
    opened(proxy, caller_at(proxy, other), session)


# The end of the session.


@pytest.mark.parametrize("mail", [True, False])
@pytest.mark.parametrize("said", ["200 OK", "404 Not Found", "405 Method Not Allowed"])
def test_a_delete_ends_the_streams_of_all_workers(
    proxy: Stage, other: DataPlane, said: str, mail: bool
) -> None:
    session, bystander = open_session(proxy), open_session(proxy)
    clients = [proxy.caller(), proxy.caller(), caller_at(proxy, other), caller_at(proxy, other)]
    streams = [
        opened(proxy, client, session, last)
        for client, last in zip(clients, [None, "1", "2", "3"], strict=True)
    ]
    last_client = caller_at(proxy, other)
    kept = opened(proxy, last_client, bystander)
    turn(proxy, bare("DELETE", named(session)), answer(status=said), client=caller_at(proxy, other))
    if said[:3] == "405":
        deliver(proxy, other)
        proxy.advance(LOOK)
        assert all(carries(proxy, *pair) for pair in zip(clients, streams, strict=True))
        return
    # Those of the worker that got the DELETE at once.
    assert [client.take() for client in clients] == [b"", b"", LAST, LAST]
    if mail:
        deliver(proxy, other)
    else:
        proxy.advance(LOOK)
    assert [client.take() for client in clients[:2]] == [LAST, LAST]
    assert [stream.ending for stream in streams] == ["aborted"] * 4
    assert carries(proxy, last_client, kept)


def test_an_order_ends_the_streams_of_all_workers(proxy: Stage, other: DataPlane) -> None:
    session = open_session(proxy)
    first, second = proxy.caller(), caller_at(proxy, other)
    opened(proxy, first, session)
    opened(proxy, second, session, "1")
    found = slot_of(proxy, session)
    end_session(proxy, found.slot, found.version)
    assert first.take() == LAST
    deliver(proxy, other)
    assert second.take() == LAST
    assert len(farewells(proxy)) == 1


def test_an_old_session_ends_with_its_stream() -> None:
    with stage(sessions={"idle_timeout": 30, "max_lifetime": 100}) as short:
        session = open_session(short)
        client = short.caller()
        stream = opened(short, client, session)
        short.advance(95)
        assert client.take().replace(chunk(b":\n\n"), b"") == b""
        assert carries(short, client, stream)
        short.advance(5 + LOOK)
        assert client.take() == LAST
        assert stream.ending == "aborted"


def test_a_slot_that_has_a_new_session() -> None:
    """The mail is about the one before; the one of now is not touched."""
    with pair(sessions={"capacity": 1}) as (proxy, other):
        session = open_session(proxy)
        first = caller_at(proxy, other)
        before = opened(proxy, first, session)
        turn(proxy, bare("DELETE", named(session)))
        session = open_session(proxy)
        second = caller_at(proxy, other)
        now = opened(proxy, second, session)
        deliver(proxy, other)
        assert (before.ending, first.take()) == ("aborted", LAST)
        assert carries(proxy, second, now)


@pytest.mark.parametrize("last", [None, "5"])
def test_a_quiet_stream_keeps_its_session_alive(proxy: Stage, last: str | None) -> None:
    session = open_session(proxy)
    client = proxy.caller()
    opened(proxy, client, session, last)
    proxy.advance(100)
    client.reset()
    assert lives(proxy, session)
    proxy.advance(32)
    assert not lives(proxy, session)


# A new incarnation.


def re_pin(proxy: Stage, session: str) -> tuple[int, int]:
    """The session has been recovered, to the same upstream session; its slot and its incarnation."""
    table = proxy.plane.sessions.table
    changed = table.update(slot_of(proxy, session), lambda record: record, repin=True)
    assert changed is not None
    assert table._words[changed.base + INCARNATION] == changed.incarnation
    return changed.slot, changed.incarnation


def answering(proxy: Stage, client: Peer, session: str) -> Peer:
    """A call whose answer is a stream that has begun; the upstream's side of it."""
    proxy.tell(client, in_session(session, message()))
    (upstream,) = asked(proxy)
    upstream.take()
    upstream.send(OPENS_STREAM % b"up-1", HELLO)
    assert client.take().endswith(HELLO)
    return upstream


@pytest.mark.parametrize("mail", [True, False])
def test_a_new_incarnation_ends_older_streams(proxy: Stage, other: DataPlane, mail: bool) -> None:
    session, bystander = open_session(proxy), open_session(proxy)
    clients = [proxy.caller(), proxy.caller(), caller_at(proxy, other), caller_at(proxy, other)]
    streams = [opened(proxy, clients[0], session), opened(proxy, clients[2], session, "1")]
    streams += [answering(proxy, client, session) for client in clients[1::2]]
    # What is no stream may still be answered.
    caller = caller_at(proxy, other)
    proxy.tell(caller, in_session(session, message()))
    (call,) = asked(proxy)
    call.take()
    text = answer(b"{}", "up-1")
    call.send(text[:-1])
    last_client = proxy.caller()
    kept = opened(proxy, last_client, bystander)
    proxy.advance(0.3)
    slot, incarnation = re_pin(proxy, session)
    following = proxy.caller()
    if mail:
        proxy.plane.streams.close_older(slot, incarnation)
        assert clients[0].take() == LAST
        deliver(proxy, other)
        assert clients[2].take() == LAST
        now = opened(proxy, following, session)
        proxy.advance(0.2)
    else:
        now = took_over(proxy, following, session)
        proxy.advance(LOOK)
        assert [client.take() for client in clients[::2]] == [LAST, LAST]
    assert [stream.ending for stream in streams] == ["aborted"] * 4
    # A call that is not answered must not look as if it were.
    assert [(client.take(), client.ending) for client in clients[1::2]] == [(b"", "closed")] * 2
    assert carries(proxy, following, now)
    assert carries(proxy, last_client, kept)
    call.send(text[-1:])
    assert split(caller.take())[0].status == 200


def test_a_new_incarnation_keeps_its_own_streams(proxy: Stage, other: DataPlane) -> None:
    session = open_session(proxy)
    slot, incarnation = re_pin(proxy, session)
    first, second = proxy.caller(), caller_at(proxy, other)
    stream, call = opened(proxy, first, session), answering(proxy, second, session)
    proxy.plane.streams.close_older(slot, incarnation)
    deliver(proxy, other)
    proxy.advance(LOOK)
    assert carries(proxy, first, stream)
    assert carries(proxy, second, call)


def test_a_detached_call_outlives_a_new_incarnation(proxy: Stage) -> None:
    session = open_session(proxy)
    client = proxy.caller()
    upstream = answering(proxy, client, session)
    client.reset()
    proxy.plane.streams.close_older(*re_pin(proxy, session))
    proxy.advance(LOOK)
    assert upstream.ending == "open"


def test_a_stream_that_waits_while_its_session_is_recovered(proxy: Stage, other: DataPlane) -> None:
    session = open_session(proxy)
    first, second = proxy.caller(), caller_at(proxy, other)
    opened(proxy, first, session)
    proxy.tell(second, get(session))
    proxy.plane.streams.close_older(*re_pin(proxy, session))
    deliver(proxy, other)
    assert carries(proxy, second, accepted(proxy, second))
