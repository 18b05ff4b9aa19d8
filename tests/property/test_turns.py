"""Shares by weight are exact over any cycle, whoever takes the turns and wherever the counting begins."""

from __future__ import annotations

from collections import Counter
from math import gcd
from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from shadowcat.policy import turns
from shadowcat.policy.turns import Turns

WEIGHTS: Final = st.lists(st.integers(1, 100), min_size=1, max_size=30)


@given(WEIGHTS, st.integers(0, 2**64))
def test_any_cycle_is_exact(weights: list[int], start: int) -> None:
    divisor = gcd(*weights)
    order = Turns(range(len(weights)), weights)
    cycle = sum(weights) // divisor
    taken = Counter(order.choose(number) for number in range(start, start + cycle))
    assert [taken[index] * divisor for index in range(len(weights))] == weights


@given(st.integers(1, 1_000_000))
def test_strides_visit_every_position(total: int) -> None:
    stride = turns._stride(total)
    assert gcd(stride, total) == 1
    assert total < 100 or abs(stride / total - 0.618) < 0.1


@given(WEIGHTS, st.integers(0, 2**64 - 1), st.sets(st.integers(0, 29)))
def test_a_second_choice_is_one_of_the_rest(weights: list[int], number: int, excluded: set[int]) -> None:
    rest = set(range(len(weights))) - excluded
    other = Turns(range(len(weights)), weights).choose_other(number, excluded)
    assert other in rest if rest else other is None
