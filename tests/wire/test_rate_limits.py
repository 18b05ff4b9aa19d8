"""Rates, seen from outside: what passes, what the others are told, and to whom a message is charged."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from shadowcat.config.model import Config, Limits, Route, Upstream
from shadowcat.shm.limiter import Tier
from shadowcat.testing.loopback import Peer

from .auth import bearer, guarded, publish_keys, questions, reply, token
from .rates import CALL, MODERN_CALL, ask, begin, finish, held, host, own, statuses
from .sessions import INITIALIZE, NOTE, answer, caller_at, in_session, named, open_session, sibling
from .stage import MODERN, Stage, bare, message, post, split, stage

PING = post(message("ping"))
ECHO = post(CALL, *MODERN_CALL)
EITHER_5 = [{"host_limits": host(**{"global": "5/min"})}, {"limits": own(route="5/min")}]
EITHER_1 = [{"host_limits": host(**{"global": "1/min"})}, {"limits": own(route="1/min")}]
ALICE, BOB = bearer(token()), bearer(token({"sub": "bob"}))
HOST = "mcp.example"


def call(tool: str, *fields: tuple[str, str]) -> bytes:
    return post(message(name=tool), *fields, host=HOST)


@pytest.mark.parametrize(
    "limits", [{"host_limits": host(**{"global": "5/min"})}, {"limits": own(route="5/min")}]
)
def test_five_of_fifteen_pass_and_then_one_more_when_it_was_said(limits: dict[str, Any]) -> None:
    with stage(**limits) as proxy:
        assert statuses(proxy, PING, 15) == [200] * 5 + [429] * 10
        got = ask(proxy, PING)
        assert got.header("Retry-After") == "12"
        proxy.advance(11.9)
        assert statuses(proxy, PING, 1) == [429]
        assert ask(proxy, PING).header("Retry-After") == "1"
        proxy.advance(0.2)
        assert statuses(proxy, PING, 2) == [200, 429]


def test_a_hundred_of_a_hundred_and_fifty_pass_and_then_one_each_0_6_seconds() -> None:
    with stage(limits=own(route="100/min")) as proxy:
        client = proxy.caller()
        got = [ask(proxy, PING, client).status for _ in range(150)]
        assert got == [200] * 100 + [429] * 50
        for _ in range(3):
            proxy.advance(0.61)
            assert [ask(proxy, PING, client).status for _ in range(2)] == [200, 429]


def test_what_a_client_is_told() -> None:
    with stage(limits=own(route="5/min")) as proxy:
        statuses(proxy, PING, 5)
        got = ask(proxy, PING)
        assert got.status == 429
        assert got.error == {
            "jsonrpc": "2.0",
            "id": 7,
            "error": {
                "code": 429,
                "message": "too many requests: route 5/min",
                "data": {"tier": "route", "limit": "5/min", "retryAfterSeconds": 12},
            },
        }
        assert got.header("Retry-After") == "12"
        assert got.header("RateLimit") == '"route";r=0;t=12'
        assert got.header("RateLimit-Policy") == '"route";q=5;w=60'
        assert got.header("X-RateLimit-Limit") == "5"
        assert got.header("X-RateLimit-Remaining") == "0"
        assert got.header("X-RateLimit-Reset") == "12"
        assert proxy.metric("limited_total", "/mcp", "route") == 1
        assert proxy.metric("refusals_total", "limited") == 1
        assert proxy.metric("limited_total", "/mcp", "global") == 0


def test_the_tightest_of_several_is_told_and_none_of_them_is_charged() -> None:
    with stage(limits=own(route="3/min", per_tool={"e*": "2/h"})) as proxy:
        one = post(message(name="echo"))
        assert statuses(proxy, one, 4) == [200, 200, 429, 429]
        assert ask(proxy, one).error["error"]["data"]["limit"] == "2/h"
        # The route has one left: what the tool's limit refused was not charged to it.
        assert statuses(proxy, PING, 2) == [200, 429]
        assert ask(proxy, one).error["error"]["data"]["tier"] == "per_tool"
        assert proxy.metric("limited_total", "/mcp", "per_tool") == 4


def test_addresses_are_limited_each_for_itself_and_of_ipv6_networks() -> None:
    with stage(host_limits=host(per_ip="2/min")) as proxy:
        assert statuses(proxy, PING, 3, peer="192.0.2.1") == [200, 200, 429]
        assert statuses(proxy, PING, 3, peer="192.0.2.2") == [200, 200, 429]
        assert statuses(proxy, PING, 1, peer="::ffff:192.0.2.1") == [429]
        assert statuses(proxy, PING, 2, peer="2001:db8:1:2::1") == [200, 200]
        assert statuses(proxy, PING, 1, peer="2001:db8:1:2:ffff::9") == [429]
        assert statuses(proxy, PING, 1, peer="2001:db8:1:3::1") == [200]
        assert proxy.metric("limited_total", "/mcp", "per_ip") == 4


@pytest.mark.parametrize(("capacity", "is_full"), [(1024, True), (65_536, False)])
def test_beyond_the_capacity_new_addresses_begin_with_what_others_have_left(
    capacity: int, is_full: bool
) -> None:
    with stage(host_limits=replace(host(per_ip="1/h"), capacity=capacity)) as proxy:
        peers = [f"10.0.{number >> 8}.{number & 255}" for number in range(1100)]
        refused = [ask(proxy, PING, peer=peer).status for peer in peers].count(429)
        assert (refused > 0) is is_full


def test_behind_a_trusted_proxy_its_clients_are_limited() -> None:
    with stage(host_limits=host(per_ip="1/min"), trusted_proxies=["10.0.0.0/8"]) as proxy:

        def of(client: str) -> bytes:
            return post(message("ping"), ("X-Forwarded-For", client))

        assert statuses(proxy, of("192.0.2.1"), 2, peer="10.0.0.1") == [200, 429]
        assert statuses(proxy, of("192.0.2.2"), 1, peer="10.0.0.1") == [200]
        assert statuses(proxy, of("192.0.2.1"), 1, peer="10.0.0.2") == [429]
        # Who is not trusted speaks for itself.
        assert statuses(proxy, of("192.0.2.9"), 1, peer="192.0.2.8") == [200]
        assert statuses(proxy, of("192.0.2.7"), 1, peer="192.0.2.8") == [429]


def test_what_is_under_way_at_other_workers_counts() -> None:
    with stage(limits=own(route="3/min"), workers=2) as proxy:
        plane = sibling(proxy)
        client = caller_at(proxy, plane)
        assert statuses(proxy, PING, 2) == [200, 200]
        assert [ask(proxy, PING, client).status for _ in range(2)] == [200, 429]
        assert statuses(proxy, PING, 1) == [429]
        client.abort()
        plane.abort()
        proxy.settle()
        plane.stop()


# What is charged to whom.


def test_users_are_limited_whatever_their_tokens_and_sessions() -> None:
    again = bearer(token({"jti": "another"}))
    with guarded(limits=own(per_user="4/min")) as proxy:
        first = ask(proxy, post(INITIALIZE, ALICE, host=HOST))
        assert first.status == 200
        ping = message("ping")
        assert statuses(proxy, post(ping, ALICE, host=HOST), 1) == [200]
        assert statuses(proxy, post(INITIALIZE, again, host=HOST), 1, peer="192.0.2.9") == [200]
        assert statuses(proxy, post(CALL, *MODERN_CALL, again, host=HOST), 2) == [200, 429]
        assert statuses(proxy, post(INITIALIZE, ALICE, host=HOST), 1) == [429]
        assert statuses(proxy, post(ping, BOB, host=HOST), 5) == [200] * 4 + [429]


def test_sessions_are_limited_each_for_itself() -> None:
    with stage(limits=own(per_session="2/min")) as proxy:
        one, two = open_session(proxy), open_session(proxy, "up-2")
        assert statuses(proxy, in_session(one), 3) == [200, 200, 429]
        assert statuses(proxy, in_session(two), 3) == [200, 200, 429]
        assert statuses(proxy, ECHO, 3) == [200] * 3


def test_tools_are_limited_by_pattern_for_each_user() -> None:
    limits = own(per_tool={"delete_*": "2/min", "*_all": "1/min"})
    with guarded(limits=limits) as proxy:
        assert statuses(proxy, call("delete_a", ALICE), 1) == [200]
        assert statuses(proxy, call("delete_b", ALICE), 2) == [200, 429]
        assert statuses(proxy, call("read_all", ALICE), 2) == [200, 429]
        assert statuses(proxy, call("echo", ALICE), 3) == [200] * 3
        # All patterns that match: the first of these is charged to both.
        assert statuses(proxy, call("delete_all", BOB), 2) == [200, 429]
        assert statuses(proxy, call("delete_a", BOB), 2) == [200, 429]


def test_where_nobody_authenticates_tools_are_limited_by_address() -> None:
    with stage(limits=own(per_tool={"echo": "1/min"})) as proxy:
        assert statuses(proxy, post(message()), 2, peer="192.0.2.1") == [200, 429]
        assert statuses(proxy, post(message()), 2, peer="192.0.2.2") == [200, 429]


@pytest.mark.parametrize("body", [NOTE, b'{"jsonrpc":"2.0","id":1,"result":{}}'])
def test_answers_and_notifications_are_charged_to_the_host_only(body: bytes) -> None:
    with stage(limits=own(route="1/min", per_session="1/min"), host_limits=host(per_ip="6/min")) as proxy:
        session = open_session(proxy)
        proxy.advance(60)
        assert statuses(proxy, in_session(session), 2) == [200, 429]
        # The address has four left.
        assert statuses(proxy, in_session(session, body), 5)[-2:] != [429, 429]
        assert statuses(proxy, in_session(session, body), 1) == [429]


def test_gets_and_deletes_are_charged() -> None:
    with stage(limits=own(route="2/min")) as proxy:
        session = open_session(proxy)
        assert statuses(proxy, bare("DELETE", named("A" * 28)), 1) == [404]  # nobody's: not charged
        client = proxy.caller()
        assert begin(proxy, client, bare("GET", named(session))) is None
        assert statuses(proxy, bare("DELETE", named(session)), 1) == [429]
        client.abort()
        proxy.settle()


def test_who_is_refused_for_its_token_is_charged_to_the_host_only() -> None:
    with guarded(host_limits=host(per_ip="3/min"), limits=own(route="1/min")) as proxy:
        assert statuses(proxy, post(message("ping"), host=HOST), 2) == [401, 401]
        assert statuses(proxy, post(message("ping"), ALICE, host=HOST), 2) == [200, 429]
        assert ask(proxy, post(message("ping"), ALICE, host=HOST)).error["error"]["data"]["tier"] == "per_ip"


def test_options_and_documents_are_free() -> None:
    with guarded(host_limits=host(**{"global": "1/h"})) as proxy:
        path = "/.well-known/oauth-protected-resource/mcp"
        document = f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
        assert statuses(proxy, document, 5) == [200] * 5
        assert statuses(proxy, bare("OPTIONS", host=HOST), 5) == [204] * 5
        assert statuses(proxy, post(message("ping"), ALICE, host=HOST), 2) == [200, 429]


# server/discover.

DISCOVER = (MODERN, ("Mcp-Method", "server/discover"))


def discover(*fields: tuple[str, str]) -> bytes:
    return post(message("server/discover", version="2026-07-28"), *fields, host=HOST)


@pytest.mark.parametrize(
    "limits", [{"host_limits": host(**{"global": "1/min"})}, {"limits": own(route="1/min")}]
)
def test_discover_is_never_told_429(limits: dict[str, Any]) -> None:
    with guarded(**limits) as proxy:
        sent = discover(*DISCOVER, ALICE)
        assert statuses(proxy, sent, 1) == [200]
        got = ask(proxy, sent)
        assert (got.status, got.code, got.header("Retry-After")) == (503, -32603, "60")
        assert got.error["error"]["data"]["retryAfterSeconds"] == 60
        assert statuses(proxy, post(CALL, *MODERN_CALL, ALICE, host=HOST), 1) == [429]


def test_discover_is_not_charged_to_its_user() -> None:
    with guarded(limits=own(per_user="1/min")) as proxy:
        assert statuses(proxy, discover(*DISCOVER, ALICE), 3) == [200] * 3
        assert statuses(proxy, post(CALL, *MODERN_CALL, ALICE, host=HOST), 2) == [200, 429]


# On the head.


@pytest.mark.parametrize(
    ("fields", "status", "has_id"),
    [((), 429, True), (MODERN_CALL, 429, False), (DISCOVER, 503, False), ((MODERN,), 503, False)],
)
def test_what_is_refused_on_the_head_is_not_asked_for_its_body(
    fields: tuple[tuple[str, str], ...], status: int, has_id: bool
) -> None:
    with stage(host_limits=host(per_ip="1/min")) as proxy:
        statuses(proxy, PING, 1)
        client = proxy.caller()
        head, _, _ = post(CALL, ("Expect", "100-continue"), *fields).partition(b"{")
        got = begin(proxy, client, head)
        assert got is not None
        assert got.status == status
        assert got.error.get("id", "none") == (None if has_id else "none")
        assert got.header("Connection") == "close"


def test_a_message_is_charged_once_however_it_comes() -> None:
    with stage(host_limits=host(per_ip="3/min")) as proxy:
        client = proxy.caller()
        for at in (0, 3):
            head, body = PING.split(b"\r\n\r\n")
            proxy.tell(client, head + b"\r\n\r\n" + body[:at])
            proxy.tell(client, body[at:])
            finish(proxy, answer())
            assert split(client.take())[0].status == 200
        assert [ask(proxy, PING, client).status for _ in range(2)] == [200, 429]


def test_a_client_that_leaves_before_its_body_has_paid_nothing_for_others() -> None:
    with stage(host_limits=host(per_ip="5/min")) as proxy:
        for _ in range(2):
            client = proxy.caller()
            proxy.tell(client, PING[:-3])
            client.reset()
            proxy.settle()
        assert proxy.plane.entrance._paid == {}
        assert statuses(proxy, PING, 4) == [200] * 3 + [429]


def test_what_was_paid_ahead_is_not_kept_for_other_limits() -> None:
    limited = host(per_ip="1/min")
    with stage(host_limits=limited) as proxy:
        client = proxy.caller()
        proxy.tell(client, PING[:-3])
        assert proxy.plane.entrance._paid
        for limits in (Limits(capacity=1024), limited):
            proxy.publish(replace(proxy.config, limits=limits))
            proxy.settle()
            if limits is not limited:
                proxy.tell(client, PING[-3:])
                finish(proxy, answer())
                assert split(client.take())[0].status == 200
        assert ask(proxy, PING, client).status == 429


def test_a_message_that_waits_for_the_keys_of_its_issuer_is_charged_once() -> None:
    with guarded(keys=False, host_limits=host(per_ip="3/min"), limits=own(per_user="2/min")) as proxy:
        client = proxy.caller()
        sent = post(message("ping"), ALICE, host=HOST)
        assert begin(proxy, client, sent) is None
        assert all(not upstream.writes for upstream in proxy.upstreams)
        publish_keys(proxy)
        (asked,) = questions(proxy)
        reply(proxy, asked)
        finish(proxy, answer())
        assert split(client.take())[0].status == 200
        got = [
            ask(proxy, sent).error["error"]["data"]["tier"] if at else ask(proxy, sent).status
            for at in range(3)
        ]
        assert got == [200, "per_user", "per_ip"]


# Other workers' locks.


LOCKED = list(zip(EITHER_5, (Tier.GLOBAL, Tier.ROUTE), strict=True))


def expire(proxy: Stage) -> None:
    for _ in range(60):
        proxy.loop.stall(0.001)


@pytest.mark.parametrize(("limits", "tier"), LOCKED)
@pytest.mark.parametrize("kind", ["unbound", "session", "initialize"])
def test_a_lock_that_is_held_costs_its_requests_50_ms_and_nobody_else_anything(
    limits: dict[str, Any], tier: Tier, kind: str
) -> None:
    with stage(**limits) as proxy:
        session = open_session(proxy)
        sent = {"unbound": ECHO, "session": in_session(session), "initialize": post(INITIALIZE)}[kind]
        client = proxy.caller()
        with held(proxy, tier):
            assert begin(proxy, client, sent) is None
            assert all(not upstream.writes for upstream in proxy.upstreams)
            expire(proxy)
            (got,) = split(client.take())
            assert (got.status, got.code, got.header("Retry-After")) == (503, -32603, "1")
            assert "limits cannot be checked" in got.error["error"]["message"]
        # Nothing was charged: the opening and four more.
        assert statuses(proxy, ECHO, 5) == [200] * 4 + [429]


@pytest.mark.parametrize(("limits", "tier"), LOCKED)
@pytest.mark.parametrize("kind", ["unbound", "session", "initialize"])
def test_a_lock_that_is_given_back_in_time_is_not_noticed(
    limits: dict[str, Any], tier: Tier, kind: str
) -> None:
    with stage(**limits) as proxy:
        session = open_session(proxy)
        sent = {"unbound": ECHO, "session": in_session(session), "initialize": post(INITIALIZE)}[kind]
        client = proxy.caller()
        with held(proxy, tier):
            assert begin(proxy, client, sent) is None
        expire(proxy)
        finish(proxy, answer())
        assert split(client.take())[0].status == 200
        assert statuses(proxy, ECHO, 4) == [200] * 3 + [429]


@pytest.mark.parametrize(("limits", "tier"), LOCKED)
def test_a_client_may_leave_while_a_lock_is_held(limits: dict[str, Any], tier: Tier) -> None:
    with stage(**limits) as proxy:
        clients: list[Peer] = [proxy.caller() for _ in range(3)]
        with held(proxy, tier):
            for client, sent in zip(clients, (PING, post(INITIALIZE), post(CALL, *MODERN_CALL)), strict=True):
                assert begin(proxy, client, sent) is None
                client.reset()
        expire(proxy)
        assert all(not upstream.writes for upstream in proxy.upstreams)


# Changes.


def test_a_reload_keeps_what_was_used() -> None:
    with stage(limits=own(route="5/min"), host_limits=host(per_ip="9/min")) as proxy:
        statuses(proxy, PING, 5)
        route = proxy.config.routes[0]

        def become(text: str | None, per_ip: str) -> None:
            limits = None if text is None else own(route=text)
            changed: dict[str, Any] = {**{key: getattr(route, key) for key in route.__struct_fields__}}
            one = Route(**changed | {"limits": limits})
            keys = {key: getattr(proxy.config, key) for key in proxy.config.__struct_fields__}
            proxy.publish(Config(**keys | {"routes": [one], "limits": host(per_ip=per_ip)}))
            proxy.settle()

        become("10/min", "9/min")
        # A minute's worth was used: of the new rate, which is twice the old one, nothing is left either.
        assert statuses(proxy, PING, 1) == [429]
        proxy.advance(6.1)
        assert statuses(proxy, PING, 2) == [200, 429]
        become(None, "100/min")
        assert statuses(proxy, PING, 20) == [200] * 20


def test_without_limits_nothing_is_asked() -> None:
    with guarded(auth={"cache": 1}) as proxy:
        route = proxy.plane.routes[0]
        assert (route.checks, route.is_limited_ahead, route.limits) == ((), False, None)
    with stage(
        routes=[Route(path="/b", upstreams=[Upstream(url="http://b/")])], limits=own(route="1/h")
    ) as proxy:
        assert statuses(proxy, post(message("ping"), path="/b"), 3) == [200] * 3
        assert statuses(proxy, PING, 2) == [200, 429]
