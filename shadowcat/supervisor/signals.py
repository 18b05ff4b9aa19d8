"""Signals of the supervisor: caught by a self-pipe, read by the selector like any other event."""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType
from typing import Final

_HANDLED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1)


class SignalPipe:
    """Turns signals into bytes of a pipe (signal.set_wakeup_fd)."""

    __slots__ = ("_before", "_read", "_write")

    def __init__(self) -> None:
        """Install the handlers; main thread only."""
        self._before = {number: signal.getsignal(number) for number in _HANDLED}
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in _HANDLED:
            signal.signal(number, _nothing)

    def fileno(self) -> int:
        """Readable when a signal has come."""
        return self._read

    def receive(self) -> list[signal.Signals]:
        """The signals since the last call, in order."""
        with contextlib.suppress(BlockingIOError):
            return [signal.Signals(number) for number in os.read(self._read, 256)]
        return []

    def restore(self) -> None:
        """Give the signals the actions back that they had before."""
        signal.set_wakeup_fd(-1)
        for number, action in self._before.items():
            signal.signal(number, action)
        self.close()

    def ignore(self) -> None:
        """Take no more: the interpreter, as it ends, gives handlers up, and one more signal would kill it."""
        signal.set_wakeup_fd(-1)
        for number in _HANDLED:
            signal.signal(number, signal.SIG_IGN)
        self.close()

    def close(self) -> None:
        """Close the pipe; a forked child calls this once it has reset its handlers."""
        os.close(self._read)
        os.close(self._write)


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """The self-pipe has it; a handler must exist for the signal to reach it."""
