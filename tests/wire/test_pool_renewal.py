"""Connections that are too old, or lead to what has changed, are replaced without a request noticing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from shadowcat.config import seats
from shadowcat.config.model import Credential, Pool
from shadowcat.errors import Refusal
from shadowcat.proxy.upstreams.errand import Errand
from shadowcat.proxy.upstreams.pool import Pool as Connections
from shadowcat.testing.host import publish
from shadowcat.testing.loopback import Peer

from .sessions import in_session, open_session
from .stage import MODERN, OK, STREAM, Stage, bare, chunk, message, post, split, stage

CALL = post(message(), MODERN)
LIST = post(message("tools/list"), MODERN)
AGE = 2.0
POOL: dict[str, Any] = {"max_age": AGE, "idle_timeout": 60, "queue_timeout": 60}


def call(proxy: Stage, body: bytes = CALL, client: Peer | None = None) -> Peer:
    """A client that has sent a call."""
    client = client or proxy.caller()
    proxy.tell(client, body)
    return client


def open_ones(proxy: Stage) -> list[Peer]:
    return [peer for peer in proxy.upstreams if peer.ending == "open"]


def serve(proxy: Stage) -> int:
    """Let the upstream answer what it has got; how many requests these were."""
    busy = [peer for peer in open_ones(proxy) if peer.writes]
    for peer in busy:
        assert len(split(peer.take())) == 1
        peer.send(OK)
    proxy.settle()
    return len(busy)


def pool_of(proxy: Stage) -> Connections:
    return proxy.plane.pools[0]


def reconfigure(proxy: Stage, *, pool: dict[str, Any] | None = None, **upstream: Any) -> None:
    """Change the settings of the route's pool, or of its upstream."""
    route = proxy.config.routes[0]
    changed = replace(
        route,
        pool=Pool(**pool) if pool is not None else route.pool,
        upstreams=[replace(route.upstreams[0], **upstream)],
    )
    publish(proxy._shared, replace(proxy.config, routes=[changed]))
    proxy.plane.refresh()


# Age.


def test_an_idle_connection_that_is_too_old_is_closed() -> None:
    with stage(pool=POOL) as proxy:
        call(proxy)
        serve(proxy)
        proxy.advance(AGE - 0.2)
        assert len(open_ones(proxy)) == 1
        proxy.advance(0.3)
        assert open_ones(proxy) == []


def test_age_counts_from_the_start_however_busy_a_connection_is() -> None:
    with stage(pool=POOL) as proxy:
        client = call(proxy)
        for _ in range(25):
            serve(proxy)
            proxy.advance(0.1)
            call(proxy, client=client)
        serve(proxy)
        assert client.received.count(b"200 OK") == 26
        assert [peer.ending == "open" for peer in proxy.upstreams] == [False, True]


def test_what_is_being_answered_is_not_disturbed_by_age() -> None:
    with stage(pool=POOL) as proxy:
        slow = call(proxy)
        proxy.advance(AGE + 1)
        (first,) = open_ones(proxy)
        first.take()
        first.send(OK)
        proxy.settle()
        assert slow.take().startswith(b"HTTP/1.1 200")
        assert first.ending != "open"


def test_a_keep_alive_field_does_not_make_a_connection_young_again() -> None:
    with stage(pool=POOL) as proxy:
        call(proxy)
        proxy.advance(AGE + 0.2)
        (first,) = open_ones(proxy)
        first.send(OK.replace(b"\r\n\r\n", b"\r\nKeep-Alive: timeout=50\r\n\r\n"))
        proxy.settle()
        assert first.ending != "open"


def test_an_open_stream_outlives_its_connections_age() -> None:
    with stage(pool=POOL) as proxy:
        session = open_session(proxy)
        reader = proxy.caller()
        proxy.tell(reader, bare("GET", ("Mcp-Session-Id", session)))
        (server,) = [peer for peer in open_ones(proxy) if peer.writes]
        server.send(STREAM)
        proxy.advance(3 * AGE)
        server.send(chunk(b"data: late\n\n"))
        proxy.settle()
        assert b"data: late" in reader.take()
        assert server.ending == "open"


