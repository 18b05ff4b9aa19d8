"""Correcting the counts of sessions per owner, beside the loop."""

from __future__ import annotations

import asyncio

from shadowcat.log import LOGGER
from shadowcat.shm.locks import LockBusyError
from shadowcat.shm.sessions.table import SessionTable


class Recounter:
    """Recounts in a thread: that takes 50 ms at 65,536 sessions and a second at a million, too long for the
    loop, which gets its turn every 5 ms this way (sys.getswitchinterval).
    """

    __slots__ = ("_loop", "_running", "_table")

    def __init__(self, table: SessionTable, loop: asyncio.AbstractEventLoop) -> None:
        """Prepare.

        Args:
            table: The sessions, for this purpose alone: the locks of a table exclude other tables, but not
                another thread that uses the same one.
            loop: The loop of the calling thread.
        """
        self._table = table
        self._loop = loop
        self._running = False

    def start(self) -> None:
        """Recount, unless that is going on already."""
        if self._running:
            return
        self._running = True
        self._loop.run_in_executor(None, self._table.recount).add_done_callback(self._end)

    def _end(self, future: asyncio.Future[int]) -> None:
        self._running = False
        if future.cancelled():
            return
        error = future.exception()
        # What was locked is counted after the next sweep.
        if error is not None and not isinstance(error, LockBusyError):
            LOGGER.error("the sessions of each owner cannot be counted", exc_info=error)
