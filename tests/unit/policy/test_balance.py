from __future__ import annotations

from collections import Counter

from shadowcat.policy.balance import RoundRobin


def test_takes_turns_in_order() -> None:
    balancer = RoundRobin(0)
    assert [balancer.choose("abc") for _ in range(7)] == list("abcabca")


def test_workers_begin_at_different_candidates() -> None:
    assert [RoundRobin(start).choose("abc") for start in range(4)] == list("abca")


def test_is_even_over_whole_turns() -> None:
    balancer = RoundRobin(5)
    assert set(Counter(balancer.choose("abcd") for _ in range(400)).values()) == {100}


def test_follows_a_change_of_candidates() -> None:
    balancer = RoundRobin(0)
    chosen = [balancer.choose("abc") for _ in range(3)] + [balancer.choose("ab") for _ in range(4)]
    assert chosen[:3] == list("abc")
    assert Counter(chosen[3:]) == {"a": 2, "b": 2}


def test_one_candidate_is_always_chosen() -> None:
    balancer = RoundRobin(2)
    assert {balancer.choose(["a"]) for _ in range(3)} == {"a"}
