"""Requests whose head was read before a change of the configuration, and which begin after it."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from shadowcat.config.model import Auth, Issuer, Policy, Route, Rule, Upstream
from shadowcat.errors import Refusal
from shadowcat.testing.loopback import Peer

from .auth import TRUSTED, bearer, guarded, publish_keys, questions, reply, token
from .hidden import POLICY
from .rates import host
from .stage import Got, Stage, message, post, split, stage
from .test_auth_waiting import WITH_NEW, new_token

HOST = "mcp.example"
GOOD = bearer(token())
NOBODY = Policy(rules=[Rule(name="listing", allow=True, methods=["*/list"])])
CHANGED = "the route changed meanwhile; send it again"


def change(proxy: Stage, **keys: Any) -> None:
    """Have the first route be another one; workers notice with what they do next."""
    proxy.config = replace(proxy.config, routes=[replace(proxy.config.routes[0], **keys)])
    proxy.publish(proxy.config)
    proxy.advance(0.2)


def half(proxy: Stage, *fields: tuple[str, str], body: bytes = message(), host: str = HOST) -> Peer:
    """A client that has sent a request up to the last byte of its body."""
    client = proxy.caller()
    proxy.tell(client, post(body, *fields, host=host)[:-1])
    assert client.take() == b""
    return client


def answered(proxy: Stage, client: Peer, rest: bytes = b"}") -> Got:
    """What the proxy answers itself."""
    proxy.tell(client, rest)
    assert proxy.untouched
    (got,) = split(client.take())
    return got


@pytest.mark.parametrize("repeated", [False, True])
def test_rules_that_come_while_the_body_does(*, repeated: bool) -> None:
    with guarded() as proxy:
        if repeated:  # Its head is known by heart.
            for _ in range(3):
                proxy.passes(post(message("ping"), GOOD, host=HOST))
            proxy.loop.dialled.clear()
        client = half(proxy, GOOD)
        change(proxy, policy=NOBODY)
        # A token whose claims were of no interest so far is judged anew, and the rules know them.
        got = answered(proxy, client)
        assert (got.status, got.error["error"]["data"]["rule"]) == (403, "default")


def test_rules_that_come_while_a_key_is_waited_for() -> None:
    with guarded() as proxy:
        client = proxy.caller()
        proxy.tell(client, post(message(), bearer(new_token()), host=HOST))
        change(proxy, policy=NOBODY)
        publish_keys(proxy, WITH_NEW)
        reply(proxy, questions(proxy)[0])
        (got,) = split(client.take())
        assert (got.status, got.error["error"]["data"]["rule"]) == (403, "default")
        assert proxy.untouched


def test_tools_that_are_hidden_meanwhile() -> None:
    with stage() as proxy:
        body = message(name="drop")
        client = half(proxy, body=body, host="localhost")
        change(proxy, policy=POLICY)
        got = answered(proxy, client)
        assert got.error["result"]["isError"] is True


def test_authentication_that_comes_meanwhile() -> None:
    with stage(public_url="https://mcp.example") as proxy:
        client = half(proxy)
        change(proxy, auth=Auth(issuers=[TRUSTED]))
        got = answered(proxy, client)
        assert (got.status, got.error["error"]["message"]) == (503, CHANGED)
        assert got.header("Retry-After") == "1"
        # The connection is good for the next request, which is read anew.
        proxy.tell(client, post(host=HOST))
        (got,) = split(client.take())
        assert got.status == 401


def test_no_token_goes_to_an_upstream_that_is_to_have_none_any_more() -> None:
    passed = Auth(
        mode="passthrough", issuers=[Issuer(issuer=TRUSTED.issuer)], resource="https://mcp.example/mcp"
    )
    with stage(public_url="https://mcp.example", auth=passed) as proxy:
        client = half(proxy, GOOD)
        change(proxy, auth=None)
        assert answered(proxy, client).status == 503


def test_a_route_that_is_gone_or_not_the_nearest_any_more() -> None:
    with stage() as proxy:
        clients = [half(proxy, host="localhost"), proxy.caller()]
        below = post(path="/mcp/admin")
        proxy.tell(clients[1], below[:-1])
        upstream = Upstream(url="http://z.example:3001/mcp")
        nearer = Route(path="/mcp/admin", upstreams=[upstream], policy=NOBODY)
        proxy.publish(replace(proxy.config, routes=[*proxy.config.routes, nearer]))
        proxy.advance(0.2)
        assert answered(proxy, clients[1]).status == 503
        proxy.publish(replace(proxy.config, routes=[nearer]))
        proxy.advance(0.2)
        assert answered(proxy, clients[0]).status == 503


def test_what_has_nothing_to_do_with_it_goes_on() -> None:
    with guarded() as proxy:
        client = half(proxy, GOOD)
        change(proxy, policy=Policy(rules=[Rule(name="all", allow=True)]))
        proxy.tell(client, b"}")
        assert client.take() == b""
        (upstream,) = [each for each in proxy.upstreams if each.writes]
        (got,) = split(upstream.take())
        assert got.header("Authorization") is None


def test_who_was_judged_before_there_were_rules_is_not_judged_by_them() -> None:
    """A request that waits for its session, say, when they come: they would know nothing of its caller."""
    with guarded() as proxy:
        client = proxy.caller()
        proxy.tell(client, post(message(), GOOD, host=HOST))
        connection: Any = client._protocol
        exchange = connection._exchange
        change(proxy, policy=Policy(rules=[Rule(name="all", allow=True)]))
        (check,) = proxy.plane.routes[0].checks
        denial = check.judge(exchange, connection, (exchange.envelope,), None)
        assert denial is not None
        assert denial.refusal is Refusal.TOKEN_UNCHECKED


def test_limits_that_come_meanwhile() -> None:
    with stage() as proxy:
        clients = [half(proxy, host="localhost") for _ in range(2)]
        proxy.config = replace(proxy.config, limits=host(per_ip="1/min"))
        proxy.publish(proxy.config)
        proxy.advance(0.2)
        proxy.tell(clients[0], b"}")
        assert clients[0].take() == b"", "it is at the upstream"
        proxy.tell(clients[1], b"}")
        (got,) = split(clients[1].take())
        assert got.status == 429
