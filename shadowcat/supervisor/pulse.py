"""How long a process has shown no sign of life."""

from __future__ import annotations

from typing import Final

_NS: Final = 1e9


class Pulse:
    """The silence of one process, without the time for which nobody could have been heard.

    Where the supervisor itself stood still (the host, a container), the others did so with it. That time is
    taken off, and no more: a host that stands still again and again must not keep a hung process alive.
    """

    __slots__ = ("_beat", "_excused")

    def __init__(self) -> None:
        """Nothing is excused yet."""
        self._beat = 0
        self._excused = 0.0

    def excuse(self, beat: int, seconds: float) -> None:
        """Take so much off the silence that began with this heartbeat.

        Args:
            beat: The last heartbeat, CLOCK_MONOTONIC ns.
            seconds: For how long nobody stirred.
        """
        if beat != self._beat:
            self._beat, self._excused = beat, 0.0
        self._excused += seconds

    def silence(self, beat: int, now: float) -> float:
        """Seconds since the last heartbeat, CLOCK_MONOTONIC ns, as far as they count. `now` is in seconds."""
        excused = self._excused if beat == self._beat else 0.0
        return max(0.0, now - beat / _NS - excused)
