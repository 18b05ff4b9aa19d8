"""The choice among upstreams: what is load, whose turn it is, who may be chosen at all."""

from __future__ import annotations

from collections import Counter
from typing import Any, get_args

import pytest
from msgspec.structs import replace

from shadowcat.config.model import StrategyName
from shadowcat.proxy.assembly import assemble
from shadowcat.shm.shared import worker_number
from shadowcat.testing.loopback import Peer

from .servers import LIST, Servers, lose
from .sessions import (
    INITIALIZE,
    PING,
    answer,
    caller_at,
    in_session,
    named,
    open_session,
    refusal,
    result,
    sibling,
    turn,
)
from .stage import MODERN, OK, STREAM, Stage, message, post, split, stage

STRATEGIES: tuple[str, ...] = get_args(StrategyName)
CALL = post(message(), MODERN)
OFF: dict[str, Any] = {"enabled": False}


def asked(proxy: Stage, data: bytes, client: Peer | None = None) -> tuple[Peer, Peer, str]:
    """Send something that is not answered yet: its client, its upstream, and that one's letter."""
    client = client or proxy.caller()
    proxy.tell(client, data)
    (upstream,) = [each for each in proxy.upstreams if each.writes]
    (got,) = split(upstream.take())
    host = got.header("Host")
    assert host is not None
    return client, upstream, host[0]


def opened_at(proxy: Stage, client: Peer | None = None) -> str:
    """Open a session; its upstream's letter."""
    return turn(proxy, post(INITIALIZE), answer(result(), "up-1"), client=client).host[0]


def refused() -> OSError:
    return ConnectionRefusedError(111, "Connection refused")


def opening_at(proxy: Stage) -> list[int]:
    return [proxy.metric("sessions_opening", "/mcp", f"{name}.example:3001") for name in "ab"]


# Turns


def test_sessions_take_turns_over_all_workers() -> None:
    with stage(upstreams=2, keys=[{"weight": 3}, {}], workers=2) as proxy:
        other = sibling(proxy)
        found = ""
        for _ in range(4):
            found += opened_at(proxy)
            found += opened_at(proxy, caller_at(proxy, other))
        assert found == "aaba" * 2


def test_a_turn_is_waited_for() -> None:
    with stage(upstreams=2, workers=2) as proxy:
        locks = sibling(proxy).sessions.table.locks
        line = proxy._shared._cursors.offset
        assert opened_at(proxy) == "a"
        locks.acquire(line)
        client = proxy.caller()
        proxy.tell(client, post(INITIALIZE))
        proxy.advance(0.02)
        assert proxy.loop.dialled == [("a.example", 3001)]
        locks.release(line)
        proxy.advance(0.02)
        assert proxy.loop.dialled == [("a.example", 3001), ("b.example", 3001)]
        (upstream,) = [each for each in proxy.upstreams if each.writes]
        upstream.take()
        assert [opened_at(proxy) for _ in range(3)] == ["a", "b", "a"]


def test_nobody_is_refused_for_a_turn() -> None:
    with stage(upstreams=2, workers=2) as proxy:
        locks = sibling(proxy).sessions.table.locks
        line = proxy._shared._cursors.offset
        locks.acquire(line)
        for _ in range(2):
            client = proxy.caller()
            proxy.tell(client, post(INITIALIZE))
            proxy.advance(0.1)
            (upstream,) = [each for each in proxy.upstreams if each.writes]
            upstream.take()
            upstream.send(answer(result(), "up-1"))
            proxy.settle()
            (got,) = split(client.take())
            assert got.status == 200
        assert sorted(proxy.loop.dialled) == [("a.example", 3001), ("b.example", 3001)]
        locks.release(line)


def test_a_client_that_left_while_its_turn_was_waited_for() -> None:
    with stage(upstreams=2, workers=2) as proxy:
        locks = sibling(proxy).sessions.table.locks
        line = proxy._shared._cursors.offset
        locks.acquire(line)
        client = proxy.caller()
        proxy.tell(client, post(INITIALIZE))
        client.abort()
        proxy.advance(0.1)
        locks.release(line)
        assert proxy.untouched
        assert opening_at(proxy) == [0, 0]


