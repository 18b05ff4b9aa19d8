"""What a chunk and an event of a stream cost."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from shadowcat.http1.chunks import ChunkReader
from shadowcat.testing.loopback import Loopback

from .conftest import EVENT, SESSION, STREAM, Pair, chunk, open_session, request

ONE = chunk(EVENT)


def test_chunk_scan(benchmark: BenchmarkFixture) -> None:
    assert benchmark(ChunkReader(decode=False).feed, ONE) == ONE


def test_chunk_scan_of_ten(benchmark: BenchmarkFixture) -> None:
    assert benchmark(ChunkReader(decode=False).feed, ONE * 10) == ONE * 10


def test_chunk_scan_with_extension(benchmark: BenchmarkFixture) -> None:
    extended = ONE.replace(b"\r\n", b";a=b\r\n", 1)
    assert benchmark(ChunkReader(decode=False).feed, extended) == ONE


def test_chunk_decode(benchmark: BenchmarkFixture) -> None:
    assert benchmark(ChunkReader(decode=True).feed, ONE) == EVENT


def test_chunk_scan_of_64_kib(benchmark: BenchmarkFixture) -> None:
    large = chunk(b"x" * 65_536)
    assert benchmark(ChunkReader(decode=False).feed, large) == large


@pytest.mark.parametrize("split", [False, True])
def test_event_relay(benchmark: BenchmarkFixture, loopback: Loopback, split: bool) -> None:
    pair = Pair(loopback, request().replace(SESSION, open_session(loopback)))
    pair.from_upstream(STREAM)
    first, second = ONE[:20], ONE[20:]

    def relay() -> None:
        if split:
            pair.from_upstream(first)
            pair.from_upstream(second)
        else:
            pair.from_upstream(ONE)
        pair.client.writes.clear()

    benchmark(relay)
    pair.from_upstream(ONE)
    assert pair.client.take() == ONE
