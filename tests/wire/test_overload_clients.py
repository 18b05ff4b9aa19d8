"""Too many clients, too few descriptors, too many bytes."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from msgspec.structs import replace

from shadowcat.config.model import Breaker, Overload
from shadowcat.config.units import Size
from shadowcat.testing.loopback import Peer

from .sessions import caller_at, sibling
from .stage import MODERN, OK, STREAM, Stage, chunk, message, post, split, stage

CALL = post(message(), MODERN)
KIB = 1024
LIMIT = 64 * KIB
HTTP = {"body_limit": Size(LIMIT)}
OVERLOAD = Overload(max_buffered=Size(LIMIT))


def refusal(client: Peer) -> tuple[int, str | None, str | None]:
    (got,) = split(client.received)
    return got.status, got.header("Retry-After"), got.header("Connection")


def busy(proxy: Stage) -> Peer:
    """A client whose request is under way."""
    client = proxy.client()
    proxy.tell(client, CALL)
    return client


# Clients.


def test_one_too_many_is_told_so() -> None:
    with stage(overload=Overload(max_connections=2)) as proxy:
        clients = [busy(proxy), busy(proxy)]
        third = proxy.client()
        proxy.settle()
        assert refusal(third) == (503, "1", "close")
        assert third.ending == "eof"
        assert proxy.metric("connections_turned_away_total") == 1
        assert proxy.metric("refusals_total", "too_many_clients") == 1
        assert [client.ending for client in clients] == ["open", "open"]
        # Nobody stays who does not go.
        proxy.advance(2.5)
        assert third.ending == "aborted"


def test_there_is_room_again_when_one_has_gone() -> None:
    with stage(overload=Overload(max_connections=2)) as proxy:
        first, _ = busy(proxy), busy(proxy)
        assert refusal(proxy.client())[0] == 503
        first.reset()
        proxy.settle()
        assert busy(proxy).ending == "open"
        assert len([upstream for upstream in proxy.upstreams if upstream.writes]) == 3


def test_the_one_that_was_idle_for_longest_makes_room() -> None:
    with stage(overload=Overload(max_connections=3)) as proxy:
        works = busy(proxy)
        first = proxy.client()
        proxy.advance(0.5)
        second = proxy.client()
        proxy.advance(2)
        newcomer = proxy.client()
        proxy.settle()
        assert [each.ending for each in (works, first, second, newcomer)] == [
            "open",
            "closed",
            "open",
            "open",
        ]
        another = proxy.client()
        proxy.settle()
        assert (second.ending, another.ending, another.received) == ("closed", "open", b"")
        assert proxy.metric("connections_closed_idle_total") == 2
        assert proxy.metric("connections_turned_away_total") == 0


def test_who_has_just_come_is_not_idle() -> None:
    with stage(overload=Overload(max_connections=1)) as proxy:
        first = proxy.client()
        proxy.advance(0.8)
        assert refusal(proxy.client())[0] == 503
        assert first.ending == "open"


def test_who_is_half_way_through_a_request_is_not_idle() -> None:
    with stage(overload=Overload(max_connections=1)) as proxy:
        first = proxy.client()
        proxy.tell(first, CALL[:20])
        proxy.advance(3)
        assert refusal(proxy.client())[0] == 503
        assert first.ending == "open"


def test_only_so_many_are_told() -> None:
    with stage(overload=Overload(max_connections=1)) as proxy:
        busy(proxy)
        flood = [proxy.client() for _ in range(100)]
        proxy.settle()
        endings = [client.ending for client in flood]
        assert (endings.count("eof"), endings.count("aborted")) == (64, 36)
        proxy.advance(3)
        assert refusal(proxy.client())[0] == 503


def test_all_workers_together() -> None:
    with stage(overload=Overload(max_connections=2), workers=2) as proxy:
        other = sibling(proxy)
        other.start()
        busy(proxy)
        there = caller_at(proxy, other)
        proxy.tell(there, CALL)
        assert refusal(proxy.client())[0] == 503
        assert refusal(caller_at(proxy, other))[0] == 503
        other.abort()
        other.stop()


def test_by_default_there_is_no_bound() -> None:
    with stage() as proxy:
        assert all(busy(proxy).ending == "open" for _ in range(200))


class _Socket:
    """As much of a socket as is asked for."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.family = None

    def fileno(self) -> int:
        return self._number

    def setsockopt(self, *_: Any) -> None:
        pass


