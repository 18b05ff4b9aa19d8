"""The circuit breaker of an upstream: what opens it, for whom, and what clients are told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from shadowcat.config.model import Breaker
from shadowcat.config.units import Duration

from .breakers import (
    CALL,
    CUT_OFF,
    FAILURES,
    LIST,
    NAME,
    OPEN_FOR,
    SECTION,
    TIMES,
    TRIALS,
    TRUNCATED,
    Failing,
    answering,
    asked,
    fail,
    is_open,
    keep_waiting,
    kept_away,
    opened,
    reset,
    status,
    succeed,
    times_opened,
)
from .sessions import INITIALIZE, answer, caller_at, sibling
from .stage import MODERN, STREAM, Stage, bare, chunk, message, post, split, stage


@pytest.fixture
def proxy() -> Iterator[Stage]:
    with stage(breaker=SECTION, timeouts=TIMES, workers=2, retry={"attempts": 1}) as made:
        yield made


LISTEN = post(message("subscriptions/listen"), MODERN)
READ = post(message("resources/read"), MODERN)


# What opens it


@pytest.mark.parametrize(
    ("sent", "failing"),
    [
        (CALL, reset),
        (CALL, answering(b"HTTP/1.1 200", ends=True)),
        (CALL, TRUNCATED),
        (CALL, CUT_OFF),
        (CALL, answering(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nabc", ends=True)),
        (CALL, answering(b"\x16\x03\x01\r\n\r\n")),
        (CALL, answering(STREAM + b"zz\r\n")),
        (CALL, answering(STREAM, b"zz\r\n")),
        (CALL, answering(status("502 Bad Gateway"))),
        (CALL, answering(status("503 Service Unavailable"))),
        (CALL, answering(status("504 Gateway Timeout"))),
        (CALL, answering(STREAM.replace(b"200 OK", b"503 No"), chunk(b"x"))),
        (LIST, keep_waiting),
        (READ, keep_waiting),
    ],
    ids=[
        *("reset", "head-cut", "stream-cut", "body-cut", "small-cut", "garbage", "bad-chunk", "bad-later"),
        *("502", "503", "504", "stream-503", "late-list", "late-read"),
    ],
)
def test_what_opens_it(proxy: Stage, sent: bytes, failing: Failing) -> None:
    for _ in range(FAILURES):
        client, upstream = asked(proxy, sent)
        assert upstream is not None
        failing(proxy, upstream)
        client.abort()
        proxy.settle()
    assert is_open(proxy)
    assert times_opened(proxy) == 1


def test_refused_connections_open_it(proxy: Stage) -> None:
    for _ in range(FAILURES):
        proxy.loop.failures.append(ConnectionRefusedError(111, "no"))
        got = kept_away(proxy)
        assert got is not None
        assert got.status == 502
    assert is_open(proxy)


def test_connecting_that_takes_too_long_opens_it() -> None:
    with stage(breaker=SECTION, pool={"connect_timeout": 1, "queue_timeout": 3}) as proxy:
        proxy.loop.answering = False
        for _ in range(FAILURES):
            client, upstream = asked(proxy)
            assert upstream is None
            proxy.advance(1.2)
            client.abort()
            proxy.settle()
        assert is_open(proxy)


def test_answers_that_are_known_by_heart_count_too() -> None:
    section = Breaker(consecutive_failures=10)
    with stage(breaker=section) as proxy:
        for _ in range(10):
            client, upstream = asked(proxy)
            assert upstream is not None
            upstream.send(status("503 No"))
            proxy.settle()
            client.abort()
            proxy.settle()
        assert len(proxy.loop.dialled) == 1
        assert is_open(proxy)


def test_second_tries_count_too() -> None:
    with stage(breaker=SECTION, retry={"attempts": 2}) as proxy:
        for _ in range(2):
            client, upstream = asked(proxy, LIST)
            assert upstream is not None
            reset(proxy, upstream)
            (again,) = [each for each in proxy.upstreams if each.writes] or [None]
            if again is not None:
                again.take()
                reset(proxy, again)
            (got,) = split(client.take())
            client.abort()
            proxy.settle()
        # The second request's own failure was the third: it is not sent again.
        assert (got.status, got.error["error"]["data"]["upstream"]) == (503, NAME)


# What does not


@pytest.mark.parametrize(
    ("sent", "reply"),
    [
        (CALL, answer(b"{}", status="404 Not Found")),
        (CALL, answer(b"{}", status="400 Bad")),
        (CALL, answer(b"{}", status="401 No")),
        (CALL, answer(b"{}", status="429 Slow")),
        (CALL, answer(b"{}", status="500 Oops")),
        (CALL, answer(b'{"jsonrpc":"2.0","id":7,"result":{"content":[],"isError":true}}')),
        (CALL, answer(b'{"jsonrpc":"2.0","id":7,"error":{"code":-32601,"message":"?"}}')),
        (bare("GET", MODERN), answer(b"{}", status="405 No")),
        (post(INITIALIZE), answer(b"{}", status="503 Full")),
    ],
    ids=["404", "400", "401", "429", "500", "tool-error", "rpc-error", "get-405", "initialize-503"],
)
def test_answers_do_not_open_it(proxy: Stage, sent: bytes, reply: bytes) -> None:
    fail(proxy, times=FAILURES - 1)
    for _ in range(FAILURES):
        client, upstream = asked(proxy, sent)
        assert upstream is not None
        upstream.send(reply)
        proxy.settle()
        assert client.take().startswith(reply[:12])
        client.abort()
        proxy.settle()
    assert not is_open(proxy)
    assert times_opened(proxy) == 0


@pytest.mark.parametrize("sent", [CALL, post(INITIALIZE)], ids=["call", "initialize"])
def test_an_answer_ends_the_row(proxy: Stage, sent: bytes) -> None:
    for _ in range(3):
        fail(proxy, times=FAILURES - 1)
        client, upstream = asked(proxy, sent)
        assert upstream is not None
        succeed(proxy, upstream)
        client.abort()
        proxy.settle()
    fail(proxy)
    assert not is_open(proxy)


def test_a_new_session_refused_for_want_of_room_says_nothing(proxy: Stage) -> None:
    fail(proxy, times=FAILURES - 1)
    client, upstream = asked(proxy, post(INITIALIZE))
    assert upstream is not None
    upstream.send(status("503 Full"))
    proxy.settle()
    client.abort()
    proxy.settle()
    fail(proxy)
    assert is_open(proxy)


def test_slow_tools_do_not_open_it(proxy: Stage) -> None:
    for begun in (b"", STREAM) * FAILURES:
        client, upstream = asked(proxy)
        assert upstream is not None
        upstream.send(*[begun][: bool(begun)])
        proxy.advance(2.3)
        assert upstream.ending == "aborted"
        client.abort()
        proxy.settle()
    assert not is_open(proxy)


@pytest.mark.parametrize("begun", [b"", STREAM], ids=["waiting", "streaming"])
@pytest.mark.parametrize("sent", [LIST, post(message("tools/list"))], ids=["modern", "legacy"])
def test_clients_that_leave_do_not_open_it(proxy: Stage, sent: bytes, begun: bytes) -> None:
    for _ in range(2 * FAILURES):
        client, upstream = asked(proxy, sent)
        assert upstream is not None
        if begun:
            upstream.send(begun)
        client.abort()
        proxy.settle()
        proxy.advance(1.3)  # A legacy request goes on for `detached`.
        assert upstream.ending == "aborted"
    assert not is_open(proxy)


@pytest.mark.parametrize("sent", [bare("GET", MODERN), LISTEN], ids=["get", "listen"])
def test_endless_streams_that_end_do_not_open_it(proxy: Stage, sent: bytes) -> None:
    for _ in range(2 * FAILURES):
        client, upstream = asked(proxy, sent)
        assert upstream is not None
        TRUNCATED(proxy, upstream)
        client.abort()
        proxy.settle()
    assert not is_open(proxy)


def test_without_the_section_there_is_none() -> None:
    with stage() as proxy:
        opened(proxy)
        opened(proxy)
        assert not is_open(proxy)


# What a client is told


@pytest.mark.parametrize("era", [(), (MODERN,)], ids=["legacy", "modern"])
def test_what_an_agent_reads(proxy: Stage, era: tuple[Any, ...]) -> None:
    opened(proxy)
    proxy.advance(2.5)
    got = kept_away(proxy, post(message(), *era))
    assert got is not None
    assert (got.status, got.header("Retry-After"), got.error["id"]) == (503, "8", 7)
    error = got.error["error"]
    assert error == {
        "code": -32603,
        "message": f"upstream keeps failing, so nothing was sent to it: {NAME}; try again in 8 s",
        "data": {"retryAfterSeconds": 8, "upstream": NAME},
    }
    proxy.advance(0.2)
    assert proxy.metric("breaker_refusals_total", "/mcp", NAME) == 1
    assert proxy.metric("refusals_total", "breaker_open") == 1
    proxy.advance(OPEN_FOR - 2.7 - 0.1)
    assert is_open(proxy)
    proxy.advance(0.2)
    assert not is_open(proxy)


@pytest.mark.parametrize(
    "sent",
    [CALL, LIST, post(), post(INITIALIZE), bare("GET", MODERN), post(b'{"jsonrpc":"2.0","method":"n"}')],
    ids=["call", "list", "legacy", "initialize", "get", "notification"],
)
def test_nothing_is_sent_while_it_is_open(proxy: Stage, sent: bytes) -> None:
    opened(proxy)
    assert is_open(proxy, sent)
    assert proxy.metric("sessions_opening", "/mcp", NAME) == 0


def test_who_waits_for_a_connection_is_turned_away() -> None:
    with stage(breaker=SECTION, pool={"max_connections": FAILURES}) as proxy:
        busy = [asked(proxy) for _ in range(FAILURES)]
        waiting = [proxy.caller() for _ in range(4)]
        for client in waiting:
            proxy.tell(client, CALL)
        for _, upstream in busy:
            assert upstream is not None
            upstream.reset()
        for client in waiting:
            (got,) = split(client.take())
            assert (got.status, got.header("Retry-After")) == (503, str(OPEN_FOR))
        proxy.settle()
        assert not any(each.writes for each in proxy.upstreams)


def test_who_waits_at_another_worker_is_turned_away() -> None:
    with stage(breaker=SECTION, pool={"max_connections": FAILURES}, workers=2) as proxy:
        other = sibling(proxy)
        busy = [asked(proxy)[1] for _ in range(FAILURES)]
        waiting = caller_at(proxy, other)
        proxy.tell(waiting, CALL)
        for upstream in busy:
            assert upstream is not None
            upstream.reset()
        for pool in other.routes[0].pools:
            pool.publish()  # Its clock does not run.
        (got,) = split(waiting.take())
        assert (got.status, got.header("Retry-After")) == (503, str(OPEN_FOR))
        proxy.settle()
        assert not any(each.writes for each in proxy.upstreams)
        waiting.abort()


# One for the host


def test_it_opens_for_all_workers_and_once(proxy: Stage) -> None:
    other = sibling(proxy)
    begun = [asked(proxy, plane=plane) for plane in (None, other) * FAILURES]
    opened(proxy)
    assert is_open(proxy)
    assert is_open(proxy, plane=other)
    # What was under way before it opened neither opens it again nor closes it.
    for client, upstream in begun:
        assert upstream is not None
        reset(proxy, upstream)
        client.abort()
        proxy.settle()
    assert is_open(proxy, plane=other)
    assert times_opened(proxy) == 1


def test_failures_in_a_row_are_a_workers_own(proxy: Stage) -> None:
    other = sibling(proxy)
    fail(proxy, times=FAILURES - 1)
    fail(proxy, other, times=FAILURES - 1)
    assert not is_open(proxy)
    fail(proxy, other)
    assert is_open(proxy)


def test_the_error_rate_is_the_hosts() -> None:
    section = Breaker(consecutive_failures=1000, min_requests=20, error_rate=0.5, window=Duration(30))
    with stage(breaker=section, workers=2) as proxy:
        other = sibling(proxy)
        for plane in (None, other):
            for _ in range(6):
                client, upstream = asked(proxy, plane=plane)
                assert upstream is not None
                succeed(proxy, upstream)
                client.abort()
                proxy.settle()
        for pool in other.routes[0].pools:
            pool.publish()  # Its clock does not run.
        proxy.advance(0.2)
        fail(proxy, times=6)
        fail(proxy, other, times=5)
        assert times_opened(proxy) == 0  # 11 of 23
        fail(proxy, other)
        assert times_opened(proxy) == 1
        assert is_open(proxy)


def test_failures_before_it_closed_do_not_open_it_again() -> None:
    section = Breaker(
        consecutive_failures=1000, min_requests=4, error_rate=0.5, open_for=Duration(1), half_open_requests=1
    )
    with stage(breaker=section) as proxy:
        fail(proxy, times=4)
        assert is_open(proxy)
        proxy.advance(1.1)
        _, upstream = asked(proxy)
        assert upstream is not None
        succeed(proxy, upstream)
        fail(proxy, times=3)
        assert not is_open(proxy)
        assert times_opened(proxy) == 1


def test_a_row_begins_anew_in_every_worker_when_it_has_closed(proxy: Stage) -> None:
    other = sibling(proxy)
    opened(proxy)
    proxy.advance(OPEN_FOR + 0.1)
    for _ in range(TRIALS):
        _, upstream = asked(proxy, plane=other)
        assert upstream is not None
        succeed(proxy, upstream)
    fail(proxy, times=FAILURES - 1)
    assert not is_open(proxy)
    fail(proxy)
    assert times_opened(proxy) == 2
