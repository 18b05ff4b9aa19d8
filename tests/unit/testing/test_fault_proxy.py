"""Every toxic, seen from both ends of the fault proxy."""

from __future__ import annotations

import threading
import time

import pytest

from shadowcat.testing.faults import (
    Bandwidth,
    FaultProxy,
    Latency,
    LimitData,
    ResetPeer,
    Slicer,
    SlowClose,
    Timeout,
)
from shadowcat.testing.raw_client import RawClient
from shadowcat.testing.script import Close, Receive, ReceiveBytes, Repeat, Set, Step, Wait
from shadowcat.testing.scripted import ScriptedUpstream, refused_port
from shadowcat.testing.wire import PeerClosedError, request, response

ECHO: list[Step] = [Repeat([Receive(), lambda got: response(200, got.body)])]


def test_clean_proxy_passes_bytes_and_fin_both_ways() -> None:
    with ScriptedUpstream([Receive(), response(200, b"ok"), Close()]) as up, FaultProxy(up.port) as proxy:
        with RawClient(proxy.port) as client:
            client.send(request(body=b"x" * 200_000))
            assert client.read_response().body == b"ok"
            client.expect_end()
        assert len(up.requests[0].body) == 200_000
        assert proxy.accepted == 1


def test_latency_delays_each_way() -> None:
    with ScriptedUpstream(each=ECHO) as up, FaultProxy(up.port) as proxy, RawClient(proxy.port) as client:
        client.send(request())
        client.read_response()
        for way in ("downstream", "upstream"):
            proxy.add(Latency(0.3, jitter=0.01, stream=way))
            start = time.monotonic()
            client.send(request())
            client.read_response()
            assert time.monotonic() - start >= 0.28
            proxy.clear()
        proxy.add(Latency(60))
        proxy.clear()
        client.send(request())
        client.read_response()  # Within the 10 s of the client.


def test_bandwidth_spreads_data_over_time() -> None:
    with ScriptedUpstream(each=ECHO) as up, FaultProxy(up.port) as proxy, RawClient(proxy.port) as client:
        proxy.add(Bandwidth(100_000))
        start = time.monotonic()
        client.send(request(body=b"x" * 20_000))
        assert len(client.read_response().body) == 20_000
        assert 0.19 <= time.monotonic() - start < 10


def test_slicer_cuts_and_keeps_order() -> None:
    body = bytes(range(256)) * 4
    with ScriptedUpstream(each=ECHO) as up, FaultProxy(up.port) as proxy, RawClient(proxy.port) as client:
        proxy.add(Slicer(100, size_variation=50, delay=0.002))
        client.send(request(body=body))
        assert client.read_response().body == body
        # The next slice is a minute away: what comes first is one.
        proxy.clear()
        proxy.add(Slicer(100, size_variation=50, delay=60))
        client.send(request(body=body))
        assert 50 <= len(client.reader.some()) <= 150
        client.expect_silence(0.05)


def test_limit_data_closes_after_that_many_bytes() -> None:
    with ScriptedUpstream(each=ECHO) as up, FaultProxy(up.port) as proxy:
        proxy.add(Slicer(7))
        proxy.add(LimitData(50))
        with RawClient(proxy.port) as client:
            client.send(request(body=b"x" * 100))
            assert len(client.read_end()) == 50


def test_reset_peer_resets_both_sides() -> None:
    with ScriptedUpstream([ReceiveBytes(1)]) as up, FaultProxy(up.port) as proxy:
        with RawClient(proxy.port) as client:
            client.send(b"a")
            up.wait_until(lambda: bool(up.connections) and bool(up.connections[0].received), "a byte")
            proxy.add(ResetPeer(0.02))
            assert client.expect_reset() == b""
        assert up.wait_for_end(0) == "peer reset"


def test_timeout_swallows_data_then_closes() -> None:
    with ScriptedUpstream(each=[Receive(), response()]) as up, FaultProxy(up.port) as proxy:
        proxy.add(Timeout())
        with RawClient(proxy.port) as client:
            client.send(request())
            up.wait_for_requests(1)
            client.expect_silence(0.05)
        proxy.clear()
        proxy.add(Timeout(0.05))
        with RawClient(proxy.port) as client:
            client.send(request())
            with pytest.raises(PeerClosedError):
                client.read_response()


def test_slow_close_holds_the_fin_back() -> None:
    reached, gate = threading.Event(), threading.Event()
    script = [Receive(), response(), Set(reached), Wait(gate), Close()]
    with ScriptedUpstream(script) as up, FaultProxy(up.port) as proxy, RawClient(proxy.port) as client:
        proxy.add(SlowClose(0.2))
        client.send(request())
        client.read_response()
        assert reached.wait(5)
        start = time.monotonic()
        gate.set()
        client.expect_end()
        assert time.monotonic() - start >= 0.19


def test_down_refuses_and_aborts_and_up_serves_again_on_the_same_port() -> None:
    with ScriptedUpstream(each=ECHO) as up, FaultProxy(up.port) as proxy:
        with RawClient(proxy.port) as client:
            client.send(request())
            client.read_response()
            proxy.down()
            client.expect_reset()
        with pytest.raises(ConnectionRefusedError):
            RawClient(proxy.port)
        proxy.up()
        with RawClient(proxy.port) as client:
            client.send(request())
            assert client.read_response().status == 200


def test_a_dead_upstream_resets_the_client() -> None:
    with refused_port() as port, FaultProxy(port) as proxy:
        try:
            client = RawClient(proxy.port)
        except ConnectionResetError:
            return  # So early that connect() itself reports it.
        with client:
            client.expect_reset()
