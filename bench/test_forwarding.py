"""What one forwarded exchange costs in Python: the real protocol objects, without sockets and event loop."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from shadowcat.testing.loopback import Loopback

from .conftest import EVENT, LAST, SESSION, STREAM, Pair, answer, chunk, open_session, request

MODERN = (b"MCP-Protocol-Version: 2026-07-28", b"Mcp-Method: tools/call", b"Mcp-Name: echo")


def modern(*lines: bytes) -> bytes:
    return request(*MODERN[1:], *lines).replace(b"MCP-Protocol-Version: 2025-11-25", MODERN[0])


def exchange(benchmark: BenchmarkFixture, loopback: Loopback, requests: list[bytes], *answers: bytes) -> None:
    session = open_session(loopback)
    requests = [data.replace(SESSION, session) for data in requests]
    pair = Pair(loopback, requests[0])
    turns: Iterator[bytes] = cycle(requests)

    def forward() -> None:
        pair.from_client(next(turns))
        for data in answers:
            pair.from_upstream(data)
        pair.clear()

    pair.from_upstream(answer())
    pair.clear()
    for _ in range(max(3, len(requests))):
        forward()
    benchmark(forward)
    pair.from_client(next(turns))
    assert pair.upstream.take().startswith(b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:3001\r\n")
    for data in answers:
        pair.from_upstream(data)
    assert pair.client.take().startswith(b"HTTP/1.1 200 OK\r\n")


def test_doubles_alone(benchmark: BenchmarkFixture, loopback: Loopback) -> None:
    """To be taken off the others: the two writes, and what keeps the doubles in order."""
    pair = Pair(loopback, modern())
    turns = cycle([request()])

    def nothing() -> None:
        pair.upstream.write(next(turns))
        pair.client.write(b"")
        pair.clear()

    benchmark(nothing)


WATCHED = pytest.mark.parametrize("watched", [False, True], ids=["", "watched"])


@WATCHED
def test_json_answer(benchmark: BenchmarkFixture, loopback: Loopback) -> None:
    exchange(benchmark, loopback, [request()], answer())


def test_json_answer_modern(benchmark: BenchmarkFixture, loopback: Loopback) -> None:
    exchange(benchmark, loopback, [modern()], answer())


@WATCHED
def test_json_answer_in_two_reads(benchmark: BenchmarkFixture, loopback: Loopback) -> None:
    exchange(benchmark, loopback, [request()], answer()[:-50], answer()[-50:])


def test_unique_traceparent(benchmark: BenchmarkFixture, loopback: Loopback) -> None:
    line = b"traceparent: 00-%032x-00f067aa0ba902b7-01"
    exchange(benchmark, loopback, [request(line % number) for number in range(1000)], answer())


@pytest.mark.parametrize("sessions", [10_000])
def test_many_sessions(benchmark: BenchmarkFixture, loopback: Loopback, sessions: int) -> None:
    requests = [request().replace(SESSION, open_session(loopback)) for _ in range(sessions)]
    heads = loopback.plane.heads_for(loopback=True, trusted=False)
    for data in requests * 2:
        heads.read(data[: data.find(b"\r\n\r\n") + 4], heads.recall())
    exchange(benchmark, loopback, requests, answer())


@WATCHED
def test_sse_answer(benchmark: BenchmarkFixture, loopback: Loopback) -> None:
    exchange(benchmark, loopback, [request()], STREAM + chunk(EVENT) + LAST)


def test_sse_answer_in_three_reads(benchmark: BenchmarkFixture, loopback: Loopback) -> None:
    exchange(benchmark, loopback, [request()], STREAM, chunk(EVENT), LAST)


def test_refusal(benchmark: BenchmarkFixture, loopback: Loopback) -> None:
    client = loopback.client()
    receive = client._protocol.data_received
    unknown = request().replace(b"/mcp", b"/none", 1)

    def refuse() -> None:
        receive(unknown)
        client.writes.clear()

    benchmark(refuse)
