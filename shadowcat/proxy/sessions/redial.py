"""Requests whose upstream refuses connections: they wait while it is tried again, as it may only restart.

One of them at a time tries, about ten times a second, however many wait: a dial each would keep the worker
busy with nothing. Nothing of any of them was sent, so no retry is taken from the budget.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from shadowcat.proxy.exchanges.exchange_state import State
from shadowcat.proxy.wheel import Timed

if TYPE_CHECKING:
    from shadowcat.proxy.exchanges.session_exchange import SessionExchange
    from shadowcat.proxy.plane import DataPlane

_EVERY: Final = 0.1
"""Seconds between two tries."""


class Redial(Timed):
    """Those who wait for one upstream."""

    __slots__ = ("_held", "_plane", "_probe")

    def __init__(self, plane: DataPlane) -> None:
        self.deadline = self.filed = inf
        self._plane = plane
        self._held: list[SessionExchange] = []
        self._probe: SessionExchange | None = None

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, exchange: SessionExchange) -> None:
        """Keep an exchange that was refused; it is told to `try_again`, or that it was `refused_for_long`."""
        self._held.append(exchange)
        if self.deadline == inf:
            self._set()

    def refused(self, exchange: SessionExchange) -> None:
        """A connection was refused for an exchange: that was the try, if it was its turn."""
        if exchange is self._probe:
            self._probe = None

    def on_deadline(self, now: float) -> None:
        """Let one try, or let all go on if the last one got through."""
        probe = self._probe
        held = [each for each in self._held if each.state is State.QUEUED]
        if probe is not None and probe.state is State.QUEUED:
            self._held = held  # Its dial is still under way.
            self._set()
            return
        self._probe = None
        self._held = []
        wait = self._plane.recoveries.section.recovery_wait
        if probe is not None:
            # It got a connection, or failed for another reason, which the others have to find out, too.
            for each in held:
                each.try_again()
            return
        for each in held:
            if each.has_no_hope or now - each.refused_at >= wait:
                each.refused_for_long()
            elif self._probe is None:
                self._probe = each
                each.try_again()
            else:
                self._held.append(each)
        if self._held or self._probe is not None:
            self._set()

    def _set(self) -> None:
        self._plane.wheel.set(self, self._plane.clock() + _EVERY)
