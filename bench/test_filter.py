"""What hiding tools costs: lists that pass, and calls that only have their name looked up."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from msgspec.structs import replace
from pytest_benchmark.fixture import BenchmarkFixture

from shadowcat.config.model import Config, Http, Policy, Route, Tools, Upstream
from shadowcat.mcp.list_events import ListEvents
from shadowcat.mcp.tool_lists import filter_message
from shadowcat.testing.loopback import Loopback

from .conftest import CALL, EVENT, LAST, RESULT, STREAM, Pair, answer, chunk

LIST = b'{"jsonrpc":"2.0","id":12345,"method":"tools/list","params":{}}'


def tool(number: int) -> dict[str, object]:
    properties = {name: {"type": "string", "title": name.title()} for name in ("path", "query", "limit")}
    schema = {"type": "object", "properties": properties, "required": ["path"]}
    text = "Find what is asked for, and say where it is. " * 4
    return {"name": f"tool_{number}", "description": text, "inputSchema": schema}


LISTED = json.dumps(
    {"jsonrpc": "2.0", "id": 12345, "result": {"tools": [tool(n) for n in range(50)]}}
).encode()
"""50 tools, 25 KB."""


def post(body: bytes) -> bytes:
    lines = (
        b"POST /mcp HTTP/1.1", b"Host: localhost", b"Accept: application/json, text/event-stream",
        b"Content-Type: application/json", b"User-Agent: python-httpx/0.28.1", b"Connection: keep-alive",
        b"MCP-Protocol-Version: 2025-11-25", b"Content-Length: %d" % len(body),
    )  # fmt: skip
    return b"\r\n".join([*lines, b"", b""]) + body


@pytest.fixture(params=["open", "hiding"])
def loopback(request: pytest.FixtureRequest) -> Iterator[Loopback]:
    route = Route(upstreams=[Upstream(url="http://127.0.0.1:3001/mcp")])
    if request.param == "hiding":
        route = replace(route, policy=Policy(tools=Tools(deny=["delete_*", "tool_?"])))
    running = Loopback(Config(workers=1, admin=None, routes=[route], http=Http(max_requests=10**9)))
    yield running
    running.close()


def forward(benchmark: BenchmarkFixture, loopback: Loopback, request: bytes, *replies: bytes) -> bytes:
    pair = Pair(loopback, request)

    def answer_it() -> None:
        for reply in replies:
            pair.from_upstream(reply)

    def one() -> None:
        pair.from_client(request)
        answer_it()
        pair.clear()

    answer_it()
    pair.clear()
    benchmark(one)
    pair.from_client(request)
    answer_it()
    return pair.client.take()


def test_list(benchmark: BenchmarkFixture, loopback: Loopback) -> None:
    """A list of 50 tools; `hiding` takes 10 out of it."""
    got = forward(benchmark, loopback, post(LIST), answer(content=LISTED))
    assert got.count(b'"name"') in (50, 40)


def test_list_in_a_stream(benchmark: BenchmarkFixture, loopback: Loopback) -> None:
    event = b"event: message\r\ndata: %b\r\n\r\n" % LISTED
    got = forward(benchmark, loopback, post(LIST), STREAM + chunk(event) + LAST)
    assert got.count(b'"name"') in (50, 40)


def test_call(benchmark: BenchmarkFixture, loopback: Loopback) -> None:
    """The difference between `hiding` and `open` is what every call pays."""
    assert RESULT in forward(benchmark, loopback, post(CALL), answer())


def test_filter_alone(benchmark: BenchmarkFixture) -> None:
    found = benchmark(filter_message, LISTED, lambda name: name != "tool_7", is_private=True)
    assert found.count(b'"name"') == 49


def test_other_event(benchmark: BenchmarkFixture) -> None:
    """An event on a GET stream that is no list."""
    events = ListEvents(lambda message: message)
    assert benchmark(events.feed, EVENT) == EVENT