# Load


@pytest.mark.parametrize("sent", [CALL, post(PING)], ids=["modern", "unbound"])
def test_requests_under_way_are_load(sent: bytes) -> None:
    with stage(upstreams=2, balance={"strategy": "least_connections"}) as proxy:
        for _ in range(8):
            one, first, busy = asked(proxy, sent)
            two, second, idle = asked(proxy, sent)
            assert {busy, idle} == {"a", "b"}
            second.send(OK)
            proxy.settle()
            # One has ended: its upstream is the one with less to do, also after the cells were looked at.
            three, third, again = asked(proxy, sent)
            assert again == idle
            proxy.advance(0.2)
            third.send(OK)
            proxy.settle()
            proxy.advance(0.2)
            four, fourth, again = asked(proxy, sent)
            assert again == idle
            for upstream in (first, fourth):
                upstream.send(OK)
            proxy.settle()
            for client in (one, two, three, four):
                assert client.take() == OK
                client.abort()
            proxy.settle()


@pytest.mark.parametrize("ending", ["cancelled", "broken", "streamed"])
def test_load_ends_with_its_request_however_that_does(ending: str) -> None:
    with stage(upstreams=2, balance={"strategy": "least_connections"}) as proxy:
        for _ in range(8):
            client, upstream, busy = asked(proxy, CALL)
            if ending == "streamed":
                upstream.send(STREAM)
                proxy.settle()
            other, idle_upstream, idle = asked(proxy, CALL)
            assert idle != busy
            if ending == "broken":
                upstream.reset()
            else:
                client.abort()
            proxy.settle()
            third, again_upstream, again = asked(proxy, CALL)
            assert again == busy
            for each in (idle_upstream, again_upstream):
                each.send(OK)
            proxy.settle()
            for each in (client, other, third):
                each.abort()
            proxy.settle()


def test_sessions_are_load_whichever_worker_has_opened_them() -> None:
    with stage(upstreams=2, balance={"strategy": "least_connections"}, workers=2) as proxy:
        other = sibling(proxy)
        for number in range(1, 9):
            pair = opened_at(proxy)
            proxy.advance(0.06)
            pair += opened_at(proxy, caller_at(proxy, other))
            proxy.advance(0.06)
            assert sorted(pair) == ["a", "b"], number


def test_what_opens_is_load_and_what_fails_to_is_not() -> None:
    with stage(upstreams=2, balance={"strategy": "least_connections"}) as proxy:
        for _ in range(8):
            hung, upstream, busy = asked(proxy, post(INITIALIZE))
            assert sum(opening_at(proxy)) == 1
            proxy.advance(0.06)
            assert opened_at(proxy) != busy
            proxy.advance(0.06)
            upstream.send(answer(b"{}", status="500 No"))
            proxy.settle()
            assert opening_at(proxy) == [0, 0]
            hung.abort()
            proxy.settle()
            assert opened_at(proxy) == busy


def test_what_was_opened_this_moment_is_load() -> None:
    """Nobody has looked at the cells since."""
    with stage(upstreams=2, balance={"strategy": "least_connections"}) as proxy:
        for _ in range(8):
            assert sorted([opened_at(proxy), opened_at(proxy)]) == ["a", "b"]


def test_what_failed_this_moment_is_not_load() -> None:
    balance = {"strategy": "least_connections"}
    with stage(upstreams=2, keys=[{"weight": 3}, {}], balance=balance) as proxy:
        for _ in range(8):
            done = turn(proxy, post(INITIALIZE), answer(b"{}", status="500 No"))
            assert done.host == "a.example:3001"


