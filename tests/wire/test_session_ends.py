"""How sessions end, and how many there may be."""

from __future__ import annotations

import pytest

from .sessions import (
    INITIALIZE,
    VERSION,
    answer,
    end_session,
    farewells,
    in_session,
    lives,
    named,
    open_session,
    refusal,
    result,
    slot_of,
    turn,
)
from .stage import MODERN, STREAM, bare, message, post, split, stage

# How it ends.


@pytest.mark.parametrize(
    ("status", "ends"),
    [
        ("200 OK", True),
        ("202 Accepted", True),
        ("204 No Content", True),
        ("404 Not Found", True),
        ("405 Method Not Allowed", False),
        ("400 Bad Request", False),
        ("500 Oops", False),
    ],
)
def test_a_client_ends_its_session(status: str, ends: bool) -> None:
    with stage(sessions={"capacity": 1}) as proxy:
        session = open_session(proxy)
        text = answer(b"", "up-1", status=status)
        if status.startswith("204"):
            text = b"HTTP/1.1 204 No Content\r\nMcp-Session-Id: up-1\r\n\r\n"
        assert lives(proxy, session)
        assert lives(proxy, session)
        done = turn(proxy, bare("DELETE", named(session)), text)
        assert done.request.header("Mcp-Session-Id") == "up-1"
        assert (done.answer.status, done.answer.header("Mcp-Session-Id")) == (int(status[:3]), session)
        assert lives(proxy, session) is not ends
        assert farewells(proxy) == []
        assert proxy.metric("sessions_created_total", "/mcp", "a.example:3001") == 1
        assert proxy.metric("sessions_ended_total", "/mcp", "a.example:3001") == ends
        if ends:
            assert lives(proxy, open_session(proxy, "up-2"), "up-2")


def test_a_delete_that_finds_nobody_leaves_the_session() -> None:
    with stage() as proxy:
        session = open_session(proxy)
        proxy.upstreams[0].reset()
        proxy.loop.failures += [TimeoutError()] * 2
        got = proxy.ask(bare("DELETE", named(session)))
        assert got is not None
        assert got.status == 504
        assert lives(proxy, session)


def test_an_idle_session_is_over() -> None:
    with stage(sessions={"idle_timeout": 30}) as proxy:
        session, other = open_session(proxy), open_session(proxy, "up-2")
        for _ in range(4):
            proxy.advance(20)
            assert lives(proxy, session)
        assert not lives(proxy, other)
        proxy.advance(32)
        assert not lives(proxy, session)


def test_a_busy_session_grows_old() -> None:
    with stage(sessions={"idle_timeout": 30, "max_lifetime": 100}) as proxy:
        session = open_session(proxy)
        for _ in range(4):
            proxy.advance(24)
            assert lives(proxy, session)
        proxy.advance(10)
        assert not lives(proxy, session)


@pytest.mark.parametrize("kind", ["stream", "call", "detached call"])
def test_what_is_open_keeps_a_session_alive(kind: str) -> None:
    with stage(sessions={"idle_timeout": 30}) as proxy:
        session = open_session(proxy)
        client = proxy.caller()
        proxy.tell(
            client, bare("GET", named(session)) if kind == "stream" else in_session(session, message())
        )
        (upstream,) = [each for each in proxy.upstreams if each.writes]
        upstream.take()
        if kind == "stream":
            upstream.send(STREAM)
        if kind == "detached call":
            client.reset()
        proxy.advance(100)
        assert lives(proxy, session)
        proxy.advance(100)
        if kind == "stream":
            client.reset()
        else:
            upstream.send(answer())
        assert lives(proxy, session)
        proxy.advance(32)
        assert not lives(proxy, session)


def test_a_session_is_ended_by_order() -> None:
    with stage(upstreams=2, sessions={"idle_timeout": 30}) as proxy:
        session = open_session(proxy)
        found = slot_of(proxy, session)
        end_session(proxy, found.slot, found.version + 2)  # Of what was there before.
        end_session(proxy, found.slot + 1, found.version)
        assert lives(proxy, session)
        assert farewells(proxy) == []
        end_session(proxy, found.slot, found.version)
        ((_, upstream_id, version),) = farewells(proxy)
        assert (upstream_id, version) == ("up-1", VERSION)
        assert not lives(proxy, session)
        end_session(proxy, found.slot, found.version)
        assert farewells(proxy) == []


