"""Reloads of the configuration that the supervisor was asked for by SIGHUP.

The supervisor counts what it is asked for, control what is done: a signal that finds no control process, or
one that is just ending, is not lost.
"""

from __future__ import annotations

import asyncio

from shadowcat.control.admin.changes import BY_SIGNAL, Changes
from shadowcat.errors import ConfigError
from shadowcat.log import LOGGER
from shadowcat.shm.shared import Shared


class Reloads:
    """Carries reloads out, one after the other."""

    def __init__(self, shared: Shared, changes: Changes) -> None:
        self._shared = shared
        self._changes = changes
        self._woken = asyncio.Event()
        self._woken.set()

    def wake(self) -> None:
        """SIGHUP has come."""
        self._woken.set()

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            asked = self._shared.host.reloads
            if asked == self._shared.snapshot.reloads:
                continue
            try:
                await self._changes.reload(by=BY_SIGNAL)
            except ConfigError as error:
                LOGGER.error("the configuration stays as it is: %s", error)
            except Exception:  # noqa: BLE001  the next reload must be possible
                LOGGER.exception("the configuration stays as it is")
            self._shared.snapshot.set_reloads(asked)
