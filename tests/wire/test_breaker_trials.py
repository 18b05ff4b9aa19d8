"""Breakers that are half-open or in each other's way: trials, locks, several upstreams, sessions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from shadowcat.config.model import Breaker, Route, Upstream
from shadowcat.config.units import Duration
from shadowcat.policy.breaker import Event
from shadowcat.shm.locks import Locks
from shadowcat.shm.shared import SUPERVISOR, worker_number
from shadowcat.testing.loopback import Peer

from .breakers import (
    CALL,
    CUT_OFF,
    FAILURES,
    NAME,
    OPEN_FOR,
    SECTION,
    TIMES,
    TRIALS,
    Failing,
    answering,
    asked,
    is_open,
    kept_away,
    opened,
    reset,
    status,
    succeed,
    times_opened,
)
from .servers import TOOL, Servers, lose
from .sessions import INITIALIZE, answer, in_session, named, open_session, sibling, turn
from .stage import MODERN, OK, STREAM, Stage, bare, chunk, message, post, split, stage


@pytest.fixture
def proxy() -> Iterator[Stage]:
    with stage(breaker=SECTION, timeouts=TIMES, workers=2, retry={"attempts": 1}) as made:
        yield made


# Half-open


def trials(proxy: Stage, count: int = TRIALS, sent: bytes = CALL) -> list[tuple[Peer, Peer]]:
    """Requests that are let through although the breaker is not closed."""
    found = []
    for _ in range(count):
        client, upstream = asked(proxy, sent)
        assert upstream is not None
        found.append((client, upstream))
    return found


def half_open(proxy: Stage) -> list[tuple[Peer, Peer]]:
    opened(proxy)
    proxy.advance(OPEN_FOR + 0.1)
    return trials(proxy)


def test_a_few_try_and_close_it(proxy: Stage) -> None:
    other = sibling(proxy)
    (_, first), (_, second) = half_open(proxy)
    assert is_open(proxy)
    assert is_open(proxy, plane=other)
    got = kept_away(proxy)
    assert got is not None
    assert got.header("Retry-After") == "1"
    succeed(proxy, first)
    ((_, third),) = trials(proxy, 1)
    assert is_open(proxy, plane=other)
    succeed(proxy, second)
    assert not is_open(proxy, plane=other)
    trials(proxy, 10)
    # A trial that was still under way when it closed has no more to say.
    reset(proxy, third)
    assert not is_open(proxy)
    assert times_opened(proxy) == 1


@pytest.mark.parametrize("failing", [reset, CUT_OFF, answering(status("503 No"))])
def test_one_failure_opens_it_again(proxy: Stage, failing: Failing) -> None:
    (_, upstream), _ = half_open(proxy)
    failing(proxy, upstream)
    assert is_open(proxy)
    assert times_opened(proxy) == 2
    proxy.advance(OPEN_FOR - 0.2)
    assert is_open(proxy)
    proxy.advance(0.4)
    trials(proxy)


def test_a_refused_trial_opens_it_again(proxy: Stage) -> None:
    opened(proxy)
    proxy.advance(OPEN_FOR + 0.1)
    proxy.loop.failures.append(ConnectionRefusedError(111, "no"))
    got = kept_away(proxy)
    assert got is not None
    assert got.status == 502
    assert is_open(proxy)
    assert times_opened(proxy) == 2


def test_trials_that_show_nothing_are_given_back(proxy: Stage) -> None:
    for client, upstream in half_open(proxy):
        client.abort()  # Modern: that cancels it.
        proxy.settle()
        assert upstream.ending == "aborted"
    proxy.loop.answering = False
    waiting = [proxy.caller() for _ in range(TRIALS)]
    for client in waiting:
        proxy.tell(client, CALL)
        assert client.take() == b""
    assert is_open(proxy)
    for client in waiting:
        client.abort()
    proxy.loop.answering = True
    proxy.advance(5.2)  # The dials, of which nobody waits any more, end.
    trials(proxy)


@pytest.mark.parametrize(
    "reply",
    [answer(b"{}", status="404 No"), answer(b"{}", status="500 Oops"), STREAM],
    ids=["404", "500", "stream"],
)
def test_the_head_is_enough_for_a_trial(proxy: Stage, reply: bytes) -> None:
    for _, upstream in half_open(proxy):
        upstream.send(reply)
        proxy.settle()
    assert not is_open(proxy)


def test_a_trial_that_hangs_loses_its_place(proxy: Stage) -> None:
    with stage(breaker=SECTION) as proxy:
        opened(proxy)
        proxy.advance(OPEN_FOR + 0.1)
        hanging = trials(proxy)
        proxy.advance(OPEN_FOR - 0.2)
        assert is_open(proxy)
        proxy.advance(0.3)
        trials(proxy)
        assert is_open(proxy)
        # It still tells how it went.
        reset(proxy, hanging[0][1])
        assert times_opened(proxy) == 2


def test_a_trial_of_another_time_has_no_say() -> None:
    with stage(breaker=SECTION) as proxy:
        (_, hanging), (_, failing) = half_open(proxy)
        reset(proxy, failing)
        proxy.advance(OPEN_FOR + 0.1)
        ((_, present), _) = trials(proxy)
        reset(proxy, hanging)
        assert times_opened(proxy) == 2
        succeed(proxy, present)
        trials(proxy, 1)


def test_a_session_that_is_unknown_is_an_answer() -> None:
    with stage(breaker=SECTION, sessions={"recovery": "expire"}, retry={"attempts": 1}) as proxy:
        sessions = [open_session(proxy, f"up-{number}") for number in range(TRIALS)]
        opened(proxy)
        proxy.advance(OPEN_FOR + 0.1)
        for session in sessions:
            assert turn(proxy, in_session(session), answer(b"{}", status="404 No")).answer.status == 404
        trials(proxy, 10)


def test_trials_of_a_worker_that_died_are_given_back(proxy: Stage) -> None:
    half_open(proxy)
    assert is_open(proxy)
    locks = Locks(proxy._shared._region)
    supervisor = proxy._shared.breakers_with(locks, SUPERVISOR)
    supervisor.repair(worker_number(1))
    assert is_open(proxy)
    supervisor.repair(worker_number(0))
    locks.close()
    other = sibling(proxy)
    for _ in range(TRIALS):
        _, upstream = asked(proxy, plane=other)
        assert upstream is not None
    assert is_open(proxy, plane=other)


# Locks


def line_of(proxy: Stage) -> int:
    return proxy._shared.board.breaker_line(0)


def test_a_lock_in_the_way_of_opening_only_delays_it(proxy: Stage) -> None:
    locks = Locks(proxy._shared._region)
    locks.acquire(line_of(proxy))
    opened(proxy)
    assert not is_open(proxy)
    locks.release(line_of(proxy))
    proxy.advance(0.1)
    assert is_open(proxy)
    assert times_opened(proxy) == 1
    locks.close()


def test_who_asks_while_the_lock_is_held_is_kept_away(proxy: Stage) -> None:
    opened(proxy)
    proxy.advance(OPEN_FOR + 0.1)
    locks = Locks(proxy._shared._region)
    locks.acquire(line_of(proxy))
    assert is_open(proxy)
    locks.close()
    trials(proxy)


# Several upstreams


def pair(**options: Any) -> Any:
    return stage(upstreams=2, breaker=SECTION, retry={"attempts": 1}, **options)


def where(proxy: Stage, sent: bytes = CALL) -> str:
    """Where a request goes; it is answered."""
    client = proxy.caller()
    proxy.tell(client, sent)
    (upstream,) = [each for each in proxy.upstreams if each.writes]
    (got,) = split(upstream.take())
    succeed(proxy, upstream)
    client.abort()
    proxy.settle()
    host = got.header("Host")
    assert host is not None
    return host[0]


def open_one(proxy: Stage, name: str) -> None:
    """Fail all that goes to one of two until its breaker opens."""
    metric = "breaker_opened_total", "/mcp", f"{name}.example:3001"
    while not proxy.metric(*metric):
        client = proxy.caller()
        proxy.tell(client, CALL)
        for upstream in [each for each in proxy.upstreams if each.writes]:
            (got,) = split(upstream.take())
            assert got.header("Host") is not None
            if (got.header("Host") or "")[0] == name:
                reset(proxy, upstream)
            else:
                succeed(proxy, upstream)
        client.abort()
        proxy.settle()


def test_others_are_chosen_meanwhile() -> None:
    with pair() as proxy:
        open_one(proxy, "a")
        assert {where(proxy) for _ in range(6)} == {"b"}
        assert {where(proxy, post(INITIALIZE)) for _ in range(6)} == {"b"}
        open_one(proxy, "b")
        proxy.advance(3)
        got = kept_away(proxy)
        assert got is not None
        assert (got.status, got.header("Retry-After")) == (503, "7")
        assert got.error["error"]["data"] == {"retryAfterSeconds": 7}
        proxy.advance(OPEN_FOR - 2.9)
        # As many as may try each of them.
        assert {asked(proxy)[1] is None for _ in range(2 * TRIALS)} == {False}
        got = kept_away(proxy)
        assert got is not None
        assert (got.status, got.header("Retry-After")) == (503, "1")


def test_what_may_not_try_goes_elsewhere_and_is_no_retry() -> None:
    with pair() as proxy:
        open_one(proxy, "a")
        proxy.advance(OPEN_FOR + 0.1)
        held = []
        while len(held) < TRIALS:
            client = proxy.caller()
            proxy.tell(client, CALL)
            (upstream,) = [each for each in proxy.upstreams if each.writes]
            (got,) = split(upstream.take())
            if got.header("Host") == NAME:
                held.append(upstream)
            else:
                succeed(proxy, upstream)
        retries = proxy.plane.routes[0].retries._retries
        assert {where(proxy) for _ in range(8)} == {"b"}
        assert proxy.plane.routes[0].retries._retries == retries


# Sessions


def test_a_session_outlives_an_open_breaker(proxy: Stage) -> None:
    session = open_session(proxy)
    opened(proxy)
    for sent in (in_session(session), bare("GET", named(session)), bare("DELETE", named(session))):
        got = kept_away(proxy, sent)
        assert got is not None
        assert (got.status, got.header("Retry-After")) == (503, str(OPEN_FOR))
        assert got.error["error"]["data"]["upstream"] == NAME
    proxy.advance(OPEN_FOR + 0.1)
    for _ in range(TRIALS + 1):
        _, upstream = asked(proxy, in_session(session))
        assert upstream is not None
        succeed(proxy, upstream)


def test_those_that_wait_for_a_restart_are_not_kept_away(proxy: Stage) -> None:
    servers = Servers(proxy)
    session = servers.open()
    lose(servers, session)
    waiting = [servers.tell(in_session(session, TOOL)) for _ in range(FAILURES)]
    # Each of them was refused once, and that opened it; what it is refused after that does not count.
    assert times_opened(proxy) == 1
    assert servers.ping(session).status == 503
    servers.advance(2)
    assert len(proxy.loop.dialled) > 2 * FAILURES
    assert times_opened(proxy) == 1
    assert [client.take() for client in waiting] == [b""] * FAILURES
    servers.refusing.clear()
    servers.advance(0.4)
    assert [servers.received(client).status for client in waiting] == [200] * FAILURES
    assert servers.ping(session).status == 503
    servers.advance(OPEN_FOR)
    assert [servers.ping(session).status for _ in range(TRIALS + 1)] == [200] * (TRIALS + 1)


def test_redials_do_not_open_it(proxy: Stage) -> None:
    servers = Servers(proxy)
    session = servers.open()
    lose(servers, session)
    client = servers.tell(in_session(session, TOOL))
    servers.advance(2)
    assert len(proxy.loop.dialled) > 2 * FAILURES
    assert times_opened(proxy) == 0
    servers.refusing.clear()
    servers.advance(0.4)
    assert servers.received(client).status == 200


def test_an_open_upstream_gets_no_goodbyes(proxy: Stage) -> None:
    session = open_session(proxy)
    opened(proxy)
    slot = proxy.plane.sessions.table.find(session.encode(), int(proxy.loop.time() * 1e9))
    assert slot is not None
    dialled = len(proxy.loop.dialled)
    proxy.plane.end_session((slot.version & 0xFFFFFF) << 24 | slot.slot)
    proxy.settle()
    assert len(proxy.loop.dialled) == dialled
    assert not any(each.writes for each in proxy.upstreams)


def test_a_session_is_brought_back_past_an_open_breaker() -> None:
    with stage(upstreams=2, breaker=SECTION, retry={"attempts": 1}) as proxy:
        servers = Servers(proxy)
        session = servers.open()
        (home,) = set(servers.sessions.values())
        other = "b" if home.startswith("a") else "a"
        open_one(proxy, other)
        proxy.advance(1)
        servers.forget()
        assert servers.ping(session).status == 200
        assert {each.host for each in servers.seen} == {home}


def test_a_session_is_brought_back_elsewhere_if_all_trials_are_taken() -> None:
    section = Breaker(open_for=Duration(60), half_open_requests=1)
    with stage(upstreams=3, breaker=section, balance={"strategy": "healthy_first"}) as proxy:
        servers = Servers(proxy)
        session = servers.open()
        locks = Locks(proxy._shared._region)
        breakers = proxy._shared.breakers_with(locks, worker_number(0))
        now = int(proxy.loop.time() * 1e9)
        breakers.step(1, Event.TRIPPED, section, now - 61 * 10**9)
        assert breakers.step(1, Event.ASKED, section, now).lease
        locks.close()
        servers.forget()
        servers.initialize_answers["a.example:3001"] = answer(b"{}", status="500 No")
        servers.seen.clear()
        assert servers.ping(session).status == 200
        assert [each.host[0] for each in servers.seen if each.host] == list("aaccc")


def test_what_only_one_can_serve_goes_nowhere_else() -> None:
    with stage(upstreams=2, breaker=SECTION, retry={"attempts": 1}) as proxy:
        created = b'{"jsonrpc":"2.0","id":7,"result":{"resultType":"task","taskId":"t-1","status":"working"}}'
        home = turn(proxy, CALL, answer(created)).host[0]
        presents = post(b'{"jsonrpc":"2.0","id":7,"method":"tasks/get","params":{"taskId":"t-1"}}', MODERN)
        assert {where(proxy, presents) for _ in range(4)} == {home}
        open_one(proxy, home)
        got = kept_away(proxy, presents)
        assert got is not None
        assert got.error["error"]["data"]["upstream"] == f"{home}.example:3001"


# What it rests on


def test_each_route_has_its_own() -> None:
    upstream = Upstream(url="http://a.example:3001/mcp")
    with stage(breaker=SECTION, routes=[Route(path="/plain", upstreams=[upstream])]) as proxy:
        opened(proxy)
        assert is_open(proxy)
        assert not is_open(proxy, post(message(), MODERN, path="/plain"))


def test_times_to_the_head_are_added_up(proxy: Stage) -> None:
    for reads in ((OK,), (OK[:20], OK[20:]), (STREAM, chunk(b"data: 1\n\n"), chunk(b""))):
        client, upstream = asked(proxy)
        assert upstream is not None
        proxy.advance(0.5)
        for read in reads:
            upstream.send(read)
        proxy.settle()
        client.abort()
        proxy.advance(0.2)
    assert proxy.metric("upstream_responses_total", "/mcp", NAME) == 3
    assert proxy.metric("upstream_response_seconds_total", "/mcp", NAME) == pytest.approx(1.5e9)
