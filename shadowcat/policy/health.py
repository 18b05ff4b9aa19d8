"""What the results of health checks amount to: one word per upstream, written by control, read by workers.

    bits    field     from the low end
    2       state     0 unknown, 1 up, 2 down
    8       streak    results in a row that speak against the state
    54      time      of the last result, monotonic ms

Control may die, and a verdict nobody renews says less and less: after STALE intervals an upstream counts as
unknown again, which is as good as up; breakers and ejections still see what happens to real requests.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

STALE: Final = 3
"""Intervals after which a result has no meaning any more."""
_STATE_BITS: Final = 2
_STATE: Final = (1 << _STATE_BITS) - 1
_STREAK_BITS: Final = 8
_STREAK: Final = (1 << _STREAK_BITS) - 1
_TIME_SHIFT: Final = _STATE_BITS + _STREAK_BITS
_MS: Final = 1_000_000
_SPREAD: Final = 1.0
"""Seconds over which first checks are spread."""


class Health(IntEnum):
    """The state of an upstream."""

    UNKNOWN = 0
    """Not checked yet, or not for a long time: taken to be up."""
    UP = 1
    DOWN = 2
    """No new sessions and requests; those of its sessions are still tried."""


def note(
    word: int, *, passed: bool, healthy_after: int, unhealthy_after: int, interval: float, now: int
) -> int:
    """The word after another result.

    A control process that was restarted goes on where the one before left off, unless that is long ago. From
    unknown, which is as good as up, one good result is enough.

    Args:
        word: As it was; 0 before the first check.
        passed: The check's result.
        healthy_after: So many good results in a row bring an upstream up.
        unhealthy_after: So many bad ones bring it down; at most 255, as the other one.
        interval: Seconds between two checks.
        now: Monotonic ns.
    """
    if now - checked_at(word) > _lifetime(interval):
        word = 0
    state = Health(word & _STATE)
    streak = word >> _STATE_BITS & _STREAK
    if passed and state is not Health.DOWN:
        state, streak = Health.UP, 0
    elif not passed and state is Health.DOWN:
        streak = 0
    else:
        streak += 1
        if streak >= (healthy_after if passed else unhealthy_after):
            state, streak = (Health.UP if passed else Health.DOWN), 0
    return (now // _MS << _STREAK_BITS | streak) << _STATE_BITS | state


def health_of(word: int, interval: float, now: int) -> Health:
    """What an upstream's word says now."""
    return Health.UNKNOWN if now - checked_at(word) > _lifetime(interval) else Health(word & _STATE)


def first_check(word: int, interval: float, now: int, chance: float) -> float:
    """How long whoever begins to check waits with the first one, in seconds.

    Where there is no result yet, or none that means anything, that is no longer than it takes to spread the
    checks of many upstreams over a second. Otherwise a predecessor's schedule goes on.

    Args:
        word: As it is.
        interval: Seconds between two checks.
        now: Monotonic ns.
        chance: From 0 to 1, another one each time.
    """
    age = now - checked_at(word)
    if age > _lifetime(interval):
        return chance * min(interval, _SPREAD)
    return max(0.0, jittered(interval, chance) - age / 1_000_000_000)


def jittered(interval: float, chance: float) -> float:
    """An interval moved by up to a tenth, lest all checks fall together."""
    return interval * (0.9 + 0.2 * chance)


def barred_until(word: int, interval: float) -> int:
    """Until when the word keeps new sessions and requests away, monotonic ns; 0 if it does not."""
    return checked_at(word) + _lifetime(interval) if word & _STATE == Health.DOWN else 0


def checked_at(word: int) -> int:
    """When the last result came, monotonic ns."""
    return (word >> _TIME_SHIFT) * _MS


def _lifetime(interval: float) -> int:
    return round(STALE * interval * 1_000_000_000)
