"""Requests of a worker that traces: what its tracing adds must not outlive what is known of their tokens."""

from __future__ import annotations

import time

from opentelemetry.sdk.trace import TracerProvider

from shadowcat.config.model import Policy, Rule
from shadowcat.proxy.exchanges.kinds import Kinds
from shadowcat.proxy.observers.spans import Spans
from shadowcat.testing.loopback import Peer

from .auth import OPAQUE, bearer, guarded, questions, reply
from .stage import OK, Stage, message, post, split

CALL = post(message(), bearer("opaque-token"), host="mcp.example")
OF_TEAM_A = Policy(rules=[Rule(name="team", allow=True, when="claims.team == 'a'")])


def statuses(proxy: Stage, client: Peer, team: str | None = None) -> list[int]:
    """What a call is answered with; the token's issuer, if it is asked, names a team."""
    proxy.tell(client, CALL)
    for question in questions(proxy):
        said = {"active": True, "sub": "alice", "aud": "https://mcp.example/mcp", "team": team}
        reply(proxy, question, said=said)
    for upstream in proxy.upstreams:
        if upstream.writes:
            (got,) = split(upstream.take())
            assert got.header("traceparent") is not None
            upstream.send(OK)
    proxy.settle()
    return [got.status for got in split(client.take())]


def test_rules_go_by_what_a_token_says_now() -> None:
    with guarded(OPAQUE, scopes=(), auth={"cache": 10}, policy=OF_TEAM_A) as proxy:
        proxy.plane.kinds = Kinds(Spans(TracerProvider(), time.time_ns).traced)
        client = proxy.caller()
        assert statuses(proxy, client, "a") == [200]
        for _ in range(3):  # A head is remembered when it comes again.
            assert statuses(proxy, client) == [200]
        proxy.advance(11)
        assert statuses(proxy, client, "b") == [403]
