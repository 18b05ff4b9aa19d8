from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowcat.config.units import Limit
from shadowcat.policy.gcra import HORIZON, LEASE, SECOND, Rate, seconds

NOW = 10**15


@pytest.mark.parametrize(
    ("text", "at_once"), [("5/min", 5), ("100/min", 100), ("100/s burst 20", 20), ("1/h", 1)]
)
def test_the_burst_passes_at_once_and_then_one_each_interval(text: str, at_once: int) -> None:
    rate = Rate(Limit(text))
    booked, passed = 0, 0
    while rate.wait(booked, NOW) <= 0:
        assert rate.remaining(booked, NOW) == at_once - passed
        booked = max(booked, NOW) + rate.interval
        passed += 1
    assert passed == at_once
    assert rate.remaining(booked, NOW) == 0
    wait = rate.wait(booked, NOW)
    assert wait == rate.interval
    assert rate.wait(booked, NOW + wait - 1) > 0
    assert rate.wait(booked, NOW + wait) == 0


@given(st.integers(1, 10**6), st.sampled_from(["s", "min", "h"]), st.integers(0, 10**12), st.integers(1, 9))
def test_what_was_waited_for_is_admitted_and_never_sooner(
    count: int, unit: str, ahead: int, more: int
) -> None:
    rate = Rate(Limit(f"{count}/{unit} burst {more}"))
    wait = rate.wait(NOW + ahead, NOW, more)
    if wait > 0 and wait < ahead:
        assert rate.wait(NOW + ahead, NOW + wait, more) == 0
        assert rate.wait(NOW + ahead, NOW + wait - 1, more) > 0
        assert rate.wait(NOW + ahead, NOW + seconds(wait) * SECOND, more) <= 0


@pytest.mark.parametrize(
    ("text", "most"), [("10000/s", 100), ("1000/s", 10), ("100/min", 1), ("10000/s burst 64", 1)]
)
def test_a_lease_is_a_small_part_of_the_limit(text: str, most: int) -> None:
    rate = Rate(Limit(text))
    assert rate.most_leased == most
    assert rate.horizon <= HORIZON


def test_leases_grow_while_they_are_used_up_and_shrink_when_not() -> None:
    rate = Rate(Limit("10000/s"))
    size, sizes = 1, []
    for _ in range(8):
        size = rate.lease(size, LEASE - 1)
        sizes.append(size)
    assert sizes == [2, 4, 8, 16, 32, 64, 100, 100]
    assert rate.lease(100, LEASE) == 50
    assert rate.lease(100, 10 * LEASE) == 1
    assert rate.lease(1, LEASE) == 1


@pytest.mark.parametrize(("wait", "said"), [(1, 1), (SECOND, 1), (SECOND + 1, 2), (12 * SECOND, 12)])
def test_seconds_are_never_less_than_the_wait(wait: int, said: int) -> None:
    assert seconds(wait) == said
