"""What everything together costs: `on` against `off`, in a session and in the stateless era.

On are a token that is known, a rule that looks at no argument, and a limit of each group: of networks and of
users. Metrics are always on, and so is the session of a legacy call.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from msgspec.structs import replace
from pytest_benchmark.fixture import BenchmarkFixture

from shadowcat.config.model import (
    Auth,
    Config,
    Http,
    Issuer,
    Limits,
    Policy,
    Route,
    RouteLimits,
    Rule,
    Sessions,
    Upstream,
)
from shadowcat.config.units import Limit
from shadowcat.testing.loopback import Loopback
from shadowcat.testing.mock_oauth.clock import Clock
from shadowcat.testing.mock_oauth.keys import KeyRing
from shadowcat.testing.mock_oauth.mint import Mint

from .conftest import INITIALIZE, INITIALIZED, SESSION, Pair, answer, request

ISSUER, AUDIENCE = "https://idp.example", "https://mcp.example/mcp"
SECRET = "a shared secret of 32 bytes and more"
MODERN = (b"MCP-Protocol-Version: 2026-07-28", b"Mcp-Method: tools/call", b"Mcp-Name: echo")
LIMITS = {
    "leases": Limit("1000000/s"),
    "locks": Limit("100000/s burst 63"),
}
"""Never reached. The second is of too small a burst for leases, as the limits of most users are."""


def everything(limit: Limit) -> Config:
    route = Route(
        upstreams=[Upstream(url="http://127.0.0.1:3001/mcp")],
        auth=Auth(
            issuers=[Issuer(issuer=ISSUER, audience=AUDIENCE, secret=SECRET)],
            scopes=["mcp:read"],
            cache=Issuer(issuer=ISSUER).stale,
        ),
        policy=Policy(
            rules=[
                Rule(name="life", allow=True, methods=["initialize", "ping", "notifications/*"]),
                Rule(name="tools", allow=True, tools=["get_*", "echo"]),
            ]
        ),
        limits=RouteLimits(per_user=limit),
    )
    return replace(nothing(), routes=[route], limits=Limits(per_ip=limit))


def nothing() -> Config:
    route = Route(upstreams=[Upstream(url="http://127.0.0.1:3001/mcp")])
    sessions = Sessions(per_principal=10**6)
    return Config(workers=1, admin=None, routes=[route], http=Http(max_requests=10**9), sessions=sessions)


@pytest.fixture(params=["off", *LIMITS])
def loopback(request: pytest.FixtureRequest) -> Iterator[Loopback]:
    of = LIMITS.get(request.param)
    running = Loopback(nothing() if of is None else everything(of))
    yield running
    running.close()


@pytest.mark.parametrize("era", ["session", "modern"])
def test_call(benchmark: BenchmarkFixture, loopback: Loopback, era: str) -> None:
    """A call of a tool."""
    token = Mint(ISSUER, KeyRing(("EdDSA",)), Clock(), 3600).mint(
        {"aud": AUDIENCE, "scope": "mcp:read", "sub": "user-1"}, secret=SECRET
    )
    line = b"Mcp-Session-Id: " + SESSION + b"\r\n"
    call = request()
    if era == "modern":
        call = request(*MODERN[1:]).replace(line, b"")
        call = call.replace(b"MCP-Protocol-Version: 2025-11-25", MODERN[0])
    else:
        first = with_token(request(body=INITIALIZE).replace(line, b""), token)
        pair = Pair(loopback, first)
        pair.from_upstream(answer(content=INITIALIZED))
        head = pair.client.take().partition(b"\r\n\r\n")[0]
        (found,) = [each for each in head.split(b"\r\n") if each.lower().startswith(b"mcp-session-id: ")]
        call = call.replace(SESSION, found.partition(b" ")[2])
        pair.client.abort()
        loopback.settle()
    call = with_token(call, token)
    pair = Pair(loopback, call)
    reply = answer()

    def one() -> None:
        pair.from_client(call)
        pair.from_upstream(reply)
        pair.clear()

    pair.from_upstream(reply)
    for _ in range(300):
        one()
    benchmark(one)
    pair.from_client(call)
    assert pair.upstream.take().startswith(b"POST /mcp HTTP/1.1\r\n")
    pair.from_upstream(reply)
    assert pair.client.take().startswith(b"HTTP/1.1 200 OK\r\n")


def with_token(data: bytes, token: str) -> bytes:
    return data.replace(b"x" * 200, token.encode())
