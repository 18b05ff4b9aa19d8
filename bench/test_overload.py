"""What a place for each request costs it: the difference to `off`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from shadowcat.config.model import Config, Http, Overload, Route, Upstream
from shadowcat.testing.loopback import Loopback

from .conftest import SESSION, Pair, answer, open_session, request

BOUNDS = {"off": None, "on": 1000}


@pytest.fixture(params=BOUNDS)
def loopback(request: pytest.FixtureRequest) -> Iterator[Loopback]:
    config = Config(
        workers=4,
        admin=None,
        routes=[Route(upstreams=[Upstream(url="http://127.0.0.1:3001/mcp")])],
        overload=Overload(max_in_flight=BOUNDS[request.param]),
        http=Http(max_requests=10**9),
    )
    running = Loopback(config)
    yield running
    running.close()


def test_places(benchmark: BenchmarkFixture, loopback: Loopback) -> None:
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
