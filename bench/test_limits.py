"""What limits cost a request: the difference to `off` is that of the tiers together."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from msgspec.structs import replace
from pytest_benchmark.fixture import BenchmarkFixture

from shadowcat.config.model import Config, Http, Limits, Route, RouteLimits, Upstream
from shadowcat.config.units import Limit
from shadowcat.testing.loopback import Loopback

from .conftest import SESSION, Pair, answer, open_session, request

MUCH = Limit("1000000/s")
"""Never reached, and leased."""
SLOW = Limit("1000000/s burst 63")
"""Never reached, and too small a burst for leases: each request takes the lock."""


def host(limit: Limit, *, with_ip: bool = False) -> Limits:
    return Limits(global_=limit, per_ip=limit if with_ip else None)


def own(limit: Limit, *, tools: bool = False) -> RouteLimits:
    return RouteLimits(
        route=limit, per_session=limit if tools else None, per_tool={"e*": limit} if tools else {}
    )


TIERS: dict[str, tuple[Limits, RouteLimits | None]] = {
    "off": (Limits(), None),
    "global": (host(MUCH), None),
    "global, per_ip": (host(MUCH, with_ip=True), None),
    "route": (Limits(), own(MUCH)),
    "global, route": (host(MUCH), own(MUCH)),
    "global, per_ip, route, per_session, per_tool": (host(MUCH, with_ip=True), own(MUCH, tools=True)),
    "global with lock": (host(SLOW), None),
    "global, per_ip with lock": (host(SLOW, with_ip=True), None),
    "route with lock": (Limits(), own(SLOW)),
    "all five with lock": (host(SLOW, with_ip=True), own(SLOW, tools=True)),
    "concurrent": (Limits(), RouteLimits(route=Limit("concurrent 10"))),
}


@pytest.fixture(params=TIERS)
def loopback(request: pytest.FixtureRequest) -> Iterator[Loopback]:
    limits, of_route = TIERS[request.param]
    route = replace(Route(upstreams=[Upstream(url="http://127.0.0.1:3001/mcp")]), limits=of_route)
    config = Config(workers=1, admin=None, routes=[route], limits=limits, http=Http(max_requests=10**9))
    running = Loopback(config)
    yield running
    running.close()


def test_tiers(benchmark: BenchmarkFixture, loopback: Loopback) -> None:
    """A call of a session."""
    call = request().replace(SESSION, open_session(loopback))
    pair = Pair(loopback, call)
    reply = answer()
    pair.from_upstream(reply)
    pair.clear()

    def one() -> None:
        pair.from_client(call)
        pair.from_upstream(reply)
        pair.clear()

    for _ in range(300):
        one()
    benchmark(one)
    pair.from_client(call)
    assert pair.upstream.take().startswith(b"POST /mcp HTTP/1.1\r\n")
