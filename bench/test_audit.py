"""What a line in the audit file costs a tool call, as far as the worker is concerned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from shadowcat.config.model import Audit, Config, Http, Route, Upstream
from shadowcat.testing.loopback import Loopback

from .conftest import SESSION, Pair, answer, open_session, request

OVERFLOW: tuple[Literal["drop", "refuse"] | None, ...] = (None, "drop", "refuse")


@pytest.fixture(params=OVERFLOW, ids=["off", "drop", "refuse"])
def loopback(request: pytest.FixtureRequest) -> Iterator[Loopback]:
    audit = None if request.param is None else Audit(path="audit.jsonl", overflow=request.param)
    route = Route(upstreams=[Upstream(url="http://127.0.0.1:3001/mcp")])
    http = Http(max_requests=10**9)
    running = Loopback(Config(workers=1, admin=None, routes=[route], http=http, audit=audit))
    yield running
    running.close()


def test_tool_call(benchmark: BenchmarkFixture, loopback: Loopback) -> None:
    """The difference to `off` is what a line costs; it is taken from the ring at once."""
    call = request().replace(SESSION, open_session(loopback))
    pair = Pair(loopback, call)
    reply = answer()
    rings = loopback._shared.rings()

    def forward() -> None:
        pair.from_client(call)
        pair.from_upstream(reply)
        pair.clear()
        if rings:
            rings[1].release(rings[1].tail)

    pair.from_upstream(reply)
    pair.clear()
    for _ in range(3):
        forward()
    before = rings[1].tail if rings else 0
    benchmark(forward)
    assert not rings or rings[1].tail > before