def test_a_try_elsewhere_takes_its_load_along() -> None:
    with stage(upstreams=2, balance={"strategy": "least_connections"}) as proxy:
        proxy.loop.failures = [refused()]
        client, upstream, letter = asked(proxy, post(INITIALIZE))
        assert opening_at(proxy) == [letter == "a", letter == "b"]
        upstream.send(answer(result(), "up-1"))
        proxy.settle()
        assert opening_at(proxy) == [0, 0]
        assert opened_at(proxy) != letter
        client.abort()


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("sent", [CALL, post(PING), post(INITIALIZE)], ids=["modern", "unbound", "session"])
def test_who_cannot_be_reached_is_replaced(strategy: str, sent: bytes) -> None:
    with stage(upstreams=3, balance={"strategy": strategy}, retry={"attempts": 5}) as proxy:
        proxy.loop.failures = [refused()] * 2
        client, upstream, _ = asked(proxy, sent)
        assert sorted(host for host, _ in proxy.loop.dialled) == ["a.example", "b.example", "c.example"]
        upstream.send(answer())
        proxy.settle()
        (got,) = split(client.take())
        assert got.status == 200
        proxy.loop.dialled.clear()
        upstream.reset()
        proxy.settle()
        # When all have failed they are tried once more.
        proxy.loop.failures = [refused() for _ in range(5)]
        client = proxy.caller()
        proxy.tell(client, sent)
        (got,) = split(client.take())
        assert got.status == 502
        assert len(proxy.loop.dialled) == 5
        assert Counter(proxy.loop.dialled).most_common()[0][1] == 2


# Keys


def homes(proxy: Stage, *sent: bytes) -> str:
    found = ""
    for data in sent:
        client, upstream, letter = asked(proxy, data)
        found += letter
        upstream.send(OK)
        proxy.settle()
        client.abort()
        proxy.settle()
    return found


def test_requests_without_the_key_go_anywhere() -> None:
    for hash_on in ("header:X-Tenant", "argument:user"):
        with stage(upstreams=3, balance={"strategy": "consistent_hash", "hash_on": hash_on}) as proxy:
            assert set(homes(proxy, *[CALL] * 40)) == {"a", "b", "c"}


def test_a_key_in_a_header_that_varies() -> None:
    balance = {"strategy": "consistent_hash", "hash_on": "header:mcp-name"}
    with stage(upstreams=3, balance=balance) as proxy:
        tools = [post(message(name=f"t{n}"), MODERN, ("Mcp-Name", f"t{n}")) for n in range(12)]
        first = homes(proxy, *tools)
        assert len(set(first)) > 1
        assert homes(proxy, *tools) == first


@pytest.mark.parametrize("value", ['"m\\u00fcller"', '"müller"', "7", '{"a": [1]}'])
def test_a_key_among_the_arguments(value: str) -> None:
    def call(arguments: str) -> bytes:
        params = f'{{"name":"echo","arguments":{arguments}}}'
        return post(f'{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{params}}}'.encode(), MODERN)

    balance = {"strategy": "consistent_hash", "hash_on": "argument:user"}
    with stage(upstreams=3, balance=balance) as proxy:
        found = homes(proxy, *[call(f'{{"user":{value}}}'), call(f'{{"x":1,"user":{value}}}')] * 6)
        assert len(set(found)) == 1
        if "ller" in value:
            assert set(homes(proxy, call('{"user":"müller"}'))) == set(found)
        # What has no such argument is forwarded all the same.
        homes(proxy, call("[]"), call("{}"), call('{"user":"\\ud83d"}'))


def test_the_principal_is_the_clients_address() -> None:
    with stage(upstreams=3, balance={"strategy": "consistent_hash"}) as proxy:
        found = {}
        for number in range(12):
            peer = f"10.0.0.{number}"
            done = [turn(proxy, post(INITIALIZE), answer(result(), "up-1"), peer=peer) for _ in range(2)]
            found[peer] = {each.host for each in done}
        assert {len(each) for each in found.values()} == {1}
        assert len(set.union(*found.values())) > 1


# Who may not be chosen


def test_the_sessions_of_a_disabled_upstream_go_on() -> None:
    with stage(upstreams=2, balance={"strategy": "healthy_first"}, workers=2) as proxy:
        session = open_session(proxy)
        (route,) = proxy.config.routes
        first, second = route.upstreams
        changed = replace(route, upstreams=[replace(first, enabled=False), second])
        plane = assemble(proxy.config, proxy._shared, worker_number(1), proxy.loop)
        proxy.publish(replace(proxy.config, routes=[changed]))
        for _ in range(3):
            done = turn(proxy, in_session(session), client=caller_at(proxy, plane))
            assert done.host == "a.example:3001"
            for sent in (post(INITIALIZE), CALL, post(PING)):
                assert turn(proxy, sent, client=caller_at(proxy, plane)).host == "b.example:3001"


