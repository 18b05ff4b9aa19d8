from __future__ import annotations

import pytest

from shadowcat.supervisor.pulse import Pulse

SECOND = 10**9


def test_silence_is_the_time_since_the_last_beat() -> None:
    pulse = Pulse()
    assert pulse.silence(100 * SECOND, 103.5) == pytest.approx(3.5)
    assert pulse.silence(103 * SECOND, 103.5) == pytest.approx(0.5)


def test_a_pause_of_everybody_is_taken_off() -> None:
    pulse = Pulse()
    pulse.excuse(100 * SECOND, 20.0)
    assert pulse.silence(100 * SECOND, 120.05) == pytest.approx(0.05)
    assert pulse.silence(100 * SECOND, 119.0) == 0.0
    assert pulse.silence(121 * SECOND, 125.0) == pytest.approx(4.0)


def test_pauses_add_up_and_what_lies_between_them_counts() -> None:
    pulse = Pulse()
    for _ in range(5):
        pulse.excuse(100 * SECOND, 2.0)
    assert pulse.silence(100 * SECOND, 130.0) == pytest.approx(20.0)
    pulse.excuse(130 * SECOND, 1.0)
    assert pulse.silence(130 * SECOND, 132.0) == pytest.approx(1.0)
