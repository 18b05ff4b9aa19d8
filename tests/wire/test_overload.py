"""Requests that wait for others to end: which go first, which are given up, and what is never held up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from msgspec.structs import replace

from shadowcat.config.model import Overload, Route, Upstream
from shadowcat.config.units import Duration
from shadowcat.proxy.plane import DataPlane
from shadowcat.testing.loopback import Peer

from .rates import own
from .sessions import INITIALIZE, NOTE, PING, answer, caller_at, in_session, open_session, result, sibling
from .stage import MODERN, OK, STREAM, Stage, bare, message, post, split, stage

CALL = post(message(), MODERN)
PATHS = {"low": "/low", "high": "/high"}
ANSWER_TO_SERVER = b'{"jsonrpc":"2.0","id":"s1","result":{}}'


@contextmanager
def host(
    limit: int = 1, *, queue: int = 8, timeout: float = 1.0, workers: int = 1, **options: Any
) -> Iterator[Stage]:
    overload = Overload(max_in_flight=limit, queue=queue, queue_timeout=Duration(timeout))
    routes = [
        Route(path=path, priority=priority, upstreams=[Upstream(url=f"http://{priority}.example/mcp")])
        for priority, path in PATHS.items()
    ]
    with stage(overload=overload, routes=routes, workers=workers, **options) as proxy:
        yield proxy


def ask(proxy: Stage, sent: bytes = CALL, plane: DataPlane | None = None) -> Peer:
    """A client that has sent a request."""
    client = caller_at(proxy, plane or proxy.plane)
    proxy.tell(client, sent)
    return client


def arrived(proxy: Stage) -> list[Peer]:
    """The upstream connections that have got a request which is not answered."""
    return [upstream for upstream in proxy.upstreams if upstream.writes and upstream.ending == "open"]


def serve(proxy: Stage, reply: bytes = OK) -> bytes:
    """Let the one request at an upstream be answered; what it was."""
    (upstream,) = arrived(proxy)
    request = upstream.take()
    upstream.send(reply)
    proxy.settle()
    return request


def outcome(client: Peer) -> int | None:
    """The status of the answer; None as long as there is none."""
    answers = split(client.received)
    return answers[0].status if answers else None


def outcomes(clients: dict[str, Peer]) -> dict[str, int | None]:
    return {name: outcome(client) for name, client in clients.items()}


def test_one_more_waits_until_another_has_ended() -> None:
    with host() as proxy:
        first, second = ask(proxy), ask(proxy)
        assert len(arrived(proxy)) == 1
        serve(proxy)
        assert (outcome(first), outcome(second)) == (200, None)
        serve(proxy)
        assert outcome(second) == 200
        proxy.advance(0.2)
        assert (proxy.metric("overload_in_flight"), proxy.metric("overload_queue")) == (0, 0)


def test_without_a_bound_nobody_waits() -> None:
    with stage() as proxy:
        for _ in range(50):
            ask(proxy)
        assert len(arrived(proxy)) == 50


def test_the_levels_are_published() -> None:
    with host(2) as proxy:
        for _ in range(5):
            ask(proxy)
        proxy.advance(0.1)
        assert (proxy.metric("overload_in_flight"), proxy.metric("overload_queue")) == (2, 3)


def test_who_waits_too_long_is_told_when_to_come_back() -> None:
    with host(timeout=0.5) as proxy:
        ask(proxy)
        second = ask(proxy)
        proxy.advance(0.4)
        assert outcome(second) is None
        proxy.advance(0.2)
        (got,) = split(second.take())
        assert (got.status, got.header("Retry-After"), got.code) == (503, "1", -32603)
        assert got.error["id"] == 7
        assert second.ending == "open"
        assert proxy.metric("shed_total", "/mcp") == 1
        assert proxy.metric("refusals_total", "overloaded") == 1
        proxy.tell(second, CALL)
        serve(proxy)
        serve(proxy)
        assert split(second.take())[0].status == 200


@pytest.mark.parametrize("keys", [{"queue": 0}, {"timeout": 0.0}])
def test_where_nobody_may_wait(keys: dict[str, Any]) -> None:
    with host(**keys) as proxy:
        ask(proxy)
        assert outcome(ask(proxy)) == 503


def test_the_queue_is_bounded() -> None:
    with host(queue=3) as proxy:
        clients = [ask(proxy) for _ in range(6)]
        assert [outcome(client) for client in clients] == [None, None, None, None, 503, 503]


def test_when_it_stands_the_newest_is_served_and_the_oldest_given_up() -> None:
    with host(queue=2) as proxy:
        clients = {"running": ask(proxy), "old": ask(proxy), "older": ask(proxy)}
        proxy.advance(0.2)
        clients["new"] = ask(proxy)
        proxy.settle()
        assert outcomes(clients) == {"running": None, "old": 503, "older": None, "new": None}
        serve(proxy)
        serve(proxy)
        assert outcomes(clients) == {"running": 200, "old": 503, "older": None, "new": 200}


def test_new_sessions_are_given_up_first_then_what_is_worth_less() -> None:
    with host(queue=4) as proxy:
        ask(proxy)
        clients = {
            "high": ask(proxy, post(message(), MODERN, path="/high")),
            "opening": ask(proxy, post(INITIALIZE, path="/high")),
            "low": ask(proxy, post(message(), MODERN, path="/low")),
            "normal": ask(proxy),
        }
        for number, given_up in enumerate(("opening", "low", "normal")):
            clients[f"more {number}"] = ask(proxy, post(message(), MODERN, path="/high"))
            proxy.settle()
            found = outcomes(clients)
            assert found.pop(given_up) == 503
            assert not any(found.values())
            del clients[given_up]
        clients["one too many"] = ask(proxy, post(message(), MODERN, path="/high"))
        assert outcome(clients["one too many"]) == 503
        assert proxy.metric("shed_total", "/high") == 2


def test_what_is_worth_more_goes_first() -> None:
    with host() as proxy:
        ask(proxy)
        ask(proxy, post(INITIALIZE))
        for path in ("/low", "/mcp", "/high"):
            ask(proxy, post(message(name=path), MODERN, path=path))
        served = [json.loads(split(serve(proxy, answer(result(), "up")))[0].body) for _ in range(5)]
        assert [each["params"].get("name", each["method"]) for each in served] == [
            "echo", "/high", "/mcp", "/low", "initialize",
        ]  # fmt: skip


def test_what_others_may_wait_for_does_not_wait() -> None:
    with host() as proxy:
        session = open_session(proxy)
        ask(proxy)
        for sent in (
            in_session(session, NOTE),
            in_session(session, ANSWER_TO_SERVER),
            bare("DELETE", ("Mcp-Session-Id", session)),
            bare("GET", ("Mcp-Session-Id", session)),
            post(message("subscriptions/listen", None), MODERN),
        ):
            before = len(arrived(proxy))
            client = ask(proxy, sent)
            assert len(arrived(proxy)) == before + 1 or outcome(client) == 202, sent
        assert outcome(ask(proxy, bare("OPTIONS"))) != 503


@pytest.mark.parametrize(("element", "waits"), [(PING, True), (NOTE, False), (ANSWER_TO_SERVER, False)])
def test_of_batches_those_that_ask_wait(element: bytes, waits: bool) -> None:
    with host() as proxy:
        session = open_session(proxy, version="2025-03-26")
        ask(proxy)
        client = ask(proxy, in_session(session, b"[%b]" % element))
        is_under_way = len(arrived(proxy)) == 2 or outcome(client) == 202
        assert is_under_way is not waits


def test_a_stream_of_notices_leaves_room_for_requests() -> None:
    with host() as proxy:
        ask(proxy, post(message("subscriptions/listen", None), MODERN))
        (upstream,) = arrived(proxy)
        upstream.take()
        upstream.send(STREAM)
        ask(proxy)
        assert len(arrived(proxy)) == 1


def test_a_call_that_answers_with_a_stream_counts_to_its_end() -> None:
    with host() as proxy:
        ask(proxy)
        (upstream,) = arrived(proxy)
        upstream.take()
        upstream.send(STREAM)
        second = ask(proxy)
        assert arrived(proxy) == []
        upstream.send(b"0\r\n\r\n")
        proxy.settle()
        serve(proxy)
        assert outcome(second) == 200


def test_requests_of_sessions_wait_too() -> None:
    with host() as proxy:
        session = open_session(proxy)
        ask(proxy)
        client = ask(proxy, in_session(session, PING))
        assert len(arrived(proxy)) == 1
        serve(proxy)
        assert b"up-1" in serve(proxy)
        assert outcome(client) == 200


@pytest.mark.parametrize("ending", ["reset", "finish"])
@pytest.mark.parametrize("kind", ["modern", "session", "initialize"])
def test_who_leaves_does_not_keep_a_place(kind: str, ending: str) -> None:
    with host() as proxy:
        sent = {
            "modern": CALL,
            "session": in_session(open_session(proxy), PING),
            "initialize": post(INITIALIZE),
        }[kind]
        ask(proxy)
        waits = ask(proxy, sent)
        last = ask(proxy)
        getattr(waits, ending)()
        if ending == "reset" or kind == "modern":
            proxy.settle()
            serve(proxy)
            serve(proxy)
            assert outcome(last) == 200
        proxy.advance(3)
        for _ in arrived(proxy):
            serve(proxy)
        proxy.advance(0.2)
        assert (proxy.metric("overload_in_flight"), proxy.metric("overload_queue")) == (0, 0)


def test_places_come_back_however_requests_end() -> None:
    with host() as proxy:
        proxy.loop.failures += [ConnectionRefusedError()] * 3
        assert outcome(ask(proxy)) == 502
        gone = ask(proxy)
        gone.reset()
        proxy.settle()
        proxy.tell(ask(proxy))
        for upstream in arrived(proxy):
            upstream.reset()
        proxy.settle()
        proxy.advance(0.2)
        assert proxy.metric("overload_in_flight") == 0


def test_many_that_end_at_once_are_no_trouble() -> None:
    """Each is refused as soon as its turn has come, which makes it the next one's."""
    with host(queue=2000, timeout=60) as proxy:
        first = ask(proxy)
        clients = [ask(proxy) for _ in range(1500)]
        (route, *others) = proxy.config.routes
        down = replace(route, upstreams=[replace(route.upstreams[0], enabled=False)])
        proxy.publish(replace(proxy.config, routes=[down, *others]))
        proxy.advance(0.2)
        assert [client for client in clients if client.received] == []
        first.reset()
        proxy.settle()
        assert {outcome(client) for client in clients} == {503}
        assert proxy.metric("refusals_total", "no_upstream") == len(clients)