@pytest.mark.parametrize("upstreams", [1, 2])
def test_nobody_to_choose(upstreams: int) -> None:
    with stage(upstreams=upstreams, keys=[OFF] * upstreams) as proxy:
        for sent in (CALL, post(PING), post(INITIALIZE), post(message("server/discover"), MODERN)):
            got = refusal(proxy, sent)
            assert (got.status, got.code) == (503, -32603)
            assert got.header("Retry-After") == "5"
            assert got.error["id"] == 7
        assert proxy.untouched


@pytest.mark.parametrize(
    ("era", "passes"),
    [
        ("legacy", (False, True, True, True)),
        ("modern", (True, False, False, True)),
        ("dual", (True, True, True, True)),
        ("unknown", (True, True, True, True)),
    ],
)
def test_one_upstream_gets_what_it_speaks(era: str, passes: tuple[bool, ...]) -> None:
    messages = (CALL, post(PING), post(INITIALIZE), post(message("server/discover"), MODERN))
    with stage(keys=[{"era": era}]) as proxy:
        for sent, may in zip(messages, passes, strict=True):
            if may:
                assert turn(proxy, sent).answer.status == 200
            else:
                assert refusal(proxy, sent).status == 503


def test_only_those_who_get_legacy_requests_have_to_issue_ids() -> None:
    with stage(upstreams=3, keys=[{"era": "legacy"}, {"era": "modern"}, OFF]) as proxy:
        assert turn(proxy, post(PING)).host == "a.example:3001"
        open_session(proxy)
        got = refusal(proxy, post(PING))
        assert (got.status, got.code) == (400, -32600)


def test_a_lost_session_goes_to_one_that_takes_new_ones() -> None:
    with stage(upstreams=4, keys=[{}, OFF, {"era": "modern"}, {}]) as proxy:
        servers = Servers(proxy)
        for _ in range(2):
            session = servers.open()
            home = lose(servers, session)
            client = servers.tell(in_session(session, LIST))
            servers.advance(4)
            assert servers.received(client).status == 200
            (new,) = set(servers.sessions.values()) - {home}
            assert {home, new} == {"a.example:3001", "d.example:3001"}
            servers.refusing.clear()
            servers.delete(session)
            servers.sessions.clear()


def test_a_disabled_upstream_does_not_get_back_what_it_has_lost() -> None:
    with stage(upstreams=2, balance={"strategy": "healthy_first"}, workers=2) as proxy:
        servers = Servers(proxy)
        session = servers.open()
        assert set(servers.sessions.values()) == {"a.example:3001"}
        (route,) = proxy.config.routes
        first, second = route.upstreams
        changed = replace(route, upstreams=[replace(first, enabled=False), second])
        plane = assemble(proxy.config, proxy._shared, worker_number(1), proxy.loop)
        proxy.publish(replace(proxy.config, routes=[changed]))
        servers.forget()
        assert servers.ask(in_session(session, LIST), caller_at(proxy, plane)).status == 200
        assert set(servers.sessions.values()) == {"b.example:3001"}


def test_a_lost_session_finds_nobody() -> None:
    with stage(upstreams=2, keys=[{}, OFF]) as proxy:
        servers = Servers(proxy)
        session = servers.open()
        servers.initialize_answers["a.example:3001"] = answer(b"{}", status="503 No")
        servers.forget()
        got = servers.ask(post(LIST, named(session)))
        assert got.status == 503
        assert {each.host for each in servers.seen} == {"a.example:3001"}


def test_one_that_has_as_many_as_it_may_is_passed_over() -> None:
    keys = [{"max_connections": 2}, {}]
    with stage(upstreams=2, keys=keys, balance={"strategy": "healthy_first"}) as proxy:
        hosts = [asked(proxy, CALL)[2] for _ in range(4)]
        assert hosts == list("aabb")