def test_an_expired_session_is_ended_by_order() -> None:
    with stage(sessions={"idle_timeout": 30, "capacity": 1}) as proxy:
        session = open_session(proxy)
        found = slot_of(proxy, session)
        proxy.advance(60)
        end_session(proxy, found.slot, found.version)
        assert farewells(proxy) == [("a.example:3001", "up-1", VERSION)]
        assert proxy.metric("sessions_ended_total", "/mcp", "a.example:3001") == 1


def test_only_so_many_farewells_at_a_time() -> None:
    with stage(sessions={"capacity": 100}) as proxy:
        found = [slot_of(proxy, open_session(proxy, f"up-{number}")) for number in range(70)]
        for each in found:
            proxy.plane.end_session((each.version & 0xFFFFFF) << 24 | each.slot)
        proxy.settle()
        assert len(farewells(proxy)) == 64
        assert proxy.metric("sessions_ended_total", "/mcp", "a.example:3001") == 70
        again = slot_of(proxy, open_session(proxy, "last"))
        end_session(proxy, again.slot, again.version)
        assert len(farewells(proxy)) == 1


def test_a_farewell_that_is_not_answered_is_given_up() -> None:
    with stage() as proxy:
        found = slot_of(proxy, open_session(proxy))
        end_session(proxy, found.slot, found.version)
        proxy.advance(11)
        (upstream,) = proxy.upstreams
        assert upstream.ending == "aborted"


# Limits.


def test_a_full_table() -> None:
    with stage(sessions={"capacity": 2}) as proxy:
        sessions = [open_session(proxy, "up-0"), open_session(proxy, "up-1")]
        got = refusal(proxy, post(INITIALIZE))
        assert (got.status, got.code, got.header("Retry-After")) == (503, -32603, "5")
        assert got.error["error"]["data"] == {"retryAfterSeconds": 5}
        assert got.error["id"] == 7
        assert [lives(proxy, session, f"up-{number}") for number, session in enumerate(sessions)] == [
            True
        ] * 2
        turn(proxy, post(message(), MODERN))
        turn(proxy, bare("DELETE", named(sessions[0])))
        assert lives(proxy, open_session(proxy, "up-2"), "up-2")
        assert proxy.metric("refusals_total", "sessions_full") == 1


def test_a_session_on_its_way_takes_room() -> None:
    with stage(sessions={"capacity": 1}) as proxy:
        client = proxy.caller()
        proxy.tell(client, post(INITIALIZE))
        assert proxy.ask(post(INITIALIZE)).status == 503  # type: ignore[union-attr]
        client.reset()
        proxy.settle()


def test_expired_sessions_make_room() -> None:
    with stage(sessions={"capacity": 1, "idle_timeout": 30}) as proxy:
        old = open_session(proxy)
        proxy.advance(35)
        client = proxy.caller()
        proxy.tell(client, post(INITIALIZE))
        sent = {upstream.take().split(b" ")[0]: upstream for upstream in proxy.upstreams if upstream.writes}
        assert set(sent) == {b"DELETE", b"POST"}
        sent[b"POST"].send(answer(result(), "up-2"))
        (got,) = split(client.take())
        session = got.header("Mcp-Session-Id")
        assert session is not None
        assert lives(proxy, session, "up-2")
        assert not lives(proxy, old)
        proxy.advance(0.2)
        assert proxy.metric("sessions_ended_total", "/mcp", "a.example:3001") == 1


def test_too_many_sessions_of_one_client() -> None:
    with stage(sessions={"per_principal": 2}) as proxy:
        first, second = open_session(proxy, "up-1"), open_session(proxy, "up-2")
        got = refusal(proxy, post(INITIALIZE))
        assert (got.status, got.code, got.header("Retry-After")) == (503, -32603, "5")
        assert proxy.metric("refusals_total", "sessions_per_principal") == 1
        assert lives(proxy, open_session(proxy, "up-3", peer="127.0.0.2"), "up-3")
        assert lives(proxy, first, "up-1")
        turn(proxy, bare("DELETE", named(second)))
        assert lives(proxy, open_session(proxy, "up-4"), "up-4")


def test_whose_sessions_they_are_behind_a_trusted_proxy() -> None:
    with stage(sessions={"per_principal": 1}, trusted_proxies=["127.0.0.1"]) as proxy:
        for client in ("192.0.2.1", "192.0.2.2", "x" * 300):
            chain = ("X-Forwarded-For", client)
            turn(proxy, post(INITIALIZE, chain), answer(result(), "up-1"))
            assert refusal(proxy, post(INITIALIZE, chain)).status == 503