def test_connections_of_the_same_age_are_not_all_replaced_at_once() -> None:
    with stage(pool=POOL) as proxy:
        for _ in range(20):
            call(proxy)
        assert serve(proxy) == 20
        lost = []
        for _ in range(45):
            before = len(open_ones(proxy))
            proxy.advance(0.1)
            lost.append(before - len(open_ones(proxy)))
        assert max(lost) == 3
        assert sum(lost) == 20


def test_how_old_connections_got_is_counted() -> None:
    with stage(pool=POOL) as proxy:
        for _ in range(3):
            call(proxy)
            serve(proxy)
            proxy.advance(AGE + 0.2)
        where = "/mcp", "a.example:3001"
        assert proxy.metric("pool_closed_total", *where) == 3
        assert proxy.metric("pool_closed_age_seconds_total", *where) == 6


# Other settings.


def test_another_credential_is_for_new_connections() -> None:
    with stage(pool=POOL) as proxy:
        call(proxy)
        idle_client = call(proxy)
        first, second = open_ones(proxy)
        second.take()
        second.send(OK)
        proxy.settle()
        idle_client.take()
        reconfigure(proxy, credential=Credential(headers={"X-Key": "new"}))
        # What is idle goes now, what is busy when it is done.
        assert (first.ending, second.ending) == ("open", "aborted")
        first.take()
        first.send(OK)
        proxy.settle()
        assert first.ending != "open"
        call(proxy)
        (third,) = open_ones(proxy)
        (got,) = split(third.take())
        assert got.header("X-Key") == "new"


def test_what_is_being_dialled_meanwhile_is_not_used() -> None:
    with stage(pool=POOL) as proxy:
        client = proxy.caller()
        client.send(CALL)
        assert proxy.upstreams == []
        pool_of(proxy).flush()
        proxy.settle()
        first, second = proxy.upstreams
        assert (first.ending, first.received) == ("aborted", b"")
        assert serve(proxy) == 1
        assert client.take().startswith(b"HTTP/1.1 200")
        assert second.ending == "open"


def test_a_dial_that_fails_meanwhile_is_nobodys_failure() -> None:
    with stage(pool=POOL, retry={"attempts": 1}) as proxy:
        proxy.loop.failures = [ConnectionRefusedError(111, "Connection refused")]
        client = proxy.caller()
        client.send(CALL)
        pool_of(proxy).flush()
        proxy.settle()
        assert serve(proxy) == 1
        assert client.take().startswith(b"HTTP/1.1 200")


def test_a_dial_that_fails_leaves_its_place() -> None:
    with stage(pool=POOL | {"max_connections": 1}, retry={"attempts": 1}) as proxy:
        proxy.loop.failures = [ConnectionRefusedError(111, "Connection refused")]
        assert split(call(proxy).take())[0].status == 502
        client = call(proxy)
        assert serve(proxy) == 1
        assert client.take().startswith(b"HTTP/1.1 200")


def test_settings_alone_leave_connections_in_use() -> None:
    with stage(pool=POOL) as proxy:
        call(proxy)
        serve(proxy)
        reconfigure(proxy, pool=POOL | {"max_age": 50})
        call(proxy)
        assert serve(proxy) == 1
        proxy.advance(AGE + 1)
        assert [peer.ending for peer in proxy.upstreams] == ["open"]


def test_a_lower_limit_is_reached_by_closing() -> None:
    with stage(pool=POOL) as proxy:
        clients = [call(proxy) for _ in range(6)]
        first, second, *_ = open_ones(proxy)
        for peer in (first, second):
            peer.take()
            peer.send(OK)
        reconfigure(proxy, max_connections=3)
        proxy.advance(0.2)
        assert len(open_ones(proxy)) == 4
        serve(proxy)
        assert len(open_ones(proxy)) == 3
        assert all(client.received.startswith(b"HTTP/1.1 200") for client in clients)


