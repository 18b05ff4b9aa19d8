"""Clients that mean to cost more than they give: slow ones, crumblers, floods, crowds.

Slow heads, silent bodies, idle connections and limits of size are in test_limits.py, clients that do not read
in test_flow.py.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

import pytest

from shadowcat.testing.loopback import Peer
from shadowcat.testing.script import Receive
from shadowcat.testing.scripted import ScriptedUpstream
from shadowcat.testing.wire import response

from .conftest import Serve
from .plane import PlaneRunner
from .stage import HERE, OK, Stage, bare, message, post, split, stage
from .streams import pair

CHUNKED = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
LENGTH = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"


def crumbs(content: bytes, size: int = 1) -> bytes:
    """Content in chunks of `size` bytes, without the last one."""
    return b"".join(
        b"%x\r\n%b\r\n" % (len(content[at : at + size]), content[at : at + size])
        for at in range(0, len(content), size)
    )


# Slow bodies


def lives(proxy: Stage, client: Peer, seconds: int, rate: int, *, chunked: bool) -> int:
    """For how many seconds a client that sends at this rate is put up with, up to `seconds`."""
    proxy.tell(client, CHUNKED if chunked else LENGTH)
    for second in range(seconds):
        if client.writes:
            return second
        part = b"x" * (rate // 4)
        for _ in range(4):
            proxy.advance(0.25)
            proxy.tell(client, crumbs(part, len(part)) if chunked else part)
    return seconds


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_has_to_come_at_some_rate(chunked: bool) -> None:
    with stage(http={"body_min_rate": 1000, "body_timeout": 60}) as proxy:
        crawling, walking = proxy.caller(), proxy.caller()
        # 15 s are for everybody; what 800 B/s have brought by then is enough for 5 + 12, but not for long.
        assert 23 <= lives(proxy, crawling, 40, 800, chunked=chunked) <= 27
        assert split(crawling.take())[0].status == 408
        assert proxy.metric("refusals_total", "body_timeout") == 1
        assert lives(proxy, walking, 40, 1100, chunked=chunked) == 40
        assert proxy.untouched


def test_a_body_that_stops_has_its_rate_used_up() -> None:
    with stage(http={"body_min_rate": 500, "body_timeout": 300}) as proxy:
        client = proxy.caller()
        proxy.tell(client, LENGTH + b"x" * 10_000)
        proxy.advance(24.5)
        assert client.writes == []
        proxy.advance(1)
        assert split(client.take())[0].status == 408


@pytest.mark.parametrize(("rate", "seconds"), [(500, 15), (0, 30)])
def test_a_body_that_never_begins(rate: int, seconds: float) -> None:
    with stage(http={"body_min_rate": rate, "body_timeout": 30}) as proxy:
        client = proxy.caller()
        proxy.tell(client, LENGTH)
        proxy.advance(seconds - 0.3)
        assert client.writes == []
        proxy.advance(0.5)
        assert split(client.take())[0].status == 408


def test_no_rate_outlasts_the_time_for_the_whole_body() -> None:
    with stage(http={"body_min_rate": 500, "body_timeout": 20}) as proxy:
        assert 19 <= lives(proxy, proxy.caller(), 40, 2000, chunked=False) <= 21


def test_each_body_has_its_own_time() -> None:
    with stage(http={"body_min_rate": 500, "body_timeout": 30}) as proxy:
        client = proxy.caller()
        for _ in range(2):
            proxy.tell(client, post()[:-1])
            proxy.advance(14)
            proxy.tell(client, post()[-1:])
            proxy.upstreams[-1].send(OK)
            proxy.settle()
            assert client.take() == OK
            proxy.advance(5)


# Crumbs


@pytest.mark.parametrize("reads", [1, 50])
def test_a_body_of_crumbs_is_refused(reads: int) -> None:
    """4 MiB in chunks of one byte would be 4 s of work."""
    with stage() as proxy:
        client = proxy.caller()
        bomb = crumbs(b" " * 100_000)
        step = -(-len(bomb) // reads)
        proxy.tell(client, CHUNKED, *(bomb[at : at + step] for at in range(0, len(bomb), step)))
        got, *_ = split(client.take())
        assert got.status == 400
        assert "chunks are too small" in got.error["error"]["message"]
        assert proxy.metric("refusals_total", "bad_chunk") == 1
        assert proxy.untouched


def test_extensions_are_framing_too() -> None:
    with stage() as proxy:
        client = proxy.caller()
        proxy.tell(client, CHUNKED + b"".join(b"4;%b\r\nxxxx\r\n" % (b"e" * 200) for _ in range(100)))
        assert split(client.take())[0].status == 400


@pytest.mark.parametrize("size", [1, 7, 32, 1000])
def test_small_chunks_pass_where_they_are_few_or_not_too_small(size: int) -> None:
    body = message(padding="x" * (3000 if size < 32 else 60_000))
    with stage() as proxy:
        got, answer = proxy.passes(CHUNKED + crumbs(body, size) + b"0\r\n\r\n")
        assert got.body == body
        assert answer == OK


def test_a_request_behind_a_long_chunked_one() -> None:
    """However reads and the steps of reading fall."""
    body = message(padding="x" * 50_000)
    with stage() as proxy:
        client = proxy.caller()
        behind = message(padding="y" * 20_000)
        proxy.tell(client, CHUNKED + crumbs(body, 997) + b"0\r\n\r\n" + post(behind))
        for expected in (body, behind):
            (upstream,) = [each for each in proxy.upstreams if each.writes]
            assert split(upstream.take())[0].body == expected
            upstream.send(OK)
            proxy.settle()
        assert client.take() == OK * 2


def test_a_body_in_thousands_of_pieces() -> None:
    body = message(padding="x" * 5_000)
    with stage() as proxy:
        client = proxy.caller()
        sent = post(body)
        client.send(*(sent[at : at + 2] for at in range(0, len(sent), 2)))
        proxy.settle()
        assert split(proxy.upstreams[0].take())[0].body == body
        client = proxy.caller()
        client.send(LENGTH, *[b"xy"] * 20_000)
        (waiting,) = [each for each in proxy.plane._clients if each._reader.template is not None]
        assert len(waiting._reader._body) <= 1025


# Floods


def test_a_flood_of_requests_is_answered_in_turn() -> None:
    """One request of a connection is under way at a time, however many are there."""
    with stage() as proxy:
        client = proxy.caller()
        proxy.tell(client, post() * 50)
        for _ in range(50):
            (upstream,) = proxy.upstreams
            assert len(split(upstream.take())) == 1
            upstream.send(OK)
            proxy.settle()
            assert client.take() == OK


def test_a_flood_behind_a_request_is_cut_off() -> None:
    with stage() as proxy:
        client = proxy.caller()
        proxy.tell(client, post(), *[post()] * 1000)
        assert client.ending == "aborted"
        assert len(proxy.upstreams) == 1


def test_a_flood_of_refusals_waits_until_they_are_read() -> None:
    with stage() as proxy:
        client = proxy.caller()
        proxy.tell(client, post())
        client.stall()
        proxy.upstreams[0].send(OK)
        proxy.settle()
        client.take()
        proxy.tell(client, bare("GET", host="evil.example") * 100)
        assert client.take() == b""
        client.catch_up()
        proxy.settle()
        assert client.take().count(b"HTTP/1.1 421 ") == 100


def test_a_flood_of_one_who_reads_nothing_is_cut_off() -> None:
    with stage() as proxy:
        client = proxy.caller()
        proxy.tell(client, post())
        client.stall()
        proxy.upstreams[0].send(OK)
        proxy.settle()
        proxy.tell(client, *[post()] * 1000)
        assert client.ending == "aborted"


# Crowds


def test_a_crowd_whose_time_is_up_is_gone_in_a_round() -> None:
    with stage(http={"keepalive_timeout": 3}) as proxy:
        clients = crowd(proxy, HERE, 200)
        proxy.advance(2.9)
        assert {client.ending for client in clients} == {"open"}
        proxy.advance(0.5)
        assert {client.ending for client in clients} == {"closed"}


def crowd(proxy: Stage, peer: str, count: int) -> list[Peer]:
    return [proxy.caller(peer) for _ in range(count)]


def test_an_address_has_only_so_many_connections() -> None:
    with stage(http={"max_connections_per_ip": 3}) as proxy:
        clients = crowd(proxy, HERE, 5)
        proxy.settle()
        assert [client.ending for client in clients] == ["open"] * 3 + ["aborted"] * 2
        assert proxy.metric("connections_crowded_total") == 2
        assert proxy.plane.open_connections == 3
        assert proxy.caller("192.0.2.1").ending == "open"
        clients[0].finish()
        proxy.settle()
        assert proxy.caller(HERE).ending == "open"
        assert proxy.caller(HERE).ending == "aborted"


def test_a_client_has_a_whole_network_of_ipv6() -> None:
    with stage(http={"max_connections_per_ip": 1}, allowed_hosts=["*"]) as proxy:
        assert proxy.caller("2001:db8:1:2::1").ending == "open"
        assert proxy.caller("2001:db8:1:2:ffff::9").ending == "aborted"
        assert proxy.caller("2001:db8:1:3::1").ending == "open"


def test_trusted_proxies_are_no_crowd() -> None:
    options = {"trusted_proxies": ["10.0.0.0/8"], "http": {"max_connections_per_ip": 1}}
    with stage(**options) as proxy:  # type: ignore[arg-type]
        assert {client.ending for client in crowd(proxy, "10.0.0.1", 5)} == {"open"}
    with stage(proxy_protocol=True, **options) as proxy:  # type: ignore[arg-type]
        clients = crowd(proxy, "10.0.0.1", 3)
        for client, last in zip(clients, b"112", strict=True):
            proxy.tell(client, b"PROXY TCP4 192.0.2.%c 10.0.0.1 1 2\r\n" % last + post())
        assert [client.ending for client in clients] == ["open", "aborted", "open"]
        assert proxy.metric("connections_crowded_total") == 1


def test_all_workers_count_together() -> None:
    with pair(http={"max_connections_per_ip": 3}) as (proxy, other):
        peers = []
        with ExitStack() as stack:
            for plane in (proxy.plane, other, proxy.plane, other):
                peer = Peer(proxy.loop, plane.client_protocol())
                stack.callback(peer.abort)
                peer.connect()
                peers.append(peer)
            assert [peer.ending for peer in peers] == ["open"] * 3 + ["aborted"]
        proxy.settle()
        assert proxy.caller().ending == "open"


def test_the_limit_can_be_changed_while_running() -> None:
    with stage() as proxy:
        before = crowd(proxy, HERE, 5)
        keys = {key: getattr(proxy.config, key) for key in proxy.config.__struct_fields__}
        limited = type(proxy.config.http)(max_connections_per_ip=2)
        proxy.publish(type(proxy.config)(**keys | {"http": limited}))
        assert [client.ending for client in crowd(proxy, HERE, 3)] == ["open", "open", "aborted"]
        assert {client.ending for client in before} == {"open"}


# Clients that do not read


def rests(proxy: PlaneRunner) -> bool:
    """Whether all that can be written of the answer is written."""
    (client,) = proxy.plane._clients
    return proxy.plane.meters.client_sent > 0 and (client._exchange is None or client._paused)


def is_gone_in_time(proxy: PlaneRunner) -> bool:
    """Let some time pass: whether nobody is connected any more."""
    proxy.advance(5)
    return proxy.metric("connections") == 0


@pytest.mark.parametrize("size", [200_000, 3_000_000])
def test_what_is_not_read_is_not_kept(serve: Serve, size: int) -> None:
    """Neither by the proxy nor, once it has let go, by the kernel: both sizes fit into what it would take."""
    body = b"x" * size
    with ScriptedUpstream(each=[Receive(), response(200, body)]) as upstream:
        proxy = serve(f"{upstream.url}/mcp", http={"keepalive_timeout": 10, "write_timeout": 20})
        with proxy.client(receive_buffer=4096) as client:
            client.send(post())
            upstream.wait_for_requests(1)
            proxy.wait_until(lambda: proxy.call(partial(rests, proxy)), "an answer that goes no further")
            proxy.wait_until(partial(is_gone_in_time, proxy), "the end of the connection")
            assert proxy.metric("client_sent_bytes_total") < 1_500_000
            client.expect_reset()
            # So it is for the kernel, which would keep a connection that was merely closed.
            assert len(client.received) < size


def test_a_slow_reader_that_goes_on_reading_gets_it_all(serve: Serve) -> None:
    body = b"x" * 150_000
    with ScriptedUpstream(each=[Receive(), response(200, body)]) as upstream:
        proxy = serve(f"{upstream.url}/mcp", http={"keepalive_timeout": 10, "write_timeout": 30})
        with proxy.client(receive_buffer=4096) as client:
            client.send(post())
            proxy.wait_until(lambda: proxy.statuses(200) == 1, "the end of the exchange")
            client.read_head()
            for _ in range(5):
                assert client.read_exactly(20_000) == body[:20_000]
                proxy.advance(20)  # Slower than `keepalive_timeout` and `write_timeout` in all.
            assert client.read_exactly(50_000) == body[:50_000]
