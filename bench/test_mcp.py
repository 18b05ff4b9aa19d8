"""What the pure MCP code costs per request and per event.

Run with `pytest bench/test_mcp.py --benchmark-enable`.
"""

from __future__ import annotations

import json

from pytest_benchmark.fixture import BenchmarkFixture

from shadowcat.errors import Refusal
from shadowcat.mcp.answers import error_body
from shadowcat.mcp.envelope import Kind, peek
from shadowcat.mcp.eras import Era, era_of
from shadowcat.mcp.mirrored import Mirrored, find_disagreement
from shadowcat.mcp.sse import Boundary, EventScanner

PREFIX = "io.modelcontextprotocol/"
LEGACY = {
    "jsonrpc": "2.0",
    "id": 12345,
    "method": "tools/call",
    "params": {"name": "echo", "arguments": {"text": "hello hello hello"}, "_meta": {"progressToken": 12345}},
}
MODERN = {
    "jsonrpc": "2.0",
    "id": 12345,
    "method": "tools/call",
    "params": {
        "name": "echo",
        "arguments": {"text": "hello hello hello hello", "id": 4, "name": "bob", "list": ["a", "b", "c"]},
        "_meta": {
            PREFIX + "protocolVersion": "2026-07-28",
            PREFIX + "clientInfo": {"name": "ExampleClient", "version": "1.0.0"},
            PREFIX + "clientCapabilities": {"elicitation": {}, "sampling": {}},
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01",
            "progressToken": 7,
        },
    },
}
EVENT = b'event: message\r\nid: 17\r\ndata: {"jsonrpc":"2.0","method":"notifications/progress"}\r\n\r\n'


def compact(message: object) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def test_peek_legacy_call(benchmark: BenchmarkFixture) -> None:
    assert benchmark(peek, compact(LEGACY)).name == "echo"


def test_peek_modern_call(benchmark: BenchmarkFixture) -> None:
    assert benchmark(peek, compact(MODERN)).version == "2026-07-28"


def test_peek_modern_call_with_64_kib_of_arguments(benchmark: BenchmarkFixture) -> None:
    arguments = {"rows": [{"name": "x" * 40, "values": [1, 2.5, None]}] * 800}
    body = compact({**MODERN, "params": {**MODERN["params"], "arguments": arguments}})
    assert benchmark(peek, body).kind is Kind.REQUEST


def test_exact_path_spaced(benchmark: BenchmarkFixture) -> None:
    assert benchmark(peek, json.dumps(LEGACY).encode()).name == "echo"


def test_exact_path_spaced_modern(benchmark: BenchmarkFixture) -> None:
    assert benchmark(peek, json.dumps(MODERN).encode()).name == "echo"


def test_exact_path_long(benchmark: BenchmarkFixture) -> None:
    arguments = {"rows": [{"name": "x" * 40, "values": [1, 2.5, None]}] * 800}
    body = json.dumps({**MODERN, "params": {**MODERN["params"], "arguments": arguments}}).encode()
    assert benchmark(peek, body).kind is Kind.REQUEST


def test_exact_path_ambiguous(benchmark: BenchmarkFixture) -> None:
    body = compact(LEGACY).replace(b'"name"', b'"name":"x","name"')
    assert benchmark(peek, body).fault is Refusal.AMBIGUOUS_KEYS


def test_era(benchmark: BenchmarkFixture) -> None:
    assert benchmark(era_of, b"POST", b"2026-07-28") is Era.MODERN


def test_mirrored_headers(benchmark: BenchmarkFixture) -> None:
    headers = Mirrored((b"2026-07-28",), (b"tools/call",), (b"echo",))
    assert benchmark(find_disagreement, peek(compact(MODERN)), headers) is None


def test_own_error(benchmark: BenchmarkFixture) -> None:
    assert benchmark(error_body, -32603, "upstream closed before answering", b"12345", Era.LEGACY)


def test_sse_boundary(benchmark: BenchmarkFixture) -> None:
    boundary = Boundary()
    benchmark(boundary.feed, EVENT)
    assert boundary.is_between_events


def test_sse_event(benchmark: BenchmarkFixture) -> None:
    events = benchmark(EventScanner(1 << 20).feed, EVENT)
    assert [event.id for event in events] == [b"17"]
