"""Upstreams whose credential control fetches: every request has it, or is not sent."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from shadowcat.shm.questions import Ask
from shadowcat.testing.loopback import Peer

from .auth import bearer, guarded, questions, token
from .credentials import give, own, presented, read
from .sessions import INITIALIZE, PING, id_in, named, result
from .sessions import answer as served
from .stage import MODERN, OK, Got, Stage, message, post, split, stage

CALL = post(message(), MODERN, ("Authorization", "Bearer of-the-client"))


def waiting(proxy: Stage, sent: bytes = CALL) -> Peer:
    client = proxy.caller()
    proxy.tell(client, sent)
    assert client.take() == b""
    return client


def arrived(proxy: Stage, answer: bytes = OK) -> Got:
    """The one request that is at an upstream; it is answered then."""
    (upstream,) = [each for each in proxy.upstreams if each.writes]
    (got,) = split(upstream.take())
    upstream.send(answer)
    proxy.settle()
    return got


def told(client: Peer) -> Got:
    (got,) = split(client.take())
    return got


def test_a_request_waits_for_the_first_credential() -> None:
    with stage(keys=[own()]) as proxy:
        client = waiting(proxy)
        proxy.advance(1)
        assert proxy.untouched
        give(proxy, "first")
        proxy.advance(0.2)
        assert presented(arrived(proxy)) == "first"
        assert told(client).status == 200
        # It is known: nobody waits for it any more.
        got, _ = proxy.passes(CALL)
        assert presented(got) == "first"


def test_a_new_credential_goes_over_the_connections_there_are() -> None:
    with stage(keys=[own()]) as proxy:
        for name in ("first", "second", "third"):
            give(proxy, name)
            assert presented(proxy.passes(CALL)[0]) == name
        assert len(proxy.loop.dialled) == 1


@pytest.mark.parametrize("case", ["never there", "over"])
def test_nothing_is_sent_without_a_credential(case: str) -> None:
    with stage(keys=[own()]) as proxy:
        if case == "over":
            give(proxy, "first", lifetime=30)
            assert presented(proxy.passes(CALL)[0]) == "first"
            proxy.advance(30)
        client = waiting(proxy)
        proxy.advance(1.9)
        assert client.take() == b""
        proxy.advance(0.3)
        got = told(client)
        assert (got.status, got.header("Retry-After"), got.code) == (503, "2", -32603)
        assert not any(each.writes for each in proxy.upstreams)
        assert proxy.metric("refusals_total", "credential_missing") == 1


def test_the_credential_of_another_section_is_none() -> None:
    with stage(keys=[own()]) as proxy:
        give(proxy, "first")
        assert presented(proxy.passes(CALL)[0]) == "first"
        (route,) = proxy.config.routes
        upstreams = [replace(route.upstreams[0], **own(resource="https://up.example"))]
        proxy.publish(replace(proxy.config, routes=[replace(route, upstreams=upstreams)]))
        client = waiting(proxy)
        give(proxy, "second")
        proxy.advance(0.2)
        assert presented(arrived(proxy)) == "second"
        assert told(client).status == 200


def test_who_waits_for_a_connection_gets_the_new_section_s_credential_or_none() -> None:
    with stage(keys=[own()], pool={"max_connections": 1}) as proxy:
        give(proxy, "first")
        busy, queued = proxy.caller(), proxy.caller()
        for client in (busy, queued):
            proxy.tell(client, CALL)
        (route,) = proxy.config.routes
        upstreams = [replace(route.upstreams[0], **own(resource="https://up.example"))]
        proxy.publish(replace(proxy.config, routes=[replace(route, upstreams=upstreams)]))
        proxy.advance(0.2)  # With the tick it is taken up.
        assert presented(arrived(proxy)) == "first"
        assert told(busy).status == 200
        proxy.advance(1)
        assert not any(each.writes for each in proxy.upstreams)
        give(proxy, "second")
        proxy.advance(0.2)
        assert presented(arrived(proxy)) == "second"
        assert told(queued).status == 200


def test_each_upstream_gets_its_own_and_others_none() -> None:
    keys: list[dict[str, Any]] = [own(), own(resource="https://b.example"), {}]
    with stage(upstreams=3, keys=keys, balance={"strategy": "round_robin"}) as proxy:
        give(proxy, "for-a", "for-b")
        found = {}
        for _ in range(3):
            got, _ = proxy.passes(CALL)
            found[got.header("Host")] = presented(got)
        assert found == {"a.example:3001": "for-a", "b.example:3001": "for-b", "c.example:3001": None}


def test_another_upstream_serves_while_a_credential_is_missing() -> None:
    with stage(upstreams=2, keys=[own(), {}], balance={"strategy": "healthy_first"}) as proxy:
        client = waiting(proxy)
        proxy.advance(2.1)
        assert arrived(proxy).header("Host") == "b.example:3001"
        assert told(client).status == 200


def test_a_client_that_leaves_waits_no_more() -> None:
    with stage(keys=[own()]) as proxy:
        client = waiting(proxy)
        client.abort()
        proxy.settle()
        give(proxy, "first")
        proxy.advance(0.2)
        assert not any(each.writes for each in proxy.upstreams)


def test_nobody_waits_for_the_credential_of_an_upstream_that_is_cut_off() -> None:
    with stage(keys=[own()], retry={"attempts": 3}) as proxy:
        client = waiting(proxy)
        (pool,) = proxy.plane.sessions.pools.values()
        pool.abort()
        proxy.settle()
        assert told(client).status == 503


def test_no_more_wait_than_may_queue() -> None:
    with stage(keys=[own()], pool={"max_queue": 2}) as proxy:
        clients = [waiting(proxy) for _ in range(2)]
        got = proxy.ask(CALL)
        assert got is not None
        assert got.status == 503
        give(proxy, "first")
        proxy.advance(0.2)
        for client, upstream in zip(clients, proxy.upstreams, strict=True):
            (sent,) = split(upstream.take())
            assert presented(sent) == "first"
            upstream.send(OK)
            proxy.settle()
            assert told(client).status == 200


def test_sessions_have_it_and_their_recovery_too() -> None:
    with stage(keys=[own()]) as proxy:
        give(proxy, "first", lifetime=10_000)
        client = waiting(proxy, post(INITIALIZE))
        assert presented(arrived(proxy, served(result(), "up-1"))) == "first"
        session = id_in(client.take())
        waiting(proxy, post(PING, named(session)))
        assert presented(arrived(proxy)) == "first"
        # The upstream has lost it: it is opened anew.
        client = waiting(proxy, post(PING, named(session)))
        arrived(proxy, served(b"", status="404 Not Found"))
        again = arrived(proxy, served(result(), "up-2"))
        assert b'"initialize"' in again.body
        assert presented(again) == "first"


def test_a_request_of_a_session_waits_as_long_and_no_longer() -> None:
    with stage(upstreams=2, keys=[own(), {}], balance={"strategy": "healthy_first"}) as proxy:
        give(proxy, "first", lifetime=30)
        client = waiting(proxy, post(INITIALIZE))
        arrived(proxy, served(result(), "up-1"))
        session = named(id_in(client.take()))
        proxy.advance(31)
        client = waiting(proxy, post(PING, session))
        proxy.advance(1.9)
        assert client.take() == b""
        proxy.advance(0.3)
        # Nobody else knows the session.
        assert told(client).status == 503
        assert not any(each.writes for each in proxy.upstreams)
        client = waiting(proxy, post(PING, session))
        give(proxy, "second")
        proxy.advance(0.2)
        assert presented(arrived(proxy)) == "second"
        assert told(client).status == 200


def test_a_credential_that_is_not_accepted_is_renewed() -> None:
    challenge = b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nContent-Length: 0\r\n\r\n"
    with stage(keys=[own()]) as proxy:
        give(proxy, "first")
        for _ in range(3):
            _, received = proxy.passes(CALL, answer=challenge)
            assert received.startswith(b"HTTP/1.1 401")
        (question,) = questions(proxy)
        assert question.kind is Ask.RENEW
        (seat,) = [seat for _, _, _, seat in proxy._shared.present().upstreams()]
        assert read(question) == (f"{seat.row}.{seat.generation}", 1)
        proxy.advance(5)
        proxy.passes(CALL, answer=challenge)
        assert len(questions(proxy)) == 2


def test_where_the_proxy_authenticates_its_client_hears_of_no_challenge() -> None:
    challenge = b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nContent-Length: 0\r\n\r\n"
    with guarded(upstream_keys=[own()]) as proxy:
        give(proxy, "first")
        text = token()
        got, received = proxy.passes(
            post(message("ping"), bearer(text), host="mcp.example"), answer=challenge
        )
        assert presented(got) == "first"
        assert split(received)[0].status == 502
        (question,) = questions(proxy)
        assert question.kind is Ask.RENEW
