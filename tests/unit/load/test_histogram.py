from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from shadowcat.testing.load.histogram import Histogram

durations = st.lists(st.integers(0, 2**41), min_size=1, max_size=200)


def filled(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


@given(durations, st.floats(0, 100))
def test_percentile_is_never_below_and_at_most_one_128th_above_the_exact_one(
    values: list[int], percent: float
) -> None:
    exact = sorted(values)[max(1, math.ceil(len(values) * percent / 100)) - 1]
    (found,) = filled(values).percentiles(percent)
    assert exact <= found <= exact * (1 + 1 / 128)


@given(durations)
def test_sums_and_extremes_are_exact(values: list[int]) -> None:
    histogram = filled(values)
    assert (histogram.count, histogram.total) == (len(values), sum(values))
    assert (histogram.smallest, histogram.largest) == (min(values), max(values))
    assert histogram.percentiles(0, 100)[1] == max(values)


def test_small_values_are_told_apart() -> None:
    assert filled(list(range(256))).percentiles(50, 75, 100) == [127, 191, 255]


def test_several_percentiles_of_one_cell() -> None:
    assert filled([7] * 10).percentiles(1, 50, 99.9) == [7, 7, 7]


def test_a_value_beyond_the_last_cell_keeps_its_size() -> None:
    histogram = filled([1, 2**60])
    assert histogram.largest == 2**60
    assert histogram.count == 2


def test_negative_counts_as_nothing() -> None:
    histogram = filled([-5])
    assert (histogram.count, histogram.largest, histogram.percentiles(50)) == (1, 0, [0])


def test_empty() -> None:
    assert Histogram().percentiles(50, 99) == [0, 0]
    assert Histogram().mean == 0
