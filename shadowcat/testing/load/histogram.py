"""A histogram of durations whose relative error is bounded, whatever their size."""

from __future__ import annotations

import math
from typing import Final

# 128 linear steps per power of two bound the relative error by 1/128 (0.8 %). Up to 2 * STEPS every value
# has a cell of its own.
_BITS: Final = 7
_STEPS: Final = 1 << _BITS
# Longer than 2^42 ns (73 minutes) is counted in the last cell; `largest` still tells the true value.
_MAX_BITS: Final = 42


class Histogram:
    """Counts durations in nanoseconds in log-linear cells, as HdrHistogram does.

    Recording is O(1) and allocates nothing; memory does not grow with the number of values.
    """

    __slots__ = ("_cells", "count", "largest", "smallest", "total")

    def __init__(self) -> None:
        self._cells = [0] * ((_MAX_BITS - _BITS + 1) * _STEPS)
        self.count = 0
        self.total = 0
        """Sum of all values, in nanoseconds."""
        self.smallest = 0
        self.largest = 0

    def record(self, nanoseconds: int) -> None:
        """Count one duration; a negative one counts as 0."""
        value = max(nanoseconds, 0)
        if not self.count or value < self.smallest:
            self.smallest = value
        if value > self.largest:
            self.largest = value
        self.count += 1
        self.total += value
        shift = value.bit_length() - _BITS - 1
        if shift > 0:
            cell = (shift << _BITS) + (value >> shift)
            if cell >= len(self._cells):
                cell = len(self._cells) - 1
            self._cells[cell] += 1
        else:
            self._cells[value] += 1

    @property
    def mean(self) -> float:
        """Arithmetic mean in nanoseconds; 0 when empty."""
        return self.total / self.count if self.count else 0.0

    def percentiles(self, *percents: float) -> list[int]:
        """The durations in nanoseconds that so many percent of the values do not exceed; 0 when empty.

        Each is the upper edge of its cell, so it never flatters.

        Args:
            percents: In rising order: one pass finds them all.
        """
        found: list[int] = []
        ranks = [max(1, math.ceil(self.count * percent / 100)) for percent in percents]
        seen = 0
        for cell, count in enumerate(self._cells):
            seen += count
            while len(found) < len(ranks) and seen >= ranks[len(found)]:
                found.append(min(_upper_edge(cell), self.largest))
            if len(found) == len(ranks):
                return found
        return [0] * len(ranks)


def _upper_edge(cell: int) -> int:
    if cell < 2 * _STEPS:
        return cell
    shift = (cell >> _BITS) - 1
    return ((cell - (shift << _BITS) + 1) << shift) - 1
