from __future__ import annotations

import pytest

from shadowcat.config.model import Outlier
from shadowcat.config.units import Duration
from shadowcat.policy.outlier import Answers, barred_until, eject, find_slow

S = 1_000_000_000
SECTION = Outlier(ejection_time=Duration(30), max_ejection_time=Duration(300), max_ejection_percent=50)


class Route:
    def __init__(self, size: int, section: Outlier = SECTION) -> None:
        self.section = section
        self.words = [0] * size
        self.now = 1000 * S

    def out(self) -> list[int]:
        return [index for index, word in enumerate(self.words) if barred_until(word) > self.now]

    def eject(self, index: int, others: int | None = None) -> float:
        """For how many seconds it is ejected; 0: not at all."""
        others = len(self.words) - len({*self.out(), index}) if others is None else others
        word = eject(self.section, self.words, index, others, self.now)
        if word is None:
            return 0.0
        assert 0 < word < 2**64
        self.words[index] = word
        return (barred_until(word) - self.now) / S


def test_it_is_out_for_its_time() -> None:
    route = Route(4)
    route.now += 1
    assert route.eject(2) == pytest.approx(30, abs=0.002)
    assert route.out() == [2]
    route.now += 30 * S
    assert route.out() == [2]  # Rounded up, not down.
    route.now += S // 1000
    assert route.out() == []


def test_who_is_out_is_not_ejected_again() -> None:
    route = Route(4)
    route.eject(2)
    assert route.eject(2) == 0


def test_it_is_out_for_twice_as_long_each_time_up_to_a_bound() -> None:
    route = Route(4)
    times = []
    for _ in range(6):
        times.append(route.eject(1))
        route.now = barred_until(route.words[1]) + S
    assert times == pytest.approx([30, 60, 120, 240, 300, 300], abs=0.002)


def test_a_good_time_is_rewarded() -> None:
    route = Route(4)
    for _ in range(3):
        route.eject(1)
        route.now = barred_until(route.words[1])
    route.now += 120 * S  # The third ejection is forgiven.
    assert route.eject(1) == pytest.approx(120, abs=0.002)
    route.now = barred_until(route.words[1]) + (120 + 60 + 30) * S
    assert route.eject(1) == pytest.approx(30, abs=0.002)


def test_only_a_part_is_ejected_at_a_time() -> None:
    route = Route(5)
    assert [bool(route.eject(index)) for index in range(5)] == [True, True, False, False, False]
    route.now = barred_until(route.words[0])
    assert route.eject(3)


@pytest.mark.parametrize(("percent", "most"), [(0, 0), (1, 1), (33, 1), (67, 2), (100, 2)])
def test_of_three(percent: int, most: int) -> None:
    route = Route(3, Outlier(max_ejection_percent=percent))
    for index in range(3):
        route.eject(index)
    assert len(route.out()) == most


def test_the_last_one_stays_unless_configured() -> None:
    assert not Route(1).eject(0)
    assert not Route(4).eject(0, others=0)  # The others are down, or disabled.
    last = Outlier(eject_last=True, max_ejection_percent=100)
    assert Route(1, last).eject(0)
    route = Route(3, last)
    assert all(route.eject(index) for index in range(3))


def answers(*means: float | None, number: int = 100) -> list[Answers | None]:
    return [None if mean is None else Answers(number, mean * number) for mean in means]


@pytest.mark.parametrize(
    ("means", "slow"),
    [
        ((0.02, 0.02, 0.4), [2]), ((0.2, 0.2, 0.9), []), ((0.2, 0.2, 1.1), [2]), ((0.2, 1.1), [1]),
        ((3.0, 0.1, 0.1, 0.1, 2.0), [0, 4]), ((2.0, None, 0.1), [0]), ((2.0, None, None), []), ((2.0,), []),
        ((0.5, 0.5, 0.5), []), ((0.001, 0.001, 0.09), []), ((), []),
    ],
)  # fmt: skip
def test_who_is_slow(means: tuple[float | None, ...], slow: list[int]) -> None:
    assert find_slow(SECTION, answers(*means)) == slow


def test_few_answers_say_nothing() -> None:
    given = answers(0.1, 0.1, 2.0)
    given[2] = Answers(SECTION.min_requests - 1, 1000.0)
    assert find_slow(SECTION, given) == []
    given[2] = Answers(SECTION.min_requests, 1000.0)
    assert find_slow(SECTION, given) == [2]
    given[0] = given[1] = Answers(0, 0.0)
    assert find_slow(SECTION, given) == []
