from __future__ import annotations

import pytest

from shadowcat.policy.health import (
    STALE,
    Health,
    barred_until,
    checked_at,
    first_check,
    health_of,
    jittered,
    note,
)

S = 1_000_000_000
INTERVAL = 30.0


class Checked:
    """An upstream whose checks pass (+) or fail (-), one per interval."""

    def __init__(self, healthy_after: int = 2, unhealthy_after: int = 3) -> None:
        self.healthy_after, self.unhealthy_after = healthy_after, unhealthy_after
        self.word = 0
        self.now = 5 * S

    def run(self, results: str) -> list[Health]:
        return [self.check(result == "+") for result in results]

    def check(self, passed: bool) -> Health:
        self.now += round(INTERVAL * S)
        self.word = note(
            self.word,
            passed=passed,
            healthy_after=self.healthy_after,
            unhealthy_after=self.unhealthy_after,
            interval=INTERVAL,
            now=self.now,
        )
        return self.health

    @property
    def health(self) -> Health:
        return health_of(self.word, INTERVAL, self.now)


@pytest.mark.parametrize(
    ("results", "states"),
    [
        ("+", "U"), ("-", "?"), ("--+", "??U"), ("---", "??D"), ("+---", "UUUD"), ("+--+--+", "UUUUUUU"),
        ("----", "??DD"), ("---+", "??DD"), ("---++", "??DDU"), ("---+-++", "??DDDDU"),
        ("---++--+---", "??DDUUUUUUD"),
    ],
)  # fmt: skip
def test_thresholds(results: str, states: str) -> None:
    letters = {"?": Health.UNKNOWN, "U": Health.UP, "D": Health.DOWN}
    assert Checked().run(results) == [letters[state] for state in states]


def test_thresholds_of_one() -> None:
    checked = Checked(1, 1)
    assert checked.run("-+-") == [Health.DOWN, Health.UP, Health.DOWN]


def test_the_largest_threshold_fits_its_bits() -> None:
    checked = Checked(2, 255)
    assert checked.run("+" + "-" * 254)[-1] is Health.UP
    assert checked.run("-") == [Health.DOWN]


def test_nobody_is_barred_who_is_not_down() -> None:
    checked = Checked()
    assert barred_until(checked.word, INTERVAL) == 0
    for result in "+--":
        checked.check(result == "+")
        assert barred_until(checked.word, INTERVAL) == 0


def test_a_verdict_that_nobody_renews_has_an_end() -> None:
    checked = Checked()
    checked.run("---")
    until = barred_until(checked.word, INTERVAL)
    assert until == pytest.approx(checked.now + STALE * INTERVAL * S, abs=1_000_000)
    checked.now = until
    assert checked.health is Health.DOWN
    checked.now = until + 1
    assert checked.health is Health.UNKNOWN


def test_after_a_long_silence_it_begins_anew() -> None:
    checked = Checked()
    checked.run("---")
    checked.now += round(STALE * INTERVAL * S)
    assert checked.run("+") == [Health.UP]
    checked.run("--")
    checked.now += round(STALE * INTERVAL * S)
    assert checked.run("--") == [Health.UNKNOWN, Health.UNKNOWN]
    assert checked.run("-") == [Health.DOWN]


def test_a_short_silence_is_none() -> None:
    checked = Checked()
    checked.run("--")
    checked.now += round(INTERVAL * S)  # One check is missing, as where control was restarted.
    assert checked.run("-") == [Health.DOWN]


def test_the_first_check_of_a_newcomer() -> None:
    now = 1000 * S
    # Nothing is known, or nothing any more: at once, but not all in one moment.
    for word in (0, note(0, passed=True, healthy_after=1, unhealthy_after=1, interval=30, now=900 * S)):
        assert first_check(word, 30.0, now, 0.0) == 0
        assert first_check(word, 30.0, now, 1.0) == 1.0
        assert first_check(word, 0.5, now, 1.0) == 0.5
    # Its predecessor checked ten seconds ago.
    word = note(0, passed=True, healthy_after=1, unhealthy_after=1, interval=30, now=990 * S)
    assert first_check(word, 30.0, now, 0.5) == pytest.approx(20.0)
    assert first_check(word, 30.0, now, 0.0) == pytest.approx(17.0)
    assert first_check(word, 30.0, now, 1.0) == pytest.approx(23.0)
    # It is overdue.
    assert first_check(word, 30.0, now + 50 * S, 0.5) == 0
    assert checked_at(word) == 990 * S


def test_intervals_differ_by_up_to_a_tenth() -> None:
    assert [jittered(30.0, chance) for chance in (0.0, 0.5, 1.0)] == pytest.approx([27.0, 30.0, 33.0])
