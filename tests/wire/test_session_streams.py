"""The GET streams of sessions: one at a time in all workers, and resumptions beside it."""

from __future__ import annotations

from typing import Any

import pytest

from shadowcat.proxy.plane import DataPlane

from .sessions import answer, caller_at, end_session, farewells, in_session, open_session, slot_of, turn
from .stage import STREAM, Stage, chunk
from .streams import (
    HELLO,
    LAST,
    LOOK,
    PATIENCE,
    SETTLE,
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


# Taking over.


def test_a_second_stream_at_another_worker_takes_over(proxy: Stage, other: DataPlane) -> None:
    session = open_session(proxy)
    first, second = proxy.caller(), caller_at(proxy, other)
    before = opened(proxy, first, session)
    proxy.tell(second, get(session))
    # Not before the first one is closed: the upstream would answer 409.
    assert asked(proxy) == []
    assert before.ending == "open"
    deliver(proxy, other)
    assert before.ending == "aborted"
    assert first.take() == LAST
    now = accepted(proxy, second)
    # And back.
    third = proxy.caller()
    proxy.tell(third, get(session))
    deliver(proxy, other)
    assert (now.ending, second.take()) == ("aborted", LAST)
    assert carries(proxy, third, accepted(proxy, third))


def test_a_second_stream_at_the_same_worker_takes_over(proxy: Stage) -> None:
    session = open_session(proxy)
    first, second = proxy.caller(), proxy.caller()
    before = opened(proxy, first, session)
    now = took_over(proxy, second, session)
    assert (before.ending, first.take()) == ("aborted", LAST)
    assert carries(proxy, second, now)
    # The connection of the one that was ended is as good as new.
    assert turn(proxy, in_session(session), client=first).answer.status == 200


def test_a_stream_of_another_session_stays(proxy: Stage, other: DataPlane) -> None:
    session, another = open_session(proxy), open_session(proxy)
    clients = [proxy.caller(), proxy.caller(), caller_at(proxy, other)]
    kept = opened(proxy, clients[0], another)
    opened(proxy, clients[1], session)
    proxy.tell(clients[2], get(session))
    deliver(proxy, other)
    accepted(proxy, clients[2])
    assert carries(proxy, clients[0], kept)


@pytest.mark.parametrize("rest", [b"event: message\r\n", chunk(b"data: 1\r\n"), b"5\r\nab"])
def test_a_stream_that_ends_in_mid_event_is_broken_off(proxy: Stage, rest: bytes) -> None:
    session = open_session(proxy)
    first, second = proxy.caller(), proxy.caller()
    before = opened(proxy, first, session)
    part = rest if rest[:1].isdigit() else chunk(rest)
    before.send(part)
    assert first.take() == part
    took_over(proxy, second, session)
    assert (before.ending, first.take(), first.ending) == ("aborted", b"", "closed")


def test_a_slow_client_gives_way_too(proxy: Stage) -> None:
    session = open_session(proxy)
    first, second = proxy.caller(), proxy.caller()
    before = opened(proxy, first, session)
    first.stall()
    assert not before.reading
    took_over(proxy, second, session)
    assert before.ending == "aborted"


def test_http_1_0(proxy: Stage) -> None:
    session = open_session(proxy)
    first, second = proxy.caller(), proxy.caller()
    proxy.tell(first, get(session).replace(b"HTTP/1.1", b"HTTP/1.0"))
    (before,) = asked(proxy)
    before.take()
    before.send(STREAM, HELLO)
    took_over(proxy, second, session)
    assert (before.ending, first.ending) == ("aborted", "eof")


def test_a_worker_that_does_not_let_go(proxy: Stage, other: DataPlane) -> None:
    """It is dead, or stopped, or the mail to it was lost."""
    session = open_session(proxy)
    first, second = proxy.caller(), caller_at(proxy, other)
    opened(proxy, first, session)
    proxy.tell(second, get(session))
    proxy.advance(PATIENCE - 0.2)
    assert asked(proxy) == []
    proxy.advance(0.2)
    now = accepted(proxy, second)
    # What comes too late does no harm.
    deliver(proxy, other)
    assert asked(proxy) == []
    assert carries(proxy, second, now)


def test_a_worker_that_let_go_before_it_was_asked(proxy: Stage, other: DataPlane) -> None:
    session = open_session(proxy)
    first, second = proxy.caller(), caller_at(proxy, other)
    opened(proxy, first, session)
    proxy.tell(second, get(session))
    first.reset()
    deliver(proxy, other)
    accepted(proxy, second)


def test_lost_mail_is_found_out(proxy: Stage, other: DataPlane) -> None:
    session = open_session(proxy)
    first, second = proxy.caller(), caller_at(proxy, other)
    before = opened(proxy, first, session)
    proxy.tell(second, get(session))
    lose_mail(proxy)
    proxy.advance(LOOK)
    assert (before.ending, first.take()) == ("aborted", LAST)
    assert carries(proxy, second, accepted(proxy, second))


def test_a_stream_waits_a_moment_after_the_close_of_another(proxy: Stage, other: DataPlane) -> None:
    """A server that has not noticed the close answers 409, or mixes the two up."""
    session = open_session(proxy)
    slot = slot_of(proxy, session).slot
    first, second = proxy.caller(), caller_at(proxy, other)
    before = opened(proxy, first, session)
    proxy.tell(second, get(session))
    proxy.plane.end_stream(slot)
    assert before.ending == "aborted"
    other.wake(slot)
    proxy.settle()
    assert asked(proxy) == []
    proxy.loop.stall(0.015)
    other.wake(slot)  # Once is enough.
    proxy.loop.stall(0.01)
    accepted(proxy, second)


# Before the first one has an answer.


@pytest.mark.parametrize("same_worker", [True, False])
def test_a_stream_without_an_answer_gives_way(proxy: Stage, other: DataPlane, same_worker: bool) -> None:
    session = open_session(proxy)
    first = proxy.caller()
    second = proxy.caller() if same_worker else caller_at(proxy, other)
    proxy.tell(first, get(session))
    (before,) = asked(proxy)
    before.take()
    proxy.tell(second, get(session))
    deliver(proxy, other)
    assert status(first) == 409
    assert before.ending == "aborted"
    now = accepted(proxy, second)
    proxy.advance(1)
    assert carries(proxy, second, now)
    assert turn(proxy, in_session(session), client=first).answer.status == 200


def test_a_stream_that_waits_for_a_connection_gives_way() -> None:
    with pair(pool={"max_connections": 1}) as (proxy, _):
        session = open_session(proxy)
        busy, first, second = proxy.caller(), proxy.caller(), proxy.caller()
        proxy.tell(busy, in_session(session))
        (upstream,) = asked(proxy)
        upstream.take()
        proxy.tell(first, get(session))
        proxy.tell(second, get(session))
        assert status(first) == 409
        proxy.advance(SETTLE)
        upstream.send(answer())
        accepted(proxy, second)


def test_a_stream_that_waits_gives_way(proxy: Stage, other: DataPlane) -> None:
    session = open_session(proxy)
    first, second, third = proxy.caller(), caller_at(proxy, other), proxy.caller()
    before = opened(proxy, first, session)
    proxy.tell(second, get(session))
    proxy.tell(third, get(session))
    deliver(proxy, other)
    assert (before.ending, first.take()) == ("aborted", LAST)
    assert status(second) == 409
    now = accepted(proxy, third)
    proxy.advance(1)
    assert asked(proxy) == []
    assert carries(proxy, third, now)


def test_a_stream_that_waits_gives_way_without_mail(proxy: Stage, other: DataPlane) -> None:
    session = open_session(proxy)
    first, second, third = proxy.caller(), caller_at(proxy, other), proxy.caller()
    opened(proxy, first, session)
    proxy.tell(second, get(session))
    proxy.tell(third, get(session))
    lose_mail(proxy)
    proxy.advance(PATIENCE)
    assert status(second) == 409
    assert carries(proxy, third, accepted(proxy, third))


def test_a_client_that_leaves_while_it_waits(proxy: Stage, other: DataPlane) -> None:
    session = open_session(proxy)
    first, second = proxy.caller(), caller_at(proxy, other)
    opened(proxy, first, session)
    proxy.tell(second, get(session))
    second.reset()
    deliver(proxy, other)
    proxy.advance(1)
    assert asked(proxy) == []
    # And has left the stream to others.
    third = caller_at(proxy, other)
    opened(proxy, third, session)


@pytest.mark.parametrize("mail", [True, False])
def test_a_session_that_ends_while_its_stream_waits(proxy: Stage, other: DataPlane, mail: bool) -> None:
    session = open_session(proxy)
    first, second = proxy.caller(), caller_at(proxy, other)
    opened(proxy, first, session)
    proxy.tell(second, get(session))
    found = slot_of(proxy, session)
    lose_mail(proxy)
    end_session(proxy, found.slot, found.version)
    if mail:
        deliver(proxy, other)
    else:
        proxy.advance(PATIENCE)
    assert status(second) == 404
    assert len(farewells(proxy)) == 1


# Resumptions.


@pytest.mark.parametrize("same_worker", [True, False])
def test_a_resumption_stands_beside_the_stream(proxy: Stage, other: DataPlane, same_worker: bool) -> None:
    session = open_session(proxy)
    first, third = proxy.caller(), proxy.caller()
    second = proxy.caller() if same_worker else caller_at(proxy, other)
    standing = opened(proxy, first, session)
    proxy.tell(second, get(session, "event-5"))
    (upstream,) = asked(proxy)
    assert b"Last-Event-ID: event-5\r\n" in upstream.received
    resumed = accepted(proxy, second)
    deliver(proxy, other)
    proxy.advance(LOOK)
    assert carries(proxy, first, standing)
    assert carries(proxy, second, resumed)
    # And stays when the stream is taken over, or ends.
    following = took_over(proxy, third, session)
    assert (standing.ending, first.take()) == ("aborted", LAST)
    third.reset()
    assert following.ending == "aborted"
    deliver(proxy, other)
    proxy.advance(LOOK)
    assert carries(proxy, second, resumed)


@pytest.mark.parametrize("same_worker", [True, False])
def test_a_resumption_is_never_the_owner(proxy: Stage, other: DataPlane, same_worker: bool) -> None:
    session = open_session(proxy)
    first = proxy.caller()
    second = proxy.caller() if same_worker else caller_at(proxy, other)
    resumed = opened(proxy, first, session, "5")
    stream = opened(proxy, second, session)
    deliver(proxy, other)
    proxy.advance(LOOK)
    assert carries(proxy, first, resumed)
    assert carries(proxy, second, stream)


def test_an_empty_event_id_resumes_nothing(proxy: Stage) -> None:
    session = open_session(proxy)
    first, second = proxy.caller(), proxy.caller()
    opened(proxy, first, session)
    took_over(proxy, second, session, "")
    assert first.take() == LAST


# Locks.


@pytest.mark.parametrize("fate", ["new incarnation", "end"])
def test_what_happens_to_a_session_while_its_slot_is_locked(
    proxy: Stage, other: DataPlane, fate: str
) -> None:
    session = open_session(proxy)
    proxy.advance(0.3)  # Past a look of the worker at what is open.
    found = slot_of(proxy, session)
    table = other.sessions.table
    table._slots.lock(found.slot)
    client = proxy.caller()
    proxy.tell(client, get(session))
    table._slots.unlock(found.slot)
    if fate == "end":
        assert table.delete(found) is not None
    else:
        assert table.update(found, lambda record: record, repin=True) is not None
    proxy.advance(0.1)
    if fate == "end":
        assert status(client) == 404
    else:
        accepted(proxy, client)
        # It is the owner, as the next one finds.
        took_over(proxy, proxy.caller(), session)
        assert client.take() == LAST


@pytest.mark.parametrize("released", [True, False])
def test_a_stream_whose_slot_is_locked(proxy: Stage, other: DataPlane, released: bool) -> None:
    session = open_session(proxy)
    found = slot_of(proxy, session)
    slots = other.sessions.table._slots
    slots.lock(found.slot)
    client = proxy.caller()
    proxy.tell(client, get(session))
    assert asked(proxy) == []
    if released:
        slots.unlock(found.slot)
    proxy.advance(0.1)
    if released:
        accepted(proxy, client)
    else:
        assert status(client) == 503
        slots.unlock(found.slot)


def test_a_stream_that_ends_while_its_slot_is_locked(proxy: Stage, other: DataPlane) -> None:
    session = open_session(proxy)
    client = proxy.caller()
    opened(proxy, client, session)
    found = slot_of(proxy, session)
    slots = other.sessions.table._slots
    slots.lock(found.slot)
    client.reset()
    proxy.advance(1)
    slots.unlock(found.slot)
    proxy.advance(0.1)
    opened(proxy, caller_at(proxy, other), session)