def with_descriptor(proxy: Stage, number: int) -> Peer:
    client = Peer(proxy.loop, proxy.plane.client_protocol())
    client._extra["socket"] = _Socket(number)
    client.connect()
    proxy.settle()
    return client


def test_the_last_descriptors_are_not_for_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (1000, 1000))
    with stage() as proxy:
        assert with_descriptor(proxy, 899).received == b""
        late = with_descriptor(proxy, 900)
        assert refusal(late) == (503, "1", "close")
        assert proxy.metric("refusals_total", "out_of_descriptors") == 1


def test_idle_clients_give_theirs_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (1000, 1000))
    with stage() as proxy:
        idle = with_descriptor(proxy, 10)
        proxy.advance(2)
        late = with_descriptor(proxy, 950)
        assert (idle.ending, late.ending, late.received) == ("closed", "open", b"")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_an_upstream_is_not_blamed_for_missing_descriptors(number: int) -> None:
    with stage(breaker=Breaker(consecutive_failures=1), retry={"attempts": 1}) as proxy:
        proxy.loop.failures.append(OSError(number, "too many open files"))
        client = proxy.client()
        proxy.tell(client, CALL)
        (got,) = split(client.take())
        assert (got.status, got.header("Retry-After")) == (503, "1")
        assert proxy.metric("breaker_opened_total", "/mcp", "a.example:3001") == 0
        client = proxy.client()
        proxy.tell(client, CALL)
        proxy.upstreams[0].send(OK)
        proxy.settle()
        assert client.received.startswith(b"HTTP/1.1 200")


# Bytes.


def body(size: int) -> bytes:
    filler = size - len(message(extra=""))
    return message(extra="x" * filler)


def large(size: int) -> bytes:
    return post(body(size), MODERN)


def test_a_large_body_that_there_is_no_room_for_is_not_read() -> None:
    with stage(http=HTTP, overload=OVERLOAD) as proxy:
        first = proxy.client()
        proxy.tell(first, large(40 * KIB)[:-1])
        second = proxy.client()
        proxy.tell(second, large(40 * KIB)[: 1 * KIB])
        assert refusal(second) == (503, "1", "close")
        assert proxy.metric("refusals_total", "out_of_memory") == 1
        proxy.advance(0.1)
        assert proxy.metric("buffered_bytes") == 40 * KIB
        third = proxy.client()
        proxy.tell(third, large(24 * KIB)[:-1])
        assert third.received == b""
        small = proxy.client()
        proxy.tell(small, large(16 * KIB)[:-1])
        assert small.received == b""


def test_a_body_counts_until_its_request_is_over() -> None:
    with stage(http=HTTP, overload=OVERLOAD) as proxy:
        first = proxy.client()
        proxy.tell(first, large(60 * KIB))
        proxy.advance(0.3)
        assert proxy.metric("buffered_bytes") == 60 * KIB
        proxy.upstreams[0].send(OK)
        proxy.settle()
        assert first.take().startswith(b"HTTP/1.1 200")
        proxy.advance(0.2)
        assert proxy.metric("buffered_bytes") == 0


def test_the_next_body_of_a_client_takes_the_place_of_its_last_one() -> None:
    with stage(http=HTTP, overload=OVERLOAD) as proxy:
        client = proxy.client()
        for _ in range(5):  # Within one tick.
            proxy.tell(client, large(60 * KIB))
            proxy.upstreams[0].send(OK)
            proxy.settle()
            assert client.take().startswith(b"HTTP/1.1 200")
        proxy.advance(0.2)
        assert proxy.metric("buffered_bytes") == 0


def test_a_body_that_arrives_behind_another_one_keeps_its_room() -> None:
    with stage(http=HTTP, overload=OVERLOAD) as proxy:
        client = proxy.client()
        proxy.tell(client, large(60 * KIB))
        proxy.upstreams[0].send(OK)
        proxy.settle()
        proxy.tell(client, large(40 * KIB)[:-1])  # Within the same tick.
        proxy.advance(1)
        assert proxy.metric("buffered_bytes") == 40 * KIB
        proxy.tell(client, large(40 * KIB)[-1:])
        proxy.upstreams[0].send(OK)
        proxy.settle()
        proxy.advance(0.2)
        assert proxy.metric("buffered_bytes") == 0


