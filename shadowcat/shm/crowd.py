"""How many connections the clients of each address have, at all workers together.

Each worker counts in a block of its own, and nobody takes a lock. An address has a cell in each of four
rows, by a digest keyed with a secret that was made at the start, and as many connections as the least of the
four says: others would have to share all four cells to be counted with it, as happens to one in 2,000 while
5,000 others are connected. Cells are shared, so nothing is ever full, and no flood of fresh addresses makes
room for one that is at its limit.

A worker adds itself before it looks, so two that do so at the same moment may both see one too many, and
never one too few. The supervisor clears the block of a worker that it has reaped.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from shadowcat.shm.region import Area, Plan, Region

SECRET: Final = 16
"""Bytes."""
_CELL: Final = 4
"""Bytes."""
_ROWS: Final = 4
_COLUMNS: Final = 32_768
_BLOCK: Final = _ROWS * _COLUMNS
_DIGITS: Final = 16
"""Bits of the digest for each row."""

Places = tuple[int, ...]
"""Where an address is counted."""


def plan_crowd(plan: Plan, processes: int) -> Area:
    """Set the memory aside."""
    return plan.add(processes * _BLOCK * _CELL)


def clear(region: Region, area: Area, process: int) -> None:
    """A process was reaped, and its connections with it; for the supervisor."""
    length = _BLOCK * _CELL
    region.view(area.offset + process * length, length)[:] = bytes(length)


class Crowd:
    """The counts, as one worker adds to them."""

    __slots__ = ("_cells", "_own", "_secret")

    def __init__(self, region: Region, area: Area, secret: bytes, process: int) -> None:
        """`secret` is the same for all processes, `process` the number of this one."""
        self._cells = region.view(area.offset, area.length).cast("I")
        self._secret = secret
        self._own = process * _BLOCK

    def enter(self, address: str, limit: int) -> Places | None:
        """Count a connection of an address; the places for `leave`, or None if it is one too many."""
        digest = int.from_bytes(blake2b(address.encode(), digest_size=8, key=self._secret).digest())
        places = tuple(row * _COLUMNS + (digest >> row * _DIGITS) % _COLUMNS for row in range(_ROWS))
        cells, own = self._cells, self._own
        for place in places:
            cells[own + place] += 1
        if min(sum(cells[place::_BLOCK]) for place in places) > limit:
            self.leave(places)
            return None
        return places

    def leave(self, places: Places) -> None:
        """A connection that was counted is over."""
        for place in places:
            self._cells[self._own + place] -= 1
