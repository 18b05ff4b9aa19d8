"""Notifications to the service manager (sd_notify(3)): readiness, reload, stop, watchdog."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping

_USEC_PER_SEC = 1_000_000


class Notifier:
    """Talks to the socket named by NOTIFY_SOCKET; without one, every call does nothing."""

    __slots__ = ("_address", "_next_ping", "_socket", "watchdog_interval")

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Read NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID."""
        path = environ.get("NOTIFY_SOCKET", "")
        self._address: str | None = None
        self._socket: socket.socket | None = None
        if path[:1] in ("/", "@"):
            # "@" stands for the NUL byte of the abstract namespace (unix(7)).
            self._address = "\0" + path[1:] if path[0] == "@" else path
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.watchdog_interval = _watchdog_interval(environ)
        """Seconds between two pings, half of what the manager allows; None when it does not watch."""
        self._next_ping = 0.0

    def ready(self, status: str) -> None:
        """Start-up, or a reload, is complete."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self, now_ns: int) -> None:
        """A reload begins. Type=notify-reload needs CLOCK_MONOTONIC in the same message."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={now_ns // 1000}")

    def stopping(self) -> None:
        """The drain begins."""
        self._send("STOPPING=1", "STATUS=draining")

    def ping(self, now: float, healthy: bool) -> None:
        """Feed the watchdog when it is time, and only while all is well.

        Args:
            now: Monotonic seconds.
            healthy: Whether no supervised process hangs.
        """
        if self.watchdog_interval is not None and healthy and now >= self._next_ping:
            self._next_ping = now + self.watchdog_interval
            self._send("WATCHDOG=1")

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *lines: str) -> None:
        if self._socket is None or self._address is None:
            return
        # A manager that does not listen must not stop the service.
        with contextlib.suppress(OSError):
            self._socket.sendto("\n".join(lines).encode(), self._address)


def _watchdog_interval(environ: Mapping[str, str]) -> float | None:
    try:
        usec = int(environ.get("WATCHDOG_USEC", "0"))
        pid = int(environ.get("WATCHDOG_PID", "0"))
    except ValueError:
        return None
    if usec <= 0 or pid not in (0, os.getpid()):
        return None
    return usec / _USEC_PER_SEC / 2
