"""The one piece of memory that all processes share, and the plan of what lies where in it.

The supervisor makes the region before it forks; the children inherit the mapping. It has no name, so nothing
is left behind when everything is killed at once.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import Final, NamedTuple

from shadowcat.errors import StartError

WORD: Final = 8
LINE: Final = 64
"""Cache line: what different processes write must not share one."""
PAGE: Final = mmap.PAGESIZE


class Area(NamedTuple):
    """A part of the region, in bytes from its start."""

    offset: int
    length: int


class Plan:
    """Hands out consecutive, aligned areas; the sum is the size of the region."""

    __slots__ = ("size",)

    def __init__(self) -> None:
        self.size = 0

    def add(self, length: int, align: int = LINE) -> Area:
        """Set `length` bytes aside, starting at a multiple of `align` (a power of two)."""
        offset = -(-self.size // align) * align
        self.size = offset + length
        return Area(offset, length)


class Region:
    """A memfd, allocated in full and sealed against a change of its size, mapped shared.

    A store through `words` is one aligned 8-byte store and so atomic between processes. `struct.pack_into` is
    not: it zero-fills first, and 7 % of concurrent reads saw 0.
    """

    __slots__ = ("_memory", "fd", "map", "size")

    map: mmap.mmap
    """The mapping itself: a slice of it copies bytes in half the time that a slice of a view takes."""

    def __init__(self, size: int) -> None:
        """Allocate `size` bytes, rounded up to whole pages, all zero.

        Raises:
            StartError: The memory is not to be had.
        """
        self.size = -(-size // PAGE) * PAGE
        self.fd = os.memfd_create("shadowcat", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            # Reserved now, so that a full machine is an error here and not a SIGBUS at some later store. Not
            # zeroed yet, which is most of the work. Huge pages gain 4 % of a lookup (bench/MICRO.md).
            os.posix_fallocate(self.fd, 0, self.size)
            fcntl.fcntl(
                self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            )
            self.map = mmap.mmap(self.fd, self.size, mmap.MAP_SHARED)
            self._memory = memoryview(self.map)
        except OSError as error:
            os.close(self.fd)
            raise StartError(
                f"cannot allocate {self.size} bytes of shared memory: {error.strerror}; "
                "free memory, raise this service's memory limit, or lower `sessions.capacity` or `workers`"
            ) from error

    def words(self, offset: int, count: int) -> memoryview:
        """`count` 8-byte cells (format "Q") from byte `offset`, which must be a multiple of 8."""
        if offset % WORD:
            raise ValueError(f"offset {offset} is not a multiple of {WORD}: stores would not be atomic")
        return self.view(offset, count * WORD).cast("Q")

    def view(self, offset: int, length: int) -> memoryview:
        """`length` bytes from byte `offset`."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise ValueError(f"{length} bytes at {offset} are not inside a region of {self.size}")
        return self._memory[offset : offset + length]

    def close(self) -> None:
        """Close the descriptor. The mapping goes with the last view of it."""
        os.close(self.fd)
