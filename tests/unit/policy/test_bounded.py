"""What is remembered of things that clients choose."""

from __future__ import annotations

from shadowcat.policy.bounded import Bounded


def test_a_value_is_there_once_it_was_put() -> None:
    known: Bounded[str, int] = Bounded(2)
    assert known.get("a") is None
    assert known.put("a", 1) == 1
    assert known.get("a") == 1


def test_the_one_too_many_is_all_that_is_left() -> None:
    known: Bounded[int, int] = Bounded(3)
    for number in range(3):
        known.put(number, number)
    assert known == {0: 0, 1: 1, 2: 2}
    known.put(3, 3)
    assert known == {3: 3}