def test_a_higher_limit_counts_for_those_who_wait() -> None:
    with stage(pool=POOL | {"max_connections": 1}) as proxy:
        for _ in range(3):
            call(proxy)
        assert len(open_ones(proxy)) == 1
        reconfigure(proxy, pool=POOL | {"max_connections": 3})
        proxy.advance(0.1)
        assert len(open_ones(proxy)) == 3


def test_each_upstream_can_have_a_limit_of_its_own() -> None:
    keys = [{"max_connections": 2}, {}]
    with stage(upstreams=2, keys=keys, pool=POOL | {"max_connections": 3}) as proxy:
        for _ in range(12):
            call(proxy)
        ports = [host for host, _ in proxy.loop.dialled]
        assert (ports.count("a.example"), ports.count("b.example")) == (2, 3)


# The end.


def test_an_upstream_that_is_removed_is_cut_off() -> None:
    options = {"pool": POOL | {"max_connections": 3}, "retry": {"attempts": 3, "budget": 1.0}}
    with stage(**options) as proxy:  # type: ignore[arg-type]
        idle, silent, partial, repeatable, queued = (
            proxy.caller(), proxy.caller(), proxy.caller(), proxy.caller(), proxy.caller()
        )  # fmt: skip
        for client, body in ((silent, CALL), (partial, CALL), (repeatable, LIST), (queued, CALL)):
            call(proxy, body, client)
        opened = open_ones(proxy)
        assert len(opened) == 3
        opened[1].send(STREAM + chunk(b"data: 1\n\n"))
        proxy.settle()
        pool_of(proxy).close()
        proxy.settle()
        assert open_ones(proxy) == []
        (got,) = split(silent.take())
        assert (got.status, got.error["error"]["code"]) == (502, -32603)
        assert partial.take().endswith(chunk(b"data: 1\n\n"))
        assert partial.ending == "closed"
        # What could be sent again is not sent here again.
        assert [split(client.take())[0].status for client in (repeatable, queued)] == [503, 503]
        call(proxy, client=idle)
        (got,) = split(idle.take())
        assert (got.status, got.header("Retry-After")) == (503, "5")
        assert len(proxy.upstreams) == 3


def test_removed_from_the_configuration() -> None:
    with stage(upstreams=2, pool=POOL, balance={"strategy": "round_robin"}) as proxy:
        clients = [call(proxy), call(proxy)]
        route = proxy.config.routes[0]
        without = replace(proxy.config, routes=[replace(route, upstreams=route.upstreams[:1])])
        publish(proxy._shared, without)
        proxy.plane.refresh()
        assert len(open_ones(proxy)) == 2
        # Nothing refers to it any more, or its time is over.
        left = proxy._shared.present()
        gone = replace(left, version=left.version + 1, leaving=[])
        proxy._shared.snapshot.write(gone.version, seats.encode(gone))
        proxy.plane.refresh()
        proxy.settle()
        assert serve(proxy) == 1
        assert sorted(split(client.take())[0].status for client in clients) == [200, 502]


def test_a_dial_that_ends_after_the_removal_counts_nowhere() -> None:
    with stage(pool=POOL) as proxy:
        client = proxy.caller()
        client.send(CALL)
        pool_of(proxy).close()
        proxy.settle()
        assert open_ones(proxy) == []
        proxy.advance(0.2)
        where = "/mcp", "a.example:3001"
        assert proxy.metric("pool_dials_total", *where) == proxy.metric("pool_closed_total", *where) == 0
        assert pool_of(proxy)._slots.own(0) == 0


