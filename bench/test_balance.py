"""What choosing an upstream costs, and what its breaker and its load add to a request.

Run with `pytest bench/test_balance.py --benchmark-enable`.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import get_args

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from shadowcat.config.model import Breaker, Outlier, StrategyName
from shadowcat.mcp.eras import Era
from shadowcat.policy.balance import Measures
from shadowcat.policy.breaker import STATE_MASK, Event, Row, Step, step
from shadowcat.policy.failures import BUCKETS, Failures, trips
from shadowcat.policy.group import Group, Member
from shadowcat.policy.loads import Latency, Loads
from shadowcat.policy.outlier import eject
from shadowcat.policy.ring import Ring, hash_key

SIZES = (10, 1000)
NAMES: tuple[StrategyName, ...] = get_args(StrategyName)
NOW = 10**15
WORKERS = 8


class Stage:
    """A group in the middle of its work: loads and latencies differ, and most limits are far."""

    def __init__(self, name: StrategyName, size: int, limit: int = 10**9) -> None:
        chance = random.Random(5)
        self.name = name
        self.numbers = itertools.cycle([chance.getrandbits(64) for _ in range(1000)]).__next__
        self.loads = Loads(size)
        self.loads.refresh([chance.randrange(20) for _ in range(size)], range(size))
        latencies = [Latency() for _ in range(size)]
        for latency in latencies:
            latency.observe(chance.random(), 0.0)
            latency.pending = chance.randrange(2)
        weights = [1 + index % 5 for index in range(size)]
        self.members = [Member(weight, max_connections=limit) for weight in weights]
        ring = Ring([f"server-{index}" for index in range(size)], weights)
        self.measures = Measures(self.loads, latencies, ring, lambda: 5.0)

    def group(self) -> Group:
        return Group(self.name, self.members, Era.LEGACY, self.measures, self.loads.counts, NOW)


@pytest.fixture(params=SIZES)
def size(request: pytest.FixtureRequest) -> int:
    found: int = request.param
    return found


def test_number(benchmark: BenchmarkFixture) -> None:
    """What the rows of `test_choose` take for themselves."""
    numbers = Stage("random", 10).numbers
    benchmark(lambda: numbers())


@pytest.mark.parametrize("name", NAMES)
def test_choose(benchmark: BenchmarkFixture, name: StrategyName, size: int) -> None:
    stage = Stage(name, size)
    group, numbers = stage.group(), stage.numbers
    assert benchmark(lambda: group.choose(numbers())) is not None


@pytest.mark.parametrize("name", NAMES)
def test_choose_another(benchmark: BenchmarkFixture, name: StrategyName, size: int) -> None:
    """For a second try."""
    stage = Stage(name, size)
    group, numbers = stage.group(), stage.numbers
    assert benchmark(lambda: group.choose(numbers(), (3,))) is not None


def test_choose_where_most_are_full(benchmark: BenchmarkFixture, size: int) -> None:
    stage = Stage("weighted_round_robin", size, limit=4)
    group, numbers = stage.group(), stage.numbers
    assert benchmark(lambda: group.choose(numbers())) is not None


@pytest.mark.parametrize("name", NAMES)
def test_prepare(benchmark: BenchmarkFixture, name: StrategyName, size: int) -> None:
    """Once per change of an upstream, in each worker."""
    assert benchmark(Stage(name, size).group).members


@pytest.mark.parametrize("weights", [10, 12], ids="{}_upstreams".format)
def test_prepare_any_weights(benchmark: BenchmarkFixture, weights: int) -> None:
    """The longest order that is worked out in advance."""
    stage = Stage("weighted_round_robin", weights)
    stage.members = [Member(100 - index) for index in range(weights)]
    assert benchmark(stage.group).members


def test_ring(benchmark: BenchmarkFixture, size: int) -> None:
    """Once per change of the configuration."""
    names = [f"server-{index}" for index in range(size)]
    assert benchmark(Ring, names, [1] * size).points


def test_hash_key(benchmark: BenchmarkFixture) -> None:
    benchmark(hash_key, b"https://idp.example|client|auth0|0123456789abcdef")


def test_refresh(benchmark: BenchmarkFixture, size: int) -> None:
    """Every 50 ms."""
    loads = Loads(size)
    benchmark(loads.refresh, list(range(size)), range(size))


def accounting() -> Callable[[], None]:
    """What a request to a healthy upstream adds, on words as the shared ones are."""
    board = memoryview(bytearray(80)).cast("Q")
    failures, loads = Failures(memoryview(bytearray(8 * BUCKETS)).cast("Q")), Loads(10)

    def request() -> None:
        if board[0] & STATE_MASK:
            raise AssertionError
        loads.begin(0)
        loads.end(0)
        if failures.in_a_row:
            raise AssertionError

    return request


def test_accounting(benchmark: BenchmarkFixture) -> None:
    benchmark(accounting())


def test_latency(benchmark: BenchmarkFixture) -> None:
    """With power_of_two only."""
    latency = Latency()

    def answer() -> None:
        latency.pending += 1
        latency.observe(0.01, 5.0)

    benchmark(answer)


def test_failure(benchmark: BenchmarkFixture) -> None:
    """A failure, and the question whether it opens the breaker: the words of all workers are added up."""
    section = Breaker(consecutive_failures=1000, min_requests=2**30)
    words = [0] * (BUCKETS * WORKERS)
    failures = Failures(words, 0)

    def fail() -> bool:
        failures.failed()
        return trips(section, 0, words, 0, 0)

    assert not benchmark(fail)


def test_trial(benchmark: BenchmarkFixture) -> None:
    """A lease taken and given back, without the lock."""
    section = Breaker()
    half_open = step(step(Row(), Event.TRIPPED, Step(section, 0)).row, Event.ASKED, Step(section, NOW)).row

    def trial() -> Row:
        taken = step(Row.unpack(half_open.pack()), Event.ASKED, Step(section, NOW, 2))
        return step(Row.unpack(taken.row.pack()), Event.RELEASED, Step(section, NOW, 2, taken.lease)).row

    assert benchmark(trial) == half_open


def test_ejection(benchmark: BenchmarkFixture, size: int) -> None:
    assert benchmark(eject, Outlier(), [0] * size, 3, size - 1, NOW)
