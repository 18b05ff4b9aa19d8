"""What a modern request costs on a route with two upstreams, and what handles add to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from shadowcat.config.model import Balance, Config, Http, Route, Upstream
from shadowcat.testing.loopback import Loopback

from .conftest import EVENT, LAST, STREAM, Pair, answer, chunk, request
from .test_forwarding import MODERN

NAME = b"786512e2-9e0d-44bd-8f29-789f320fe840"
STATE = b"v1." + b"x" * 400
ASKS = (
    b'{"jsonrpc":"2.0","id":12345,"result":{"resultType":"input_required","inputRequests":{"q":{"method":'
    b'"elicitation/create","params":{"mode":"form","message":"?","requestedSchema":{"type":"object",'
    b'"properties":{"answer":{"type":"string"}}}}}},"requestState":"%b"}}' % STATE
)
RETRY = (
    b'{"jsonrpc":"2.0","id":12345,"method":"tools/call","params":{"name":"echo","arguments":{},"requestState":'
    b'"%b","inputResponses":{"q":{"action":"accept","content":{"answer":"a"}}}}}' % STATE
)
GET = b'{"jsonrpc":"2.0","id":12345,"method":"tasks/get","params":{"taskId":"%b"}}' % NAME
TASK = (
    b'{"jsonrpc":"2.0","id":12345,"result":{"resultType":"complete","taskId":"%b","status":"working",'
    b'"createdAt":"2025-11-25T10:30:00Z","lastUpdatedAt":"2025-11-25T10:50:00Z","ttlMs":1}}' % NAME
)


@pytest.fixture(params=["healthy_first", "least_connections"])
def loopback(request: pytest.FixtureRequest) -> Iterator[Loopback]:
    route = Route(
        upstreams=[
            Upstream(url=f"http://127.0.0.1:300{number}/mcp", weight=weight)
            for number, weight in ((1, 100), (2, 1))
        ],
        balance=Balance(strategy=request.param),
    )
    running = Loopback(Config(workers=1, admin=None, routes=[route], http=Http(max_requests=10**9)))
    yield running
    running.close()


def modern(body: bytes | None = None, method: bytes = b"tools/call", name: bytes = b"echo") -> bytes:
    lines = MODERN[0], b"Mcp-Method: " + method, b"Mcp-Name: " + name
    whole = request(*lines[1:]) if body is None else request(*lines[1:], body=body)
    return whole.replace(b"MCP-Protocol-Version: 2025-11-25", lines[0])


@pytest.fixture
def exchange(benchmark: BenchmarkFixture, loopback: Loopback) -> Callable[..., None]:
    def run(sent: bytes, *answers: bytes) -> None:
        pair = Pair(loopback, sent)

        def forward() -> None:
            pair.from_client(sent)
            for data in answers:
                pair.from_upstream(data)
            pair.clear()

        for data in answers:
            pair.from_upstream(data)
        pair.clear()
        for _ in range(3):
            forward()
        benchmark(forward)

    return run


def test_call(exchange: Callable[..., None]) -> None:
    exchange(modern(), answer())


def test_call_in_two_reads(exchange: Callable[..., None]) -> None:
    exchange(modern(), answer()[:-50], answer()[-50:])


def test_stream(exchange: Callable[..., None]) -> None:
    exchange(modern(), STREAM, *[chunk(EVENT)] * 10, LAST)


def test_state_issued(exchange: Callable[..., None]) -> None:
    exchange(modern(), answer(content=ASKS))


def test_state_presented(exchange: Callable[..., None]) -> None:
    exchange(modern(RETRY), answer())


def test_task(exchange: Callable[..., None]) -> None:
    exchange(modern(GET, b"tasks/get", NAME), answer(content=TASK))
