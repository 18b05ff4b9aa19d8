"""The server's clock: the machine's, or beside it."""

from __future__ import annotations

import time


class Clock:
    """Seconds since the epoch.

    Attributes:
        offset: Seconds the server is ahead of the machine. Moving it makes codes and tokens expire without
            waiting; leaving it off the mark is the clock skew that resource servers have to bear.
    """

    __slots__ = ("offset",)

    def __init__(self) -> None:
        self.offset = 0.0

    def now(self) -> int:
        """Return the time in whole seconds."""
        return int(time.time() + self.offset)
