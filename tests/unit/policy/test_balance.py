from __future__ import annotations

import random
from collections import Counter
from typing import get_args

import pytest

from shadowcat.config.model import StrategyName
from shadowcat.policy.balance import (
    COMPARE_ALL,
    SOURCES,
    Measures,
    Source,
    Strategy,
    strategy_for,
)
from shadowcat.policy.loads import Latency, Loads
from shadowcat.policy.ring import Ring

NAMES: tuple[StrategyName, ...] = get_args(StrategyName)


class Stage:
    """A group of upstreams, and what is measured of them."""

    def __init__(self, *weights: int) -> None:
        self.weights = weights
        self.now = 0.0
        self.loads = Loads(len(weights))
        self.latencies = [Latency() for _ in weights]
        self.random = random.Random(7)
        ring = Ring([f"u{index}" for index in range(len(weights))], weights)
        self.measures = Measures(self.loads, self.latencies, ring, lambda: self.now)

    def make(self, name: StrategyName, members: tuple[int, ...] | None = None) -> Strategy:
        members = tuple(range(len(self.weights))) if members is None else members
        return strategy_for(name, members, [self.weights[index] for index in members], self.measures)

    def chance(self) -> int:
        return self.random.getrandbits(64)

    def share(self, strategy: Strategy, count: int = 4000) -> list[float]:
        taken = Counter(strategy.choose(self.chance()) for _ in range(count))
        return [taken[index] / count for index in range(len(self.weights))]

    def fill(self, strategy: Strategy, count: int) -> list[int]:
        """Choose, and keep what is chosen busy."""
        for _ in range(count):
            self.loads.begin(strategy.choose(self.chance()))
        return self.loads.counts

    def answer(self, *seconds: float) -> None:
        for latency, one in zip(self.latencies, seconds, strict=True):
            latency.pending += 1
            latency.observe(one, self.now)


def near(*shares: float) -> object:
    return pytest.approx(list(shares), abs=0.03)


def test_round_robin_pays_no_attention_to_weights() -> None:
    strategy = Stage(3, 1, 1).make("round_robin")
    assert [strategy.choose(number) for number in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_weighted_round_robin_is_exact_and_interleaved() -> None:
    strategy = Stage(3, 1, 1).make("weighted_round_robin")
    assert [strategy.choose(number) for number in range(50)] == [0, 1, 0, 2, 0] * 10


def test_random_is_even_and_weighted_random_by_weight() -> None:
    stage = Stage(3, 1, 1)
    assert stage.share(stage.make("random")) == near(1 / 3, 1 / 3, 1 / 3)
    assert stage.share(stage.make("weighted_random")) == near(0.6, 0.2, 0.2)


def test_healthy_first_is_the_first_that_can_be_had() -> None:
    stage = Stage(1, 100, 1)
    assert stage.share(stage.make("healthy_first")) == [1, 0, 0]
    strategy = stage.make("healthy_first", (1, 2))
    assert strategy.choose(5) == 1
    assert strategy.choose_other(5, {1}) == 2


def test_least_connections_evens_out() -> None:
    stage = Stage(1, 1, 1)
    stage.loads.refresh([9, 0, 3], range(3))
    assert stage.fill(stage.make("least_connections"), 18) == [10, 10, 10]


def test_least_connections_leaves_one_that_hangs_alone() -> None:
    stage = Stage(1, 1, 1)
    stage.loads.refresh([5, 0, 0], range(3))
    strategy = stage.make("least_connections")
    taken = Counter[int]()
    for _ in range(100):
        chosen = strategy.choose(stage.chance())
        taken[chosen] += 1
        stage.loads.begin(chosen)
        stage.loads.end(chosen)
    assert taken[0] == 0
    assert min(taken[1], taken[2]) > 25  # Ties are shared.


def test_least_connections_is_by_weight() -> None:
    stage = Stage(3, 1, 1)
    assert stage.fill(stage.make("least_connections"), 50) == [30, 10, 10]


def test_least_connections_of_many_looks_at_a_few() -> None:
    stage = Stage(*[1] * (COMPARE_ALL + 24))
    counts = stage.fill(stage.make("least_connections"), 4000)
    assert max(counts) - min(counts) <= 5
    stage.loads.refresh([1000, *[0] * (COMPARE_ALL + 23)], range(40))
    assert stage.fill(stage.make("least_connections"), 40)[0] == 1000


def test_power_of_two_shifts_load_from_a_slow_one() -> None:
    stage = Stage(1, 1, 1)
    stage.answer(0.01, 0.01, 0.2)
    assert stage.share(stage.make("power_of_two")) == near(0.5, 0.5, 0)
    counts = stage.fill(stage.make("power_of_two"), 410)
    assert counts[2] == pytest.approx(10, abs=3)
    assert counts[0] == pytest.approx(200, abs=10)


def test_power_of_two_is_even_as_long_as_nothing_is_known() -> None:
    stage = Stage(1, 1, 2)
    stage.latencies[0].pending += 1
    stage.latencies[0].observe(1.0, 0.0)
    counts = stage.fill(stage.make("power_of_two"), 400)
    assert counts == pytest.approx([100, 100, 200], abs=8)


def test_power_of_two_gives_a_slow_one_another_chance() -> None:
    stage = Stage(1, 1)
    stage.answer(0.01, 10.0)
    strategy = stage.make("power_of_two")
    assert strategy.choose(0) == strategy.choose(1) == 0
    for second in range(1, 100):  # The fast one goes on answering.
        stage.now = float(second)
        stage.latencies[0].pending += 1
        stage.latencies[0].observe(0.01, stage.now)
    assert strategy.choose(0) == strategy.choose(1) == 1


def test_power_of_two_gives_none_to_one_that_hangs() -> None:
    stage = Stage(1, 1)
    stage.answer(0.01, 1.0)
    stage.latencies[1].pending += 1
    stage.loads.begin(1)
    stage.now = 1000.0
    stage.latencies[0].pending += 1
    stage.latencies[0].observe(0.01, stage.now)
    strategy = stage.make("power_of_two")
    assert strategy.choose(0) == strategy.choose(1) == 0


def test_every_name_has_a_strategy_and_a_source() -> None:
    stage = Stage(1, 2, 3)
    assert set(SOURCES) == set(NAMES)
    assert set(SOURCES.values()) == set(Source)
    assert {type(stage.make(name)).__name__ for name in NAMES} == {
        "Turns", "LeastConnections", "First", "PowerOfTwo", "ConsistentHash",
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1, 2, 3, 17, 40])
def test_only_those_are_chosen_that_can_be(name: StrategyName, size: int) -> None:
    stage = Stage(*[1 + index % 5 for index in range(2 * size)])
    members = tuple(range(1, 2 * size, 2))
    strategy = stage.make(name, members)
    for _ in range(200):
        number = stage.chance()
        chosen = strategy.choose(number)
        assert chosen in members
        other = strategy.choose_other(number, {chosen})
        assert other != chosen
        assert (other in members) if size > 1 else (other is None)
        assert strategy.choose_other(number, members) is None
        assert strategy.choose_other(number, ()) in members


@pytest.mark.parametrize("name", NAMES)
def test_the_same_number_is_the_same_choice(name: StrategyName) -> None:
    stage = Stage(1, 2, 3, 4)
    one, two = stage.make(name), stage.make(name)
    assert all(one.choose(number) == two.choose(number) for number in range(0, 2**64, 2**57 + 1))
