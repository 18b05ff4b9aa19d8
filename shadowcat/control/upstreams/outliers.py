"""Upstreams that are much slower than the others of their route: who compares them, and what becomes of them.

A worker sees only its own share of the answers. Here those of all workers are compared, once per `interval`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from shadowcat.config import model
from shadowcat.config.seats import Phase, Seat, Snapshot
from shadowcat.config.urls import upstream_name
from shadowcat.log import LOGGER
from shadowcat.policy import outlier
from shadowcat.policy.outlier import Answers, find_slow
from shadowcat.shm.ejections import Ejections, Place, barred_until
from shadowcat.shm.locks import LockBusyError
from shadowcat.shm.shared import CONTROL, Shared

_LOOK_EVERY: Final = 0.1
"""Seconds; no `interval` is shorter than a second."""
_NS: Final = 1_000_000_000


class Outliers:
    """Compares the upstreams of all routes that have an `outlier` section."""

    __slots__ = ("_clock", "_comparisons", "_ejections", "_shared")

    def __init__(
        self, shared: Shared, ejections: Ejections, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """Prepare; `configure` begins.

        Args:
            shared: The shared areas.
            ejections: Those of the control process.
            clock: Monotonic ns.
        """
        self._shared = shared
        self._ejections = ejections
        self._clock = clock
        self._comparisons: dict[str, _Comparison] = {}
        """By route path."""

    def configure(self, snapshot: Snapshot) -> None:
        """Compare the upstreams of this snapshot from now on. Where nothing that matters has changed, an
        interval that has begun goes on.
        """
        before, self._comparisons = self._comparisons, {}
        for _, route, seats in snapshot.routes():
            if route.outlier is not None:
                comparison = _Comparison(self._shared, route, route.outlier, seats)
                known = before.get(route.path)
                if known is not None and known.is_like(comparison):
                    comparison = known
                else:
                    comparison.begin(self._clock())
                self._comparisons[route.path] = comparison

    async def run(self) -> None:
        """Compare whatever is due, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            self.look()

    def look(self) -> None:
        """Compare what is due."""
        now = self._clock()
        for comparison in self._comparisons.values():
            if now >= comparison.due:
                comparison.end(now, self._ejections)
                comparison.begin(now)


class _Comparison:
    """Of one route."""

    __slots__ = ("_before", "_places", "_route", "_seats", "_section", "_shared", "due")

    def __init__(
        self, shared: Shared, route: model.Route, section: model.Outlier, seats: Sequence[Seat]
    ) -> None:
        self._shared = shared
        self._route = route
        self._section = section
        self._seats = seats
        self._places = [
            Place(seat.row, enabled=upstream.enabled and seat.phase is Phase.SERVING)
            for upstream, seat in zip(route.upstreams, seats, strict=True)
        ]
        self._before: list[Answers | None] = []
        """Totals at the beginning of the interval; None for who could not be chosen."""
        self.due = 0
        """When the interval ends, monotonic ns."""

    def is_like(self, other: _Comparison) -> bool:
        """Whether both are about the same upstreams, in the same way."""
        return (self._route, self._seats) == (other._route, other._seats)

    def begin(self, now: int) -> None:
        """An interval begins."""
        self.due = now + round(self._section.interval * _NS)
        self._before = self._totals(now)

    def end(self, now: int, ejections: Ejections) -> None:
        """It is over: eject who was too slow."""
        given = [
            None
            if before is None or after is None
            else Answers(after.number - before.number, after.seconds - before.seconds)
            for before, after in zip(self._before, self._totals(now), strict=True)
        ]
        for index in find_slow(self._section, given):
            answers = given[index]
            assert answers is not None
            mean = answers.seconds / answers.number
            try:
                until = ejections.eject(
                    self._route, self._section, self._places, self._places[index].row, now
                )
            except LockBusyError:
                continue  # If it stays slow, the end of the next interval will show it.
            if until is not None:
                self._tell(index, mean, (until - now) / _NS)

    def _tell(self, index: int, mean: float, seconds: float) -> None:
        row = self._places[index].row
        self._shared.page(CONTROL).cells[self._shared.layout.cell("upstream_ejections_total", row)] += 1
        LOGGER.warning(
            "upstream %s: nothing new for %.0f s: it takes %.3f s on average to answer, more than %g times as"
            " long as the others",
            upstream_name(self._route.upstreams[index]),
            seconds,
            mean,
            self._section.latency_factor,
        )

    def _totals(self, now: int) -> list[Answers | None]:
        return [self._total(place, now) for place in self._places]

    def _total(self, place: Place, now: int) -> Answers | None:
        """Of all workers; None for one that cannot be chosen."""
        shared, row = self._shared, place.row
        board = shared.board
        bar = max(barred_until(board, self._route, row), outlier.barred_until(board.ejection(row)))
        if not place.enabled or bar > now:
            return None
        number, time_spent = (
            shared.layout.cell(name, row)
            for name in ("upstream_responses_total", "upstream_response_seconds_total")
        )
        pages = [shared.page(process).cells for process in range(shared.processes)]
        return Answers(sum(cells[number] for cells in pages), sum(cells[time_spent] for cells in pages) / _NS)
