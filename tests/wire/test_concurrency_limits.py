"""Limits on what is under way at a time, seen from outside."""

from __future__ import annotations

import json

import pytest

from .auth import bearer, guarded, token
from .rates import CALL, MODERN_CALL, ask, begin, finish, host, own
from .sessions import INITIALIZE, answer, caller_at, in_session, named, open_session, sibling
from .stage import MODERN, OK, bare, message, post, split, stage

ECHO = post(CALL, *MODERN_CALL)
HOST = "mcp.example"


def test_so_many_are_under_way_and_no_more() -> None:
    with stage(limits=own(route="concurrent 2")) as proxy:
        clients = [proxy.caller() for _ in range(3)]
        assert begin(proxy, clients[0], ECHO) is None
        assert begin(proxy, clients[1], ECHO) is None
        got = begin(proxy, clients[2], ECHO)
        assert got is not None
        assert (got.status, got.code, got.header("Retry-After")) == (429, 429, "1")
        assert got.error["error"]["data"] == {
            "tier": "route", "limit": "concurrent 2", "retryAfterSeconds": 1,
        }  # fmt: skip
        assert got.header("RateLimit") == '"route";r=0'
        assert got.header("RateLimit-Policy") == '"route";q=2;qu="concurrent-requests"'
        assert proxy.metric("limited_total", "/mcp", "route") == 1
        finish(proxy)
        assert begin(proxy, clients[2], ECHO) is None
        finish(proxy)


@pytest.mark.parametrize("how", ["answered", "left", "upstream reset", "denied by a rate"])
def test_whatever_ends_gives_its_seat_back(how: str) -> None:
    limits = own(route="3/min concurrent 1" if how == "denied by a rate" else "concurrent 1")
    with stage(limits=limits, retry={"attempts": 1}) as proxy:
        for _ in range(3):
            client = proxy.caller()
            assert begin(proxy, client, ECHO) is None
            if how == "left":
                client.reset()
            elif how == "upstream reset":
                proxy.upstreams[-1].reset()
            else:
                finish(proxy)
            proxy.settle()
        if how == "denied by a rate":
            for _ in range(2):
                assert ask(proxy, ECHO).error["error"]["data"]["limit"] == "3/min"
            proxy.advance(21)
        assert begin(proxy, proxy.caller(), ECHO) is None
        finish(proxy)
        assert not proxy.plane.limits._held


def test_a_legacy_call_goes_on_without_its_client_and_counts() -> None:
    with stage(limits=own(route="concurrent 1")) as proxy:
        session = open_session(proxy)
        client = proxy.caller()
        assert begin(proxy, client, in_session(session, message())) is None
        client.reset()
        proxy.settle()
        assert ask(proxy, in_session(session)).status == 429
        finish(proxy, answer())
        assert ask(proxy, in_session(session)).status == 200


def test_streams_that_wait_for_events_take_no_seat() -> None:
    listen = message("subscriptions/listen", version="2026-07-28")
    with stage(limits=own(route="concurrent 1", per_session="concurrent 1")) as proxy:
        session = open_session(proxy)
        streams = [proxy.caller() for _ in range(2)]
        assert begin(proxy, streams[0], bare("GET", named(session))) is None
        assert begin(proxy, streams[1], post(listen, MODERN, ("Mcp-Method", "subscriptions/listen"))) is None
        for upstream in proxy.upstreams:
            upstream.take()
        assert ask(proxy, in_session(session)).status == 200
        for stream in streams:
            stream.abort()
        proxy.settle()


def test_users_addresses_sessions_and_tools_have_their_own_seats() -> None:
    alice, bob = bearer(token()), bearer(token({"sub": "bob"}))

    def call(*fields: tuple[str, str], name: str = "echo") -> bytes:
        return post(message(name=name), *fields, host=HOST)

    limits = own(per_user="concurrent 2", per_tool={"slow": "concurrent 1"})
    with guarded(limits=limits, host_limits=host(per_ip="concurrent 3")) as proxy:

        def told(sent: bytes, peer: str = "192.0.2.1") -> str | None:
            got = begin(proxy, proxy.caller(peer), sent)
            return None if got is None else got.error["error"]["data"]["tier"]

        assert told(call(alice, name="slow")) is None
        assert told(call(alice, name="slow")) == "per_tool"
        assert told(call(alice)) is None
        assert told(call(alice)) == "per_user"
        assert told(call(bob, name="slow")) is None
        assert told(call(bob)) == "per_ip"
        assert told(call(bob), "192.0.2.2") is None
        finish(proxy)


def test_a_session_has_its_own_seats_and_batches_take_one_for_each_message() -> None:
    with stage(limits=own(per_session="concurrent 3")) as proxy:
        session = open_session(proxy, version="2025-03-26")
        pings = [{"jsonrpc": "2.0", "id": at, "method": "ping"} for at in range(2)]
        batch = in_session(session, json.dumps(pings).encode())
        first, second, third = (proxy.caller() for _ in range(3))
        assert begin(proxy, first, batch) is None
        got = begin(proxy, second, batch)
        assert got is not None
        assert got.status == 429
        assert begin(proxy, third, in_session(session)) is None
        finish(proxy, answer())
        assert begin(proxy, second, batch) is None
        finish(proxy, answer())
        assert split(second.take())


def test_other_workers_count_and_what_a_dead_one_had_is_free() -> None:
    with stage(limits=own(route="concurrent 2"), workers=2) as proxy:
        plane = sibling(proxy)
        there = caller_at(proxy, plane)
        assert begin(proxy, there, ECHO) is None
        assert begin(proxy, proxy.caller(), ECHO) is None
        assert ask(proxy, ECHO).status == 429
        proxy._shared.clear_concurrency(3)  # what the supervisor does
        assert begin(proxy, proxy.caller(), ECHO) is None
        assert ask(proxy, ECHO).status == 429
        plane.limits._held.clear()  # The dead give nothing back.
        there.abort()
        plane.abort()
        proxy.settle()
        plane.stop()


def test_initialize_takes_a_seat_and_gives_it_back() -> None:
    with stage(limits=own(route="concurrent 1")) as proxy:
        client = proxy.caller()
        assert begin(proxy, client, post(INITIALIZE)) is None
        assert ask(proxy, post(INITIALIZE)).status == 429
        finish(proxy, OK)
        open_session(proxy)
