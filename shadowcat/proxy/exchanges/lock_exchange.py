"""Waiting for a lock of the session table without holding up anything else."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Final

from shadowcat.errors import Refusal
from shadowcat.proxy.exchanges.exchange import Exchange
from shadowcat.proxy.exchanges.exchange_state import State
from shadowcat.shm.locks import PATIENCE, RETRY

_DONE: Final = State.DONE


class LockExchange(Exchange):
    """An exchange that may have to wait for a lock of the session table."""

    __slots__ = ("_patience",)

    _patience: float
    """When the present wait for a lock is over; infinite while there is none."""

    def _wait_for_lock(self, step: Callable[[], None]) -> None:
        """Take this step again in a moment, or give up."""
        plane = self.plane
        now = plane.clock()
        if self._patience == inf:
            self._patience = now + PATIENCE
        if now < self._patience:
            plane.loop.call_later(RETRY, self._again, step)
        else:
            self._give_up(Refusal.SESSION_BUSY)

    def _again(self, step: Callable[[], None]) -> None:
        if self.state is not _DONE:
            step()

    def _hold_back(self) -> None:
        """Ask for the answer's head again in a moment."""
        connection = self._connection
        assert connection is not None
        connection.pause()
        self._wait_for_lock(connection.go_on)

    def _give_up(self, refusal: Refusal) -> None:
        """End it before the client has got anything."""
        connection = self._connection
        if connection is not None:
            connection.abandon()
        self._refuse(refusal, "")
