"""Locks between processes that nobody waits for, and that die with their holder.

An open-file-description lock belongs to an open file, so a descriptor inherited over a fork would share its
parent's locks: each process opens the region anew. Only the non-blocking form is used: a blocking call stops
the whole event loop, for ever behind a holder that was stopped. A named lock line is one byte of the region,
by custom the first byte of what it guards, so no two areas can have the same line.

Two acquisitions by one process do not exclude each other: a process here has one thread, and holds a lock
over a few stores, never over a wait.
"""

from __future__ import annotations

import fcntl
import os
import struct
from typing import Final

from shadowcat.errors import ShadowcatError
from shadowcat.shm.region import Region

TRIES: Final = 3
RETRY: Final = 0.001
"""Seconds until a lock that is held is tried again."""
PATIENCE: Final = 0.05
"""Seconds for which anybody waits for a lock: its holder has been stopped, or has died."""

_pack: Final = struct.Struct("hhqqi4x").pack
"""struct flock of 64-bit Linux: type, whence, start, length, pid (0, as fcntl(2) demands)."""
# A lock costs 0.7 us, of which looking these up would be a tenth.
_fcntl: Final = fcntl.fcntl
_SETLK: Final = fcntl.F_OFD_SETLK
_WRLCK: Final = fcntl.F_WRLCK
_UNLCK: Final = fcntl.F_UNLCK
_SET: Final = os.SEEK_SET
_HELD: Final = (BlockingIOError, PermissionError)
"""EAGAIN or EACCES: somebody has it (fcntl(2))."""


class LockBusyError(ShadowcatError):
    """Another process holds the lock.

    Try again from a 1 ms timer; give up after 50 ms (the holder has been stopped, or is being killed).
    """


def requests_for(line: int) -> tuple[bytes, bytes]:
    """What the kernel is told to take a lock line, and to give it back: made each time, they are a third of
    what a lock costs.
    """
    return _pack(_WRLCK, _SET, line, 1, 0), _pack(_UNLCK, _SET, line, 1, 0)


class Locks:
    """The calling process's locks on a region."""

    __slots__ = ("_fd",)

    def __init__(self, region: Region) -> None:
        """Open the region anew; call it in the process that is to hold the locks, after its fork.

        Raises:
            OSError: No descriptor is to be had.
        """
        self._fd = os.open(f"/proc/self/fd/{region.fd}", os.O_RDWR | os.O_CLOEXEC)

    def acquire(self, line: int, taking: bytes = b"") -> None:
        """Take the lock line at byte `line` of the region.

        Args:
            line: Which one.
            taking: That of `requests_for`, by who takes the same line again and again.

        Raises:
            LockBusyError: Somebody else holds it; nothing has changed.
        """
        request = taking or _pack(_WRLCK, _SET, line, 1, 0)
        try:
            _fcntl(self._fd, _SETLK, request)
        except _HELD:
            self._acquire_again(line, request)

    def _acquire_again(self, line: int, request: bytes) -> None:
        for _ in range(TRIES - 1):
            try:
                _fcntl(self._fd, _SETLK, request)
                return
            except _HELD:
                continue
        raise LockBusyError(f"the lock at byte {line} is held by another process")

    def release(self, line: int, giving: bytes = b"") -> None:
        """Give a lock line back; `giving` as `taking` above."""
        _fcntl(self._fd, _SETLK, giving or _pack(_UNLCK, _SET, line, 1, 0))

    def close(self) -> None:
        """Close the descriptor; whatever is held is released."""
        os.close(self._fd)
