"""Who waits, who goes first, and who is sent away."""

from __future__ import annotations

import pytest

from shadowcat.policy.line import STANDING, Line, Rank


def line(limit: int = 4, patience: float = 1.0) -> Line[str]:
    made: Line[str] = Line()
    made.limit, made.patience = limit, patience
    return made


def drain(waiting: Line[str], now: float) -> str:
    return "".join(waiting.next(now) for _ in range(len(waiting)))


def test_first_come_first_served() -> None:
    waiting = line()
    for each in "abc":
        assert waiting.join(each, Rank.NORMAL, 0.0) is None
    assert drain(waiting, STANDING - 0.01) == "abc"


def test_once_it_stands_the_newest_goes_first() -> None:
    waiting = line()
    for at, each in enumerate("abc"):
        waiting.join(each, Rank.NORMAL, at / 100)
    assert drain(waiting, STANDING) == "cba"


def test_what_is_worth_more_goes_first() -> None:
    waiting = line()
    for each, rank in (("o", Rank.OPENING), ("l", Rank.LOW), ("n", Rank.NORMAL), ("h", Rank.HIGH)):
        waiting.join(each, rank, 0.0)
    assert drain(waiting, 0.0) == "hnlo"


def test_a_standing_rank_does_not_turn_the_others_round() -> None:
    waiting = line()
    waiting.join("l", Rank.LOW, 0.0)
    for each in "ab":
        waiting.join(each, Rank.HIGH, STANDING)
    assert drain(waiting, STANDING) == "abl"


@pytest.mark.parametrize("rank", Rank)
def test_a_full_line_takes_nobody_more_of_the_same(rank: Rank) -> None:
    waiting = line(2)
    for each in "ab":
        waiting.join(each, rank, 0.0)
    assert waiting.join("c", rank, STANDING / 2) == "c"
    assert drain(waiting, 0.0) == "ab"


def test_a_full_line_that_stands_gives_up_its_oldest() -> None:
    waiting = line(2)
    for each in "ab":
        waiting.join(each, Rank.NORMAL, 0.0)
    assert waiting.join("c", Rank.NORMAL, STANDING) == "a"
    assert drain(waiting, STANDING) == "cb"


def test_who_is_worth_least_makes_room() -> None:
    waiting = line(2)
    waiting.join("n", Rank.NORMAL, 0.0)
    waiting.join("o", Rank.OPENING, 0.0)
    assert waiting.join("h", Rank.HIGH, 0.0) == "o"
    assert waiting.join("o", Rank.OPENING, 0.0) == "o"
    assert waiting.join("l", Rank.LOW, 0.0) == "l"
    assert waiting.join("i", Rank.HIGH, 0.0) == "n"
    assert drain(waiting, 0.0) == "hi"


@pytest.mark.parametrize(("limit", "patience"), [(0, 1.0), (4, 0.0)])
def test_where_nobody_waits(limit: int, patience: float) -> None:
    waiting = line(limit, patience)
    assert waiting.join("a", Rank.HIGH, 0.0) == "a"
    assert not waiting


def test_who_has_waited_for_too_long() -> None:
    waiting = line(patience=1.0)
    waiting.join("a", Rank.LOW, 0.0)
    waiting.join("b", Rank.HIGH, 0.25)
    waiting.join("c", Rank.HIGH, 0.5)
    assert waiting.overdue(0.75) == []
    assert waiting.overdue(1.25) == ["a", "b"]
    assert len(waiting) == 1


def test_who_leaves_is_not_served() -> None:
    waiting = line()
    for each in "abc":
        waiting.join(each, Rank.NORMAL, 0.0)
    assert waiting.leave("b")
    assert not waiting.leave("b")
    assert drain(waiting, 0.0) == "ac"
    with pytest.raises(IndexError):
        waiting.next(0.0)