@pytest.mark.parametrize("ending", ["reset", "timeout", "malformed"])
def test_a_body_that_never_ends_gives_its_room_back(ending: str) -> None:
    with stage(http=HTTP, overload=OVERLOAD) as proxy:
        client = proxy.client()
        proxy.tell(client, large(60 * KIB)[:-1])
        if ending == "reset":
            client.reset()
        elif ending == "timeout":
            proxy.advance(31)
        else:
            proxy.tell(client, b"\x00")
        proxy.advance(2)
        assert proxy.metric("buffered_bytes") == 0


def test_chunks_are_counted_as_they_come() -> None:
    head = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with stage(http=HTTP, overload=OVERLOAD) as proxy:
        first = proxy.client()
        proxy.tell(first, large(40 * KIB)[:-1])
        second = proxy.client()
        proxy.tell(second, head)
        for _ in range(2):
            proxy.tell(second, chunk(b"x" * 15 * KIB))
        assert second.received == b""
        proxy.tell(second, chunk(b"x" * 15 * KIB))
        assert refusal(second) == (503, "1", "close")
        proxy.advance(0.2)
        assert proxy.metric("buffered_bytes") == 40 * KIB


def test_answers_that_nobody_takes_are_counted() -> None:
    with stage(http=HTTP, overload=OVERLOAD) as proxy:
        client = busy(proxy)
        proxy.upstreams[0].send(STREAM)
        client.stall()
        client.buffered = 50 * KIB
        proxy.advance(0.2)
        assert proxy.metric("buffered_bytes") == 50 * KIB
        other = proxy.client()
        proxy.tell(other, large(20 * KIB)[:-1])
        assert refusal(other)[0] == 503
        client.catch_up()
        proxy.advance(0.2)
        assert proxy.metric("buffered_bytes") == 0


def test_a_client_that_leaves_takes_its_bytes_along() -> None:
    with stage(http=HTTP, overload=OVERLOAD) as proxy:
        client = busy(proxy)
        proxy.upstreams[0].send(STREAM)
        client.stall()
        client.buffered = 50 * KIB
        proxy.advance(0.2)
        client.reset()
        proxy.advance(0.2)
        assert proxy.metric("buffered_bytes") == 0


def test_answers_count_before_the_next_tick() -> None:
    with stage(http=HTTP, overload=OVERLOAD) as proxy:
        client = busy(proxy)
        proxy.upstreams[0].send(STREAM)
        client.stall()
        other = proxy.client()
        proxy.tell(other, large(20 * KIB)[:-1])
        assert refusal(other)[0] == 503


def test_many_slow_clients_are_looked_at_within_two_seconds() -> None:
    with stage(http=HTTP, overload=Overload(max_buffered=Size("1GiB"))) as proxy:
        clients = [busy(proxy) for _ in range(200)]
        for upstream in proxy.upstreams:
            upstream.send(STREAM)
        for client in clients:
            client.stall()
            client.buffered = 50 * KIB
        proxy.advance(2)
        assert proxy.metric("buffered_bytes") == 200 * 50 * KIB
        for client in clients[:100]:
            client.catch_up()
        for client in clients[100:]:
            client.reset()
        proxy.advance(2)
        assert proxy.metric("buffered_bytes") == 0


def test_a_legacy_request_whose_client_left_keeps_no_body() -> None:
    with stage(http=HTTP, overload=OVERLOAD) as proxy:
        client = proxy.client()
        proxy.tell(client, post(body(60 * KIB)))
        client.reset()
        proxy.advance(0.2)
        assert proxy.metric("detached_exchanges") == 1
        assert proxy.metric("buffered_bytes") == 0
        (detached,) = proxy.plane._detached
        assert detached.body == b""


def test_bounds_change_while_it_runs() -> None:
    with stage(http=HTTP) as proxy:
        busy(proxy)
        busy(proxy)
        changed = replace(OVERLOAD, max_connections=2)
        proxy.publish(replace(proxy.config, overload=changed))
        proxy.advance(0.2)
        assert refusal(proxy.client())[0] == 503
