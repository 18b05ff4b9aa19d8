from __future__ import annotations

import pytest

from shadowcat.policy.health import STALE, Health, barred_until, health_of, note

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
