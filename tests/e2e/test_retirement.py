"""Upstreams that leave while something of theirs is under way: it ends well or in time, and nothing stays."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from shadowcat.testing.raw_client import Response
from tests.e2e.admin import call, change, listed
from tests.e2e.harness import SLACK, Shadowcat, eventually
from tests.e2e.sessions import Session, exchange, initialize, whoami_in
from tests.e2e.traffic import tool
from tests.e2e.upstreams import Upstream, running

PATIENCE = 15.0
Pair = tuple[Upstream, Upstream]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    two = Upstream("a"), Upstream("b")
    with running(*two):
        yield two


@pytest.fixture(autouse=True)
def _fresh(pair: Pair) -> None:
    for upstream in pair:
        upstream.control.clear_faults()
        upstream.control.clear()


def of(*upstreams: Upstream, route: Mapping[str, Any] = {}, **options: Any) -> dict[str, Any]:
    """A configuration in which the first one that can be had gets everything."""
    entries = [{"name": one.name, "url": one.url} for one in upstreams]
    section = {"path": "/mcp", "upstreams": entries, "balance": {"strategy": "healthy_first"}, **route}
    return {"workers": 2, "routes": [section], **options}


def leaving(cat: Shadowcat) -> list[str]:
    """Who was removed, and still has something to do."""
    return [one["name"] for one in cat.status()["leaving"]]


def wait_gone(cat: Shadowcat) -> None:
    eventually(lambda: not leaving(cat), PATIENCE, "the end of the last one that leaves")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as made:
        yield made


def slow_call(cat: Shadowcat, pool: ThreadPoolExecutor, seconds: float) -> Future[Response]:
    return pool.submit(exchange, cat.address, tool("slow", {"seconds": seconds}).wire("/mcp"))


# Numbers are used again.


def test_there_is_room_for_another_one_again_and_again(pair: Pair) -> None:
    """And nothing is lost, although most requests of the one that leaves have just begun."""
    first, second = pair
    with Shadowcat(of(first, max_upstreams=3)) as cat, ThreadPoolExecutor(8) as pool:
        data = tool("slow", {"seconds": 0.4}).wire("/mcp")
        rounds = 12
        change(cat, "PATCH", "a", {"enabled": False})
        answers: list[Future[Response]] = []
        for number in range(rounds):
            entry = {"name": f"b{number}", "url": second.url}
            query = "/api/upstreams?route=/mcp"
            eventually(lambda entry=entry, query=query: call(cat, "POST", query, entry)[0] == 200)
            begun = [pool.submit(exchange, cat.address, data) for _ in range(4)]
            seen = 4 * (number + 1)
            eventually(lambda seen=seen: len(second.seen(method="POST")) >= seen)
            change(cat, "DELETE", f"b{number}")
            answers += begun
        assert [answer.result().status for answer in answers] == [200] * 4 * rounds
        wait_gone(cat)
        assert set(listed(cat)) == {"a"}


def test_what_there_is_no_room_for_changes_nothing(pair: Pair) -> None:
    first, second = pair
    config = of(first, max_upstreams=2, max_routes=2, upstream_drain_timeout="5s")
    with Shadowcat(config) as cat:
        change(cat, "POST", body={"name": "b", "url": second.url})
        change(cat, "PATCH", "a", {"enabled": False})
        session = Session.open(cat.address)
        change(cat, "DELETE", "b")
        change(cat, "PATCH", "a", {"enabled": True})
        # Its session is there for five seconds more, and with it its number.
        other = {"name": "c", "url": second.url}
        status, document = call(cat, "POST", "/api/upstreams?route=/mcp", other)
        assert status == 409
        assert "no room for upstream c of /mcp: max_upstreams is 2" in document["detail"]
        assert session.whoami()["server"] == "b"
        assert set(listed(cat)) == {"a"}
        eventually(lambda: call(cat, "POST", "/api/upstreams?route=/mcp", other)[0] == 200, PATIENCE)
        assert session.ask("ping").status == 404
        change(cat, "DELETE", "c")
        # A route's number, in contrast, is kept for its path.
        routes = of(first)["routes"]
        upstreams = routes[0]["upstreams"]
        for name in ("/two", "/two"):
            cat.write({**config, "routes": [*routes, {"path": name, "upstreams": upstreams}]})
            # A number rests until every worker has heard that it is free.
            eventually(lambda: call(cat, "POST", "/api/reload")[0] == 200, PATIENCE)
            cat.write(config)
            assert call(cat, "POST", "/api/reload")[0] == 200
        cat.write({**config, "routes": [*routes, {"path": "/three", "upstreams": upstreams}]})
        detail = call(cat, "POST", "/api/reload")[1]["detail"]
        assert "no room for /three: max_routes is 2" in detail
        assert exchange(cat.address, tool("echo", {"text": "x"}).wire("/mcp")).status == 200


# Something is under way.


@pytest.mark.parametrize("way", ["drain", "drain without control", "remove"])
def test_at_the_deadline_everything_ends_here_and_there(
    pair: Pair, pool: ThreadPoolExecutor, way: str
) -> None:
    a, b = pair
    with Shadowcat(of(b, a, upstream_drain_timeout="2s")) as cat:
        sessions = [Session.open(cat.address) for _ in range(5)]
        with sessions[0].stream() as stream:
            assert stream.head.status == 200
            running_call = pool.submit(sessions[1].call, "slow", seconds=60)
            without = slow_call(cat, pool, 60)
            eventually(lambda: len(b.seen(rpc_name="slow")) == 2)
            began = time.monotonic()
            if way == "remove":
                change(cat, "DELETE", "b")
            else:
                change(cat, "POST", "b", {"deadline": "2s"}, tail="/drain")
            if way == "drain without control":
                cat.children()["control"].kill()  # Its successor knows of the drain.
            answer = sessions[2].call("whoami")
            # On a machine that stood still the deadline may have passed.
            assert time.monotonic() - began >= 2.0 or whoami_in(answer)["server"] == "b"
            # Neither the stream nor what runs is left to itself.
            stream.wait_end(PATIENCE)
            assert 2.0 <= time.monotonic() - began < 8.0 + SLACK
            ended = [running_call.result(PATIENCE).status, without.result(PATIENCE).status]
            assert time.monotonic() - began < 8.0 + SLACK
        # The one in a session has heard of its end from the server, and has its answer.
        assert (ended[0] in (500, 502), ended[1]) == (True, 502)
        assert {session.ask("ping").status for session in sessions} == {404}
        eventually(lambda: len(b.seen(method="DELETE", status=200)) == len(sessions), PATIENCE)
        eventually(lambda: cat.status()["sessions"]["live"] == 0, PATIENCE)
        wait_gone(cat)
        if way != "remove":
            (state,) = [one["state"] for one in cat.status()["routes"][0]["upstreams"] if one["name"] == "b"]
            assert state == "drained"
        assert Session.open(cat.address).whoami()["server"] == "a"


def test_a_session_that_is_being_opened(pair: Pair, pool: ThreadPoolExecutor) -> None:
    a, b = pair
    with Shadowcat(of(b, a)) as cat:
        b.control.add_fault("delay", rpc="initialize", seconds=1.0)
        opening = pool.submit(initialize, cat.address)
        b.wait_seen("initialize", rpc_method="initialize")
        change(cat, "DELETE", "b")
        assert leaving(cat) == ["b"]
        answer = opening.result(PATIENCE)
        assert answer.status == 200
        session_id = answer.header("mcp-session-id")
        assert session_id is not None
        session = Session(cat.address, "/mcp", session_id)
        assert session.notify("notifications/initialized").status == 202
        for _ in range(4):
            assert session.whoami()["server"] == "b"
        assert leaving(cat) == ["b"]
        # It is over: so is the upstream, long before its deadline.
        assert session.delete().status == 200
        wait_gone(cat)


def test_requests_that_wait_for_a_connection(pair: Pair, pool: ThreadPoolExecutor) -> None:
    a, b = pair
    with Shadowcat(of(b, route={"pool": {"max_connections": 1, "queue_timeout": "10s"}})) as cat:
        server = psutil.Process(b.pid)
        # The kernel takes connections and requests for it, and it answers none of them before its time.
        server.suspend()
        try:
            first = slow_call(cat, pool, 0.1)
            eventually(lambda: cat.status()["routes"][0]["upstreams"][0]["pool_active"] == 1)
            second = slow_call(cat, pool, 0.1)
            eventually(lambda: cat.status()["routes"][0]["upstreams"][0]["pool_queue"] == 1)
            change(cat, "POST", body={"name": "a", "url": a.url})
            change(cat, "DELETE", "b")
        finally:
            server.resume()
        answers = [each.result(PATIENCE).status for each in (first, second)]
        assert answers == [200, 200]
        assert len(b.seen(rpc_name="slow")) == 2
        wait_gone(cat)


def test_a_session_that_waits_for_the_one_that_is_removed(pair: Pair, pool: ThreadPoolExecutor) -> None:
    a = pair[0]
    with Upstream("gone") as gone, Shadowcat(of(gone, a)) as cat:
        session = Session.open(cat.address)
        assert session.whoami()["server"] == "gone"
        gone.kill()
        asked = pool.submit(session.call, "whoami")
        # It is tried again and again: `sessions.recovery_wait`.
        eventually(lambda: "upstream gone: connection failed" in cat.stderr)
        change(cat, "DELETE", "gone")
        answer = asked.result(PATIENCE)
        assert answer.status == 200
        assert session.whoami()["server"] == "a"
        assert cat.status()["sessions"]["recoveries"] == 1
        wait_gone(cat)


# SIGHUP


def test_a_reload_that_was_asked_of_a_control_process_that_dies(pair: Pair, tmp_path: Path) -> None:
    """And the service manager hears that it is done when it is."""
    a, b = pair
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE)
        with Shadowcat(of(a), environ={"NOTIFY_SOCKET": str(tmp_path / "notify")}) as cat:
            assert manager.recv(1000).startswith(b"READY=1")
            control = cat.children()["control"]
            control.suspend()
            cat.write(of(b))
            cat.signal(signal.SIGHUP)
            reloading = manager.recv(1000)
            assert reloading.startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            control.kill()
            assert manager.recv(1000).startswith(b"READY=1")
            assert set(listed(cat)) == {"b"}
            assert Session.open(cat.address).whoami()["server"] == "b"
            assert cat.stderr.count("changed routes[/mcp]") == 1
