"""What reading a head costs: new, repeated, and repeated with other values."""

from __future__ import annotations

from itertools import cycle

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from shadowcat.http1.request import HeadLimits, parse_request_head
from shadowcat.http1.response import parse_response_head
from shadowcat.proxy.clients.request_heads import RequestHeads
from shadowcat.proxy.upstreams.response_heads import ResponseHeads
from shadowcat.testing.loopback import Loopback

from .conftest import CALL, RESULT, SESSION, answer, request

LIMITS = HeadLimits(32 * 1024, 8 * 1024, 100)
REQUEST = request().removesuffix(CALL)
ANSWER = answer().removesuffix(RESULT)


def traced(number: int) -> bytes:
    return request(b"traceparent: 00-%032x-00f067aa0ba902b7-01" % number).removesuffix(CALL)


def with_session(number: int) -> bytes:
    return REQUEST.replace(SESSION, b"%028x" % number)


@pytest.fixture
def heads(loopback: Loopback) -> RequestHeads:
    return loopback.plane.heads_for(loopback=True, trusted=False)


def test_request_head_strict_parse(benchmark: BenchmarkFixture) -> None:
    benchmark(parse_request_head, REQUEST, LIMITS)


def test_request_head_miss(benchmark: BenchmarkFixture, heads: RequestHeads) -> None:
    def miss() -> None:
        heads.rotate()
        heads.read(REQUEST, heads.recall())

    benchmark(miss)


def test_request_head_hit_last(benchmark: BenchmarkFixture, heads: RequestHeads) -> None:
    recall = heads.recall()
    for _ in range(3):
        heads.read(REQUEST, recall)
    assert benchmark(recall.match, request())


def test_request_head_hit_last_with_another_length(benchmark: BenchmarkFixture, heads: RequestHeads) -> None:
    recall = heads.recall()
    for _ in range(3):
        heads.read(REQUEST, recall)
    turns = cycle([request(body=CALL + b" "), request()])
    assert benchmark(lambda: recall.match(next(turns)))


def test_request_head_hit_last_with_another_traceparent(
    benchmark: BenchmarkFixture, heads: RequestHeads
) -> None:
    recall = heads.recall()
    turns = cycle([traced(number) for number in range(1000)])
    for _ in range(3):
        heads.read(next(turns), recall)
    assert benchmark(lambda: recall.match(next(turns)))


@pytest.mark.parametrize("sessions", [2, 10_000])
def test_request_head_hit_shared(benchmark: BenchmarkFixture, heads: RequestHeads, sessions: int) -> None:
    recall = heads.recall()
    known = [with_session(number) for number in range(sessions)]
    for head in known * 2:
        heads.read(head, heads.recall())
    turns = cycle(known)

    def hit() -> None:
        head = next(turns)
        if not recall.match(head):
            heads.read(head, recall)

    benchmark(hit)


def test_response_head_strict_parse(benchmark: BenchmarkFixture) -> None:
    benchmark(parse_response_head, ANSWER)


def test_response_head_miss(benchmark: BenchmarkFixture) -> None:
    heads = ResponseHeads()

    def miss() -> None:
        heads.rotate()
        heads.read(ANSWER, heads.recall())

    benchmark(miss)


def test_response_head_hit_last(benchmark: BenchmarkFixture) -> None:
    heads = ResponseHeads()
    recall = heads.recall()
    for _ in range(3):
        heads.read(ANSWER, recall)
    assert benchmark(recall.match, answer())


def test_response_head_hit_shared(benchmark: BenchmarkFixture) -> None:
    heads = ResponseHeads()
    known = [ANSWER, ANSWER.replace(b"application/json", b"text/plain")]
    for head in known * 2:
        heads.read(head, heads.recall())
    recall = heads.recall()
    turns = cycle(known)

    def hit() -> None:
        head = next(turns)
        if not recall.match(head):
            heads.read(head, recall)

    benchmark(hit)
