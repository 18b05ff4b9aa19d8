from __future__ import annotations

from collections import Counter
from itertools import pairwise
from math import gcd

import pytest

from shadowcat.policy.turns import MOST_STEPS, Turns

MIXED = [1 + index % 100 for index in range(1000)]
"""Too many steps to be worked out in advance."""


def take(turns: Turns, start: int, count: int) -> list[int]:
    return [turns.choose(number) for number in range(start, start + count)]


@pytest.mark.parametrize("start", [0, 1, 3, 12_345_678_901])
def test_three_to_one_to_one_over_fifty(start: int) -> None:
    taken = take(Turns((0, 1, 2), (3, 1, 1)), start, 50)
    assert Counter(taken) == {0: 30, 1: 10, 2: 10}
    assert all(len(set(taken[at : at + 3])) > 1 for at in range(48))  # never three in a row
    for other in (1, 2):
        at = [number for number, member in enumerate(taken) if member == other]
        assert {b - a for a, b in pairwise(at)} == {5}


def test_is_the_order_of_smooth_weighted_round_robin() -> None:
    assert take(Turns((0, 1, 2), (5, 1, 1)), 0, 7) == [0, 0, 1, 0, 2, 0, 0]


def test_equal_weights_take_turns_in_the_order_of_the_configuration() -> None:
    assert take(Turns((4, 2, 9), (7, 7, 7)), 0, 6) == [4, 2, 9, 4, 2, 9]
    assert take(Turns(range(1000), [100] * 1000), 0, 1000) == list(range(1000))


@pytest.mark.parametrize("workers", [1, 4])
def test_whoever_takes_the_turns_the_shares_are_exact(workers: int) -> None:
    own = [Turns((0, 1, 2), (3, 1, 1)) for _ in range(workers)]
    taken = Counter(own[number % workers].choose(number) for number in range(50))
    assert taken == {0: 30, 1: 10, 2: 10}


def test_many_upstreams_are_exact_over_a_cycle_too() -> None:
    assert sum(MIXED) * len(MIXED) > MOST_STEPS
    turns = Turns(range(1000), MIXED)
    taken = Counter(take(turns, 777, sum(MIXED)))
    assert [taken[member] for member in range(1000)] == MIXED


def test_many_upstreams_are_interleaved() -> None:
    turns = Turns(range(1000), MIXED)
    taken = take(turns, 0, 5050)
    heavy = sum(member % 100 >= 50 for member in taken)
    assert heavy / len(taken) == pytest.approx(sum(range(51, 101)) / 5050, abs=0.01)
    assert all(a != b for a, b in pairwise(taken))


@pytest.mark.parametrize("weights", [[100] * 11 + [99], [100, 1], [17, 34, 51], [1], [100] * 10 + [1] * 2])
def test_no_upstream_is_far_ahead_or_behind(weights: list[int]) -> None:
    total = sum(weights) // gcd(*weights)
    taken = Counter[int]()
    for number, member in enumerate(take(Turns(range(len(weights)), weights), 0, total), 1):
        taken[member] += 1
        for index, weight in enumerate(weights):
            assert abs(taken[index] - number * weight / sum(weights)) < 2


def test_after_a_change_any_cycle_is_exact() -> None:
    before, after = Turns((0, 1, 2), (3, 1, 1)), Turns((0, 2), (3, 1))
    for change in range(10):
        taken = take(before, 0, change) + take(after, change, 40)
        assert Counter(taken[change:]) == {0: 30, 2: 10}


def test_the_turns_of_one_that_is_out_are_shared_by_weight() -> None:
    turns = Turns((0, 1, 2, 3), (1, 1, 1, 2))
    its = [number for number in range(10_000) if turns.choose(number) == 1]
    instead = Counter(turns.choose_other(number, (1, 0)) for number in its)
    assert set(instead) == {2, 3}
    assert instead[3] / len(its) == pytest.approx(2 / 3, abs=0.03)


def test_the_next_one_does_not_inherit_all_turns() -> None:
    turns = Turns(range(4), [1] * 4)
    instead = Counter(turns.choose_other(number, {0}) for number in range(0, 4000, 4))
    assert max(instead.values()) < 400


def test_nobody_is_left() -> None:
    assert Turns((0, 1), (1, 1)).choose_other(5, {0, 1}) is None
    assert Turns((0, 1), (1, 1)).choose_other(5, {0}) == 1
