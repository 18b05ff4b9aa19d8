"""All counters pages at one moment, added up."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from shadowcat.shm.counters import STATUSES, Family
from shadowcat.shm.shared import Shared

_NANOSECONDS = 1e-9


class Reading:
    """The sums over all pages. Each sum is exact for its own cell; two cells may be a few requests apart."""

    __slots__ = ("_layout", "_totals")

    def __init__(self, shared: Shared) -> None:
        self._layout = shared.layout
        pages = (shared.page(process).cells.tolist() for process in range(shared.processes))
        self._totals: list[int] = [sum(column) for column in zip(*pages, strict=True)]

    def value(self, family: str, *labels: str) -> int:
        """The sum of a counter or gauge."""
        return self._totals[self._layout.cell(family, *labels)]

    def series(self, family: Family) -> Iterator[tuple[tuple[str, ...], int]]:
        """Labels and sum of every member of a counter or gauge family."""
        return ((labels, self._totals[cell]) for labels, cell in self._layout.series(family.name))

    def total(self, family: str) -> int:
        """The sum over all members of a counter or gauge family."""
        return sum(self._totals[cell] for _, cell in self._layout.series(family))

    def pinned(self, route: str, upstream: str) -> int:
        """How many sessions an upstream has: not below 0, whichever of the two counts was read too late."""
        created = self.value("sessions_created_total", route, upstream)
        return max(0, created - self.value("sessions_ended_total", route, upstream))

    def statuses(self, route: str) -> dict[int, int]:
        """How often each HTTP status was answered on a route; statuses never answered are left out."""
        base = self._layout.statuses(route)
        counts = self._totals[base : base + STATUSES]
        return {status: count for status, count in enumerate(counts) if count}

    def histogram(self, family: str, *labels: str) -> tuple[list[int], float]:
        """The cumulative bucket counts, in the order of the layout's bounds, and the sum in seconds."""
        base = self._layout.histogram(family, *labels)
        end = base + len(self._layout.bounds)
        return list(accumulate(self._totals[base:end])), self._totals[end] * _NANOSECONDS
