from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowcat.policy.spread import hand_over_to, is_above, is_fleeting


def spread(arrivals: list[int], workers: int) -> list[int]:
    """Connections by worker after each of `arrivals` was accepted by the worker it names."""
    counts = [0] * workers
    for accepted_by in arrivals:
        counts[accepted_by] += 1
        receiver = hand_over_to(counts, accepted_by, [True] * workers)
        if receiver is not None:
            counts[accepted_by] -= 1
            counts[receiver] += 1
    return counts


def test_32_long_connections_over_8_workers_in_3000_runs():
    chance = random.Random(7)
    worst = 0.0
    unspread = 0.0
    for _ in range(3000):
        arrivals = [chance.randrange(8) for _ in range(32)]
        counts = spread(arrivals, 8)
        assert sum(counts) == 32
        worst = max(worst, max(counts) / 4)
        unspread = max(unspread, max(map(arrivals.count, range(8))) / 4)
    assert worst <= 1.4
    assert unspread > 2  # What was spread needed it.


@given(st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n - 1)))))
def test_nobody_is_above_as_long_as_none_ends(case: tuple[int, list[int]]):
    workers, arrivals = case
    counts = spread(arrivals, workers)
    assert not is_above(max(counts), sum(counts), workers)


@given(
    st.lists(st.tuples(st.integers(0, 50), st.booleans()), min_size=1, max_size=12).flatmap(
        lambda rows: st.tuples(st.just(rows), st.integers(0, len(rows) - 1))
    )
)
def test_only_to_an_eligible_one_that_then_has_less(case: tuple[list[tuple[int, bool]], int]):
    rows, own = case
    counts, eligible = [row[0] for row in rows], [row[1] for row in rows]
    counts[own] += 1
    receiver = hand_over_to(counts, own, eligible)
    if receiver is not None:
        assert receiver != own
        assert eligible[receiver]
        assert counts[receiver] == min(
            count for worker, count in enumerate(counts) if worker != own and eligible[worker]
        )
        assert counts[receiver] + 1 < counts[own]


@pytest.mark.parametrize(
    ("counts", "own", "eligible", "expected"),
    [
        ([1], 0, [True], None),
        ([2, 0], 0, [True, True], None),  # 1.1 * 1 + 1 = 2.1
        ([3, 0], 0, [True, True], 1),
        ([3, 0], 0, [True, False], None),
        ([3, 0], 0, [False, True], 1),  # It need not be eligible itself.
        ([4, 3, 2], 0, [True, True, True], None),  # 1.1 * 3 + 1 = 4.3
        ([5, 3, 2], 0, [True, True, True], 2),
        # Who is left out is left out of the mean too, full or empty.
        ([5, 5, 0], 0, [True, True, False], None),
        ([5, 1, 90], 0, [True, True, False], 1),
        # Equals: the next one behind, round the end.
        ([1, 9, 1, 1], 1, [True] * 4, 2),
        ([1, 1, 1, 9], 3, [True] * 4, 0),
    ],
)
def test_who_gets_it(counts: list[int], own: int, eligible: list[bool], expected: int | None):
    assert hand_over_to(counts, own, eligible) == expected


def test_who_has_fewer_than_end_in_a_beat_has_fleeting_ones():
    assert not is_fleeting(0, 1)
    assert not is_fleeting(4, 4)
    assert is_fleeting(5, 4)
