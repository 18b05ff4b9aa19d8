"""What rules cost: a verdict that is known, one that is not, and a condition that looks into the message."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from shadowcat.auth.keys import Publication, PublishedKeys, encode_publication, read_key_set, source_of
from shadowcat.config.model import Auth, Config, Http, Policy, Route, Rule, Upstream
from shadowcat.mcp.params import read_params
from shadowcat.policy.asked import Asked
from shadowcat.policy.rules import RuleSet
from shadowcat.shm.shared import CONTROL
from shadowcat.testing.loopback import Loopback

from .conftest import CALL
from .test_auth import RING, TRUSTED, forward, request, token

CLAIMS = {
    "iss": "https://idp.example", "sub": "user-1", "aud": "https://mcp.example/mcp", "exp": 1_900_000_000,
    "iat": 1_700_000_000, "scope": "mcp:read", "client_id": "client", "roles": ["dev", "ops"],
    "email": "user@idp.example", "org": {"id": 7, "name": "example"},
}  # fmt: skip
LISTS = Rule(name="lists", allow=True, methods=["*/list", "initialize", "ping"])
POLICIES = {
    "none": None,
    "names": Policy(rules=[LISTS, Rule(name="tools", allow=True, tools=["get_*", "echo"])]),
    "claims": Policy(rules=[LISTS, Rule(name="claims", allow=True, when="claims.sub.startsWith('user-')")]),
    "arguments": Policy(
        rules=[
            Rule(name="no", allow=False, tools=["drop_*"]),
            Rule(name="arguments", allow=True, tools=["echo"], when="arguments.text.startsWith('hello')"),
        ]
    ),
    "arguments and claims": Policy(
        rules=[
            LISTS,
            Rule(
                name="both",
                allow=True,
                when="claims.sub.startsWith('user-') && arguments.text.startsWith('hello')",
            ),
        ]
    ),
}


@pytest.fixture(params=POLICIES)
def loopback(request: pytest.FixtureRequest) -> Iterator[Loopback]:
    route = Route(
        upstreams=[Upstream(url="http://127.0.0.1:3001/mcp")],
        auth=Auth(issuers=[TRUSTED], scopes=["mcp:read"], cache=TRUSTED.stale),
        policy=POLICIES[request.param],
    )
    running = Loopback(Config(workers=1, admin=None, routes=[route], http=Http(max_requests=10**9)))
    name = source_of(TRUSTED)
    assert name is not None
    keys = PublishedKeys(1, 0, 2**62, read_key_set(RING.jwks()))
    running._shared.keys.write(1, encode_publication(Publication({name: keys})))
    running._shared.board.changed(CONTROL)
    yield running
    running.close()


def test_request(benchmark: BenchmarkFixture, loopback: Loopback) -> None:
    """The difference to `none` is what the rules cost."""
    forward(benchmark, loopback, [request(token())], 3)


@pytest.mark.parametrize("name", [name for name in POLICIES if name != "none"])
def test_decision(benchmark: BenchmarkFixture, name: str) -> None:
    """One that is not known: the rules alone."""
    policy = POLICIES[name]
    assert policy is not None
    rules = RuleSet("/mcp", policy, ["mcp:read"])
    caller = rules.caller("idp client user-1", frozenset({"mcp:read"}), CLAIMS)

    def decide() -> bool:
        asked = Asked("POST", "tools/call", "echo", lambda: "192.0.2.1", lambda: read_params(CALL))
        return rules.decide(asked, caller).allow

    assert decide()
    benchmark(decide)
