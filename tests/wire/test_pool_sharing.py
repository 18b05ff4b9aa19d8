"""Connections that two workers share: the bound is theirs together, and nobody keeps what the other needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from shadowcat.proxy.plane import DataPlane
from shadowcat.shm.locks import Locks
from shadowcat.shm.mailboxes import Mail
from shadowcat.shm.region import LINE
from shadowcat.shm.shared import worker_number
from shadowcat.testing.host import cell_of
from shadowcat.testing.loopback import Peer

from .sessions import caller_at
from .stage import MODERN, OK, Stage, message, post, split
from .streams import pair

CALL = post(message(), MODERN)
SOON = 0.4
"""Seconds in which a worker has noticed that another one waits, and has let go."""


@contextmanager
def workers(limit: int, **pool: Any) -> Iterator[tuple[Stage, DataPlane]]:
    with pair(pool={"max_connections": limit, "queue_timeout": 60, "idle_timeout": 60} | pool) as two:
        yield two


def ask(proxy: Stage, plane: DataPlane, count: int = 1) -> list[Peer]:
    """Clients of a worker that have each sent a call."""
    clients = [caller_at(proxy, plane) for _ in range(count)]
    for client in clients:
        client.send(CALL)
    proxy.settle()
    return clients


def open_at(proxy: Stage, plane: DataPlane | None = None) -> list[Peer]:
    """The open connections to the upstream, of one worker or of all."""
    return [
        peer
        for peer in proxy.upstreams
        if peer.ending == "open" and plane in (None, peer._protocol._plane)  # type: ignore[attr-defined]
    ]


def serve(proxy: Stage) -> int:
    """Let the upstream answer what it has got; how many requests these were."""
    busy = [peer for peer in open_at(proxy) if peer.writes]
    for peer in busy:
        assert len(split(peer.take())) == 1
        peer.send(OK)
    proxy.settle()
    return len(busy)


def answered(clients: list[Peer]) -> int:
    """How many have got a good answer."""
    return sum(client.received.startswith(b"HTTP/1.1 200") for client in clients)


def test_the_bound_holds_for_both_together() -> None:
    with workers(3) as (proxy, other):
        here, there = ask(proxy, proxy.plane, 5), ask(proxy, other, 5)
        most = 0
        for _ in range(40):
            proxy.advance(0.1)
            most = max(most, len(open_at(proxy)))
            serve(proxy)
            most = max(most, len(open_at(proxy)))
        assert (answered(here), answered(there), most) == (5, 5, 3)


def test_one_worker_alone_can_have_them_all() -> None:
    with workers(3) as (proxy, other):
        ask(proxy, other, 5)
        assert len(open_at(proxy, other)) == 3


@pytest.mark.parametrize("turns", [1, 2])
def test_less_connections_than_workers(turns: int) -> None:
    """The one connection goes to and fro."""
    with workers(1) as (proxy, other):
        for _ in range(turns):
            for plane in (proxy.plane, other):
                clients = ask(proxy, plane)
                proxy.advance(SOON)
                assert len(open_at(proxy)) == 1
                assert serve(proxy) == 1
                assert answered(clients) == 1


def test_idle_connections_are_closed_as_far_as_others_need_them() -> None:
    with workers(4) as (proxy, other):
        ask(proxy, proxy.plane, 4)
        serve(proxy)
        assert len(open_at(proxy, proxy.plane)) == 4
        there = ask(proxy, other, 1)
        assert open_at(proxy, other) == []
        proxy.advance(SOON)
        assert (len(open_at(proxy, proxy.plane)), len(open_at(proxy, other))) == (3, 1)
        serve(proxy)
        assert answered(there) == 1


def test_mail_makes_it_a_matter_of_milliseconds() -> None:
    with workers(2) as (proxy, other):
        ask(proxy, proxy.plane, 2)
        serve(proxy)
        assert proxy._shared.mail.receive(worker_number(0)) == []
        there = ask(proxy, other, 1)
        mail = proxy._shared.mail.receive(worker_number(0))
        assert mail == [(worker_number(1), Mail.MAKE_ROOM, 0)]
        proxy.plane.make_room(0)
        proxy.settle()
        proxy.loop.stall(0.003)
        serve(proxy)
        assert answered(there) == 1
        assert len(open_at(proxy, proxy.plane)) == 1
        # There may be nothing left to close, and no such upstream any more.
        proxy.plane.make_room(0)
        proxy.plane.make_room(7)
        proxy.settle()
        assert len(open_at(proxy)) == 2


def test_idle_connections_stay_while_there_is_room() -> None:
    with workers(6) as (proxy, other):
        ask(proxy, proxy.plane, 4)
        serve(proxy)
        ask(proxy, other, 2)
        proxy.advance(SOON)
        assert (len(open_at(proxy, proxy.plane)), len(open_at(proxy, other))) == (4, 2)


def test_a_connection_that_comes_free_goes_to_who_waits_longest() -> None:
    with workers(1) as (proxy, other):
        ask(proxy, proxy.plane, 1)
        there = ask(proxy, other, 1)
        proxy.advance(0.3)
        here = ask(proxy, proxy.plane, 1)
        proxy.advance(0.3)
        serve(proxy)
        proxy.advance(0.1)
        assert len(open_at(proxy, other)) == 1
        serve(proxy)
        assert (answered(there), answered(here)) == (1, 0)
        proxy.advance(SOON)
        serve(proxy)
        assert answered(here) == 1


def test_a_connection_that_comes_free_stays_with_who_waits_longest() -> None:
    with workers(1) as (proxy, other):
        ask(proxy, proxy.plane, 1)
        here = ask(proxy, proxy.plane, 1)
        proxy.advance(0.3)
        there = ask(proxy, other, 1)
        proxy.advance(0.3)
        serve(proxy)
        assert len(open_at(proxy, proxy.plane)) == 1
        serve(proxy)
        assert (answered(here), answered(there)) == (1, 0)
        proxy.advance(SOON)
        serve(proxy)
        assert answered(there) == 1


def test_requests_of_about_the_same_time_do_not_make_connections_change_hands() -> None:
    with workers(1) as (proxy, other):
        ask(proxy, proxy.plane, 1)
        proxy.advance(0.3)
        there = ask(proxy, other, 3)
        here = ask(proxy, proxy.plane, 3)
        proxy.advance(0.3)
        for _ in range(4):
            assert serve(proxy) == 1
        assert (answered(here), answered(there), len(proxy.upstreams)) == (3, 0, 1)


def test_a_connection_counts_until_it_is_closed() -> None:
    """Else the upstream would see one more for a moment."""
    with workers(1) as (proxy, other):
        ask(proxy, proxy.plane, 1)
        serve(proxy)
        there = ask(proxy, other, 1)
        (peer,) = open_at(proxy)
        proxy.loop.call_soon(peer._protocol.abandon)  # type: ignore[attr-defined]
        proxy.loop.call_soon(other.room._look)
        proxy.loop.call_soon(proxy.loop.stop)
        proxy.loop.run_forever()
        assert (peer.ending, len(proxy.upstreams)) == ("aborted", 1)
        proxy.advance(0.2)
        serve(proxy)
        assert answered(there) == 1


def test_a_connection_is_not_closed_before_its_end_was_told() -> None:
    """The loop closes the socket after it has called `connection_lost`."""
    with workers(1) as (proxy, _):
        ask(proxy, proxy.plane, 1)
        (peer,) = open_at(proxy)
        peer.reset()
        assert proxy.plane.room.slots.own(0) == 1
        proxy.settle()
        assert proxy.plane.room.slots.own(0) == 0


def test_a_lock_that_is_held_is_tried_again() -> None:
    with workers(2) as (proxy, other):
        locks = Locks(proxy._shared._region)
        line = proxy._shared.connections.offset + LINE
        locks.acquire(line)
        clients = ask(proxy, other, 1)
        proxy.advance(0.1)
        assert proxy.upstreams == []
        locks.release(line)
        proxy.advance(0.1)
        serve(proxy)
        assert answered(clients) == 1
        locks.close()


def test_a_lock_that_stays_held_is_a_full_pool() -> None:
    with workers(2, queue_timeout=1) as (proxy, other):
        locks = Locks(proxy._shared._region)
        locks.acquire(proxy._shared.connections.offset + LINE)
        (client,) = ask(proxy, other, 1)
        proxy.advance(1.3)
        (got,) = split(client.take())
        assert (got.status, got.header("Retry-After")) == (503, "1")
        locks.close()


def test_the_bound_on_the_queue_is_for_both_together() -> None:
    with workers(1, max_queue=3) as (proxy, other):
        ask(proxy, proxy.plane, 1)
        ask(proxy, proxy.plane, 2)
        there = ask(proxy, other, 2)
        assert [bool(client.received) for client in there] == [False, True]
        (got,) = split(there[1].take())
        assert (got.status, got.code, got.header("Retry-After")) == (503, -32603, "1")
        assert "a.example:3001" in str(got.error)
        cell = cell_of(proxy._shared, "pool_queue_overflows_total", "/mcp", "a.example:3001")
        assert other.cells[cell] == 1
        # One leaves, so there is room for one.
        there[0].abort()
        proxy.advance(0.1)
        assert ask(proxy, other, 1)[0].received == b""


def test_how_busy_the_upstream_is_with_both() -> None:
    with workers(4) as (proxy, other):
        ask(proxy, proxy.plane, 2)
        ask(proxy, other, 3)
        proxy.advance(0.3)
        assert [plane.pools[0].host_busy() for plane in (proxy.plane, other)] == [5, 5]
        serve(proxy)
        proxy.advance(0.3)
        assert serve(proxy) == 1
        proxy.advance(0.3)
        assert [plane.pools[0].host_busy() for plane in (proxy.plane, other)] == [0, 0]
        ask(proxy, other, 1)
        assert other.pools[0].host_busy() == 1
