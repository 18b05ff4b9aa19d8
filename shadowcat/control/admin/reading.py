"""All counters pages at one moment, added up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

from shadowcat.shm.counters import STATUSES, Family, family_of
from shadowcat.shm.directory import Directory
from shadowcat.shm.shared import Shared

_NANOSECONDS = 1e-9


class Reading:
    """Sums over all pages, each exact for its own cells; what two say may be a few requests apart."""

    __slots__ = ("_bounds", "_pages", "directory")

    def __init__(self, shared: Shared, directory: Directory) -> None:
        self.directory = directory
        self._bounds = len(shared.layout.bounds)
        # Copied at once, so that what is shown together is of one moment; half a megabyte takes 0.05 ms.
        self._pages = [
            memoryview(bytes(shared.page(process).cells)).cast("Q") for process in range(shared.processes)
        ]

    def value(self, family: str, *labels: str) -> int:
        """The sum of a counter or gauge, of times in nanoseconds."""
        return self.sum(self.directory.cells(family_of(family), *labels))

    def series(self, family: Family) -> Iterator[tuple[tuple[str, ...], int]]:
        """Labels and sum of every member of a counter or gauge family."""
        return ((labels, self.sum(cells)) for labels, cells in self.directory.members(family))

    def total(self, family: str) -> int:
        """The sum over all members of a counter or gauge family."""
        return sum(count for _, count in self.series(family_of(family)))

    def pinned(self, route: str, upstream: str) -> int:
        """How many sessions an upstream has: not below 0, whichever of the two counts was read too late."""
        created = self.value("sessions_created_total", route, upstream)
        return max(0, created - self.value("sessions_ended_total", route, upstream))

    def statuses(self, route: str) -> dict[int, int]:
        """How often each HTTP status was answered on a route; statuses never answered are left out."""
        (base,) = self.directory.cells(family_of("requests_total"), route)
        counts = self._block(base, STATUSES)
        return {status: count for status, count in enumerate(counts) if count}

    def histogram(self, family: str, *labels: str) -> tuple[list[int], float]:
        """The cumulative bucket counts, in the order of the layout's bounds, and the sum in seconds."""
        (base,) = self.directory.cells(family_of(family), *labels)
        *counts, nanoseconds = self._block(base, self._bounds + 1)
        return list(accumulate(counts)), nanoseconds * _NANOSECONDS

    def _block(self, base: int, length: int) -> list[int]:
        columns = (page[base : base + length].tolist() for page in self._pages)
        return [sum(column) for column in zip(*columns, strict=True)]

    def sum(self, cells: Sequence[int]) -> int:
        """The sum of some cells."""
        return sum(page[cell] for page in self._pages for cell in cells)