def test_pipelining_clients_are_no_trouble() -> None:
    """Each has a second request behind the one that is given up, which makes the next one give up its own."""
    with host(queue=1000, timeout=60) as proxy:
        ask(proxy)
        clients = [ask(proxy, CALL * 2) for _ in range(1000)]
        proxy.advance(0.2)
        ask(proxy)
        proxy.advance(10)
        assert [client.ending for client in clients] == ["open"] * len(clients)
        found = [[got.status for got in split(client.received)] for client in clients]
        assert found.count([503]) >= len(clients) - 2


def test_nobody_overtakes_who_waits_here() -> None:
    with host(2, workers=2) as proxy:
        other = sibling(proxy)
        other.start()
        for _ in range(2):
            ask(proxy, plane=other)
        first = ask(proxy)
        for upstream in arrived(proxy):
            upstream.take()
            upstream.send(OK)
        proxy.settle()
        # It is not known here yet that there are places.
        second = ask(proxy)
        assert arrived(proxy) == []
        proxy.advance(0.1)
        assert len(arrived(proxy)) == 2
        assert (outcome(first), outcome(second)) == (None, None)
        other.abort()
        other.stop()


def test_all_workers_together() -> None:
    with host(4, workers=2) as proxy:
        other = sibling(proxy)
        other.start()
        for _ in range(4):
            ask(proxy)
        assert len(arrived(proxy)) == 4
        there = [ask(proxy, plane=other) for _ in range(3)]
        assert len(arrived(proxy)) == 4
        # Each has more here that want to go on, and yet the other worker gets its share.
        here = [ask(proxy) for _ in range(4)]
        proxy.advance(0.1)
        for upstream in list(arrived(proxy)):
            upstream.take()
            upstream.send(OK)
        proxy.settle()
        proxy.advance(0.1)
        for upstream in list(arrived(proxy)):
            upstream.take()
            upstream.send(OK)
        proxy.settle()
        assert [outcome(client) for client in there].count(200) == 2
        assert [outcome(client) for client in here].count(200) == 2
        other.abort()
        other.stop()


