"""A periodic timer finer than an event loop's own."""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable
from typing import Final

_CLOCK_MONOTONIC: Final = 1
_ABSOLUTE: Final = 1
_libc: Final = ctypes.CDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("first", _Timespec))


class Ticker:
    """Calls `callback` every `interval` nanoseconds from `start` (CLOCK_MONOTONIC) on.

    libuv's timers count whole milliseconds, ten times the latencies to be measured; a timerfd counts
    nanoseconds. Python has timerfd from 3.13 on.
    """

    __slots__ = ("_callback", "_fd", "_loop")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, start: int, interval: int, callback: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._callback = callback
        self._fd = _checked(_libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC))
        spec = _Itimerspec(_Timespec(*divmod(interval, 10**9)), _Timespec(*divmod(start, 10**9)))
        _checked(_libc.timerfd_settime(self._fd, _ABSOLUTE, ctypes.byref(spec), None))
        loop.add_reader(self._fd, self._expired)

    def stop(self) -> None:
        """End the calls; may be called again."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _expired(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return
        self._callback()


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