def test_what_was_cut_off_at_the_end_of_a_drain_can_be_used_again() -> None:
    with stage(pool=POOL) as proxy:
        cut = call(proxy)
        pool_of(proxy).abort()
        proxy.settle()
        assert split(cut.take())[0].status == Refusal.RESET.status
        client = call(proxy)
        assert serve(proxy) == 1
        assert client.take().startswith(b"HTTP/1.1 200")


# The queue.


def test_a_full_queue_refuses_at_once() -> None:
    with stage(pool=POOL | {"max_connections": 1, "max_queue": 2}) as proxy:
        clients = [call(proxy) for _ in range(4)]
        assert [bool(client.writes) for client in clients] == [False, False, False, True]
        (got,) = split(clients[3].take())
        assert (got.status, got.code, got.header("Retry-After")) == (503, -32603, "1")
        assert "a.example:3001" in str(got.error)
        assert proxy.metric("pool_queue_overflows_total", "/mcp", "a.example:3001") == 1
        assert proxy.metric("refusals_total", "queue_full") == 1
        for _ in range(3):
            assert serve(proxy) == 1
        assert all(client.received.startswith(b"HTTP/1.1 200") for client in clients[:3])


def test_no_queue_at_all() -> None:
    with stage(pool=POOL | {"max_connections": 2, "max_queue": 0}) as proxy:
        clients = [call(proxy) for _ in range(3)]
        assert [bool(client.writes) for client in clients] == [False, False, True]
        serve(proxy)
        assert call(proxy, client=clients[0])
        assert serve(proxy) == 1


def test_who_waits_too_long_hears_for_what() -> None:
    with stage(pool=POOL | {"max_connections": 1, "queue_timeout": 1}) as proxy:
        call(proxy)
        late = call(proxy)
        proxy.advance(1.2)
        (got,) = split(late.take())
        assert (got.status, got.header("Retry-After")) == (503, "1")
        assert "a.example:3001" in str(got.error)
        assert proxy.metric("pool_queue_timeouts_total", "/mcp", "a.example:3001") == 1


@pytest.mark.parametrize(("connects", "status"), [(True, 200), (False, 504)])
def test_a_connection_that_is_being_opened_has_its_own_time_limit(connects: bool, status: int) -> None:
    pool = POOL | {"queue_timeout": 0, "connect_timeout": 3}
    with stage(pool=pool, retry={"attempts": 1}) as proxy:
        release = asyncio.Event()
        dial = proxy.loop.create_connection

        async def slow(*where: Any, **how: Any) -> Any:
            await release.wait()
            return await dial(*where, **how)

        proxy.loop.create_connection = slow  # type: ignore[method-assign]
        client = call(proxy)
        proxy.advance(2)
        assert client.writes == []
        if connects:
            release.set()
            proxy.settle()
            serve(proxy)
        else:
            proxy.advance(1.5)
        assert split(client.take())[0].status == status


def test_room_for_a_fresh_connection_is_made_by_closing_an_idle_one() -> None:
    with stage(pool=POOL | {"max_connections": 2}) as proxy:
        call(proxy)
        call(proxy)
        serve(proxy)
        found: list[object] = []
        Errand(
            proxy.plane, pool_of(proxy), b"POST", [], b"{}", lambda _, got: found.append(got), seconds=5
        ).start(fresh=True)
        proxy.settle()
        proxy.advance(0.1)
        assert [peer.ending for peer in proxy.upstreams] == ["aborted", "open", "open"]
        assert serve(proxy) == 1
        assert len(found) == 1


def test_an_answer_in_a_session_over_a_renewed_connection() -> None:
    with stage(pool=POOL) as proxy:
        session = open_session(proxy)
        for _ in range(4):
            proxy.advance(AGE / 2)
            client = proxy.caller()
            proxy.tell(client, in_session(session))
            assert serve(proxy) == 1
            assert split(client.take())[0].status == 200
        assert len(proxy.upstreams) == 3