def test_nothing_is_kept_for_a_worker_that_hangs() -> None:
    with host(4, workers=2) as proxy:
        other = sibling(proxy)
        other.start()
        clients = [ask(proxy) for _ in range(4)]
        ask(proxy, plane=other)
        other.places.stop()
        proxy.advance(0.5)
        more = [ask(proxy) for _ in range(4)]
        for upstream in arrived(proxy):
            upstream.take()
            upstream.send(OK)
        proxy.settle()
        assert {outcome(client) for client in clients} == {200}
        assert len(arrived(proxy)) == len(more)
        other.abort()
        other.stop()


def test_a_bound_can_be_set_and_taken_away_while_it_runs() -> None:
    with stage() as proxy:
        ask(proxy)
        proxy.publish(replace(proxy.config, overload=Overload(max_in_flight=1)))
        proxy.advance(0.2)
        # What had begun before does not count.
        ask(proxy)
        waiting = ask(proxy)
        assert len(arrived(proxy)) == 2
        proxy.publish(proxy.config)
        proxy.advance(0.2)
        ask(proxy)
        assert len(arrived(proxy)) == 4
        for upstream in arrived(proxy):
            upstream.take()
            upstream.send(OK)
        proxy.settle()
        assert outcome(waiting) == 200
        proxy.advance(0.2)
        assert proxy.metric("overload_in_flight") == 0


def test_a_limit_that_comes_while_a_request_waits_leaves_no_seat_taken() -> None:
    with host(limits=own(route="100/min")) as proxy:
        (route,) = [each for each in proxy.config.routes if each.path == "/mcp"]
        limited = replace(route, limits=own(route="100/min concurrent 1"))
        clients = [ask(proxy), ask(proxy)]
        routes = [limited if each is route else each for each in proxy.config.routes]
        proxy.publish(replace(proxy.config, routes=routes))
        proxy.advance(0.2)
        for _ in range(2):
            serve(proxy)
        assert [outcome(client) for client in clients] == [200, 200]
        for _ in range(2):
            client = ask(proxy)
            serve(proxy)
            assert outcome(client) == 200
        assert not proxy.plane.limits._held
