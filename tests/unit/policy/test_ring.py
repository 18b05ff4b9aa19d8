from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from shadowcat.policy.loads import Loads
from shadowcat.policy.ring import BOUND, FREE, MOST_POINTS, ConsistentHash, Ring, hash_key

KEYS = [hash_key(b"user-%d" % number) for number in range(4000)]


def names(count: int) -> list[str]:
    return [f"server-{number}" for number in range(count)]


def placed(weights: list[int], members: tuple[int, ...] | None = None) -> list[int]:
    """Where the keys are while nothing has any load."""
    members = tuple(range(len(weights))) if members is None else members
    ring = Ring(names(len(weights)), weights)
    chosen = ConsistentHash(members, [weights[index] for index in members], Loads(len(weights)), ring)
    return [chosen.choose(key) for key in KEYS]


def test_a_key_is_the_same_in_every_process() -> None:
    code = "from shadowcat.policy.ring import hash_key; print(hash_key(b'user-7'))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert int(found.stdout) == hash_key(b"user-7") < 2**64


def test_keys_are_spread_by_weight() -> None:
    taken = Counter(placed([1, 1, 2]))
    assert [taken[index] / len(KEYS) for index in range(3)] == pytest.approx([0.25, 0.25, 0.5], abs=0.06)


def test_one_that_is_out_moves_its_own_keys_alone() -> None:
    before, after = placed([1] * 5), placed([1] * 5, (0, 1, 3, 4))
    assert all(now == was for was, now in zip(before, after, strict=True) if was != 2)
    assert len({now for was, now in zip(before, after, strict=True) if was == 2}) == 4


def test_a_new_one_takes_its_share_and_moves_nothing_else() -> None:
    before, after = placed([1] * 5), placed([1] * 6)
    moved = [now for was, now in zip(before, after, strict=True) if was != now]
    assert set(moved) == {5}
    assert len(moved) / len(KEYS) == pytest.approx(1 / 6, abs=0.05)


def test_a_greater_weight_only_draws_keys() -> None:
    before, after = placed([1, 1, 1]), placed([1, 3, 1])
    assert {now for was, now in zip(before, after, strict=True) if was != now} == {1}


@pytest.mark.parametrize(("count", "weight"), [(1000, 1), (1000, 100), (300, 1)])
def test_the_ring_of_many_stays_small(count: int, weight: int) -> None:
    ring = Ring(names(count), [weight] * count)
    assert MOST_POINTS // 4 < len(ring.points) <= MOST_POINTS
    assert {point & 0xFFFF for point in ring.points} == set(range(count))
    assert ring.points == sorted(ring.points)


def test_the_lightest_of_many_is_on_the_ring() -> None:
    ring = Ring(names(1000), [1] + [100] * 999)
    assert 0 in {point & 0xFFFF for point in ring.points}


def test_points_that_are_left_were_there_before() -> None:
    few, many = Ring(names(3), [1, 1, 1]), Ring(names(3), [90, 100, 100])
    assert set(few.points) <= set(many.points)


def test_no_upstream_gets_more_than_its_bound() -> None:
    loads = Loads(4)
    chosen = ConsistentHash(range(4), [1] * 4, loads, Ring(names(4), [1] * 4))
    key = KEYS[0]
    first = chosen.choose(key)
    for number in range(400):
        index = chosen.choose(key)  # One key is all there is.
        assert loads.counts[index] < max(FREE, BOUND * (number + 1) / 4)
        loads.begin(index)
    assert loads.counts[first] == 125
    assert max(loads.counts) == 125


def test_a_few_of_one_key_stay_together() -> None:
    loads = Loads(4)
    chosen = ConsistentHash(range(4), [1] * 4, loads, Ring(names(4), [1] * 4))
    for _ in range(FREE + 1):
        loads.begin(chosen.choose(KEYS[0]))
    assert sorted(loads.counts) == [0, 0, 1, FREE]


def test_the_bound_is_by_weight() -> None:
    loads = Loads(2)
    chosen = ConsistentHash(range(2), [3, 1], loads, Ring(names(2), [3, 1]))
    for key in KEYS[:400]:
        loads.begin(chosen.choose(key))
    assert loads.counts[1] <= 126
    loads.refresh([0, 0], range(2))
    key = next(key for key in KEYS if chosen.choose(key) == 0)
    for _ in range(400):
        loads.begin(chosen.choose(key))
    assert loads.counts == [375, 25]


def test_everybody_full_is_the_nearest() -> None:
    loads = Loads(3)
    chosen = ConsistentHash(range(3), [1] * 3, loads, Ring(names(3), [1] * 3))
    home = [chosen.choose(key) for key in KEYS[:50]]
    loads.counts[:] = [50, 50, 50]  # More than the total says.
    assert [chosen.choose(key) for key in KEYS[:50]] == home


def test_the_next_one_is_where_the_key_goes_if_the_first_is_out() -> None:
    ring = Ring(names(5), [1] * 5)
    whole = ConsistentHash(range(5), [1] * 5, Loads(5), ring)
    for key in KEYS[:200]:
        first = whole.choose(key)
        rest = tuple(index for index in range(5) if index != first)
        assert whole.choose_other(key, {first}) == ConsistentHash(rest, [1] * 4, Loads(5), ring).choose(key)


@pytest.mark.parametrize("key", [0, 2**64 - 1])
def test_the_ends_of_the_ring_meet(key: int) -> None:
    ring = Ring(names(3), [1] * 3)
    chosen = ConsistentHash(range(3), [1] * 3, Loads(3), ring)
    assert chosen.choose(key) == ring.points[0] & 0xFFFF
