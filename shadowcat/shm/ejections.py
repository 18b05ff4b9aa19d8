"""Ejections as one process uses them: who of a route may be ejected depends on all upstreams of the route."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from shadowcat.config.model import Outlier, Route
from shadowcat.policy import breaker, health, outlier
from shadowcat.policy.group import NEVER
from shadowcat.shm.board import Board
from shadowcat.shm.locks import Locks


class Place(NamedTuple):
    """One upstream among those of its route."""

    row: int
    enabled: bool = True


def barred_until(board: Board, section: Route, row: int, *, is_alone: bool = False) -> int:
    """Until when an open breaker or failed health checks keep an upstream out, monotonic ns; 0: they do not.

    What has no section is off, whatever the board still says of it. The breaker of one that `is_alone` does
    not count: there is no other one to go to, and whoever goes to this one is told why it fails.
    """
    until = 0
    if section.breaker is not None and not is_alone:
        until = breaker.barred_until(board.breaker(row)[0])
    if section.health is not None:
        until = max(until, health.barred_until(board.health(row), section.health.interval))
    return until


class Ejections:
    """The ejections of all routes."""

    __slots__ = ("_board", "_locks", "_process")

    def __init__(self, board: Board, locks: Locks, process: int) -> None:
        """`locks` are those of `process`, which is to use it."""
        self._board = board
        self._locks = locks
        self._process = process

    def eject(
        self, route: Route, section: Outlier, places: Sequence[Place], row: int, now: int
    ) -> int | None:
        """Eject an upstream that deserves it, if that may be.

        Args:
            route: The configuration of its route.
            section: That of ejections.
            places: All upstreams of the route.
            row: Which one it is about; if it is not among them any more, nothing happens.
            now: Monotonic ns.

        Returns:
            Until when, monotonic ns; None if it stays, or is out already.

        Raises:
            LockBusyError: Another process is at it; nothing has changed.
        """
        board = self._board
        numbers = [place.row for place in places]
        if row not in numbers or outlier.barred_until(board.ejection(row)) > now:
            return None
        bars = [
            barred_until(board, route, place.row) if place.enabled else NEVER
            for place in places
            if place.row != row
        ]
        others = [number for number in numbers if number != row]
        line = board.ejection_line
        self._locks.acquire(line)
        try:
            words = [board.ejection(number) for number in numbers]
            left = sum(
                bar <= now and outlier.barred_until(board.ejection(number)) <= now
                for number, bar in zip(others, bars, strict=True)
            )
            word = outlier.eject(section, words, numbers.index(row), left, now)
            if word is None:
                return None
            board.set_ejection(row, word)
        finally:
            self._locks.release(line)
        board.changed(self._process)
        return outlier.barred_until(word)
