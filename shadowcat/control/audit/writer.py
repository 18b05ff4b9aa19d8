"""Writes the audit file: takes what all processes have recorded, and forgets it once it is in the file.

The rings are in shared memory, with the places up to which they were written. So what a worker has recorded
outlives it, and a control process that takes another's place goes on where that one was; a batch that was
written, but not noted as written yet, is then written once more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum, auto
from typing import Final

from shadowcat.control.audit.file import AuditFile
from shadowcat.log import LOGGER
from shadowcat.shm.rings import Ring, Taken

EVERY: Final = 0.05
"""Seconds between two looks at the rings."""
BATCH: Final = 64 * 1024
"""Bytes of one ring that are written at a time."""
_RETRY: Final = 0.2
"""Seconds until a file that cannot be written is tried again."""
_FAREWELL: Final = 1.5
"""Seconds for what is left in the end; the supervisor tries once more."""
_UNREADABLE: Final = 40
"""Looks at a ring whose next record is spoilt, until it is given up: one that is only just being written is
there with the next look."""


class _Outcome(Enum):
    """What came of a look at the rings."""

    DONE = auto()
    """There was nothing to write."""
    MORE = auto()
    """Something was written, and there may be more."""
    FAILED = auto()
    """The file cannot be written."""


class AuditWriter:
    """Writes the records of all rings."""

    def __init__(
        self, file: AuditFile, rings: Sequence[Ring], cells: memoryview, written: int, dropped: int
    ) -> None:
        """Prepare; `run` begins.

        Args:
            file: Where to. From now on only this writer uses it.
            rings: All of them.
            cells: Of control's page.
            written: The cell that counts records in the file.
            dropped: The cell that counts those that could not be read.
        """
        self._file = file
        self._rings = rings
        self._cells = cells
        self._written = written
        self._dropped = dropped
        self._spoilt = dict.fromkeys(rings, 0)
        # A thread, because a disk may take seconds, and control has other things to do.
        self._thread = ThreadPoolExecutor(1, "audit")
        self._is_renamed = False
        self._kept: list[tuple[Ring, Taken]] = []
        """What the file could not take."""
        self._ending = asyncio.Event()

    def reopen(self) -> None:
        """The file was renamed: go on in a new one."""
        self._is_renamed = True

    def end(self) -> None:
        """Nobody records any more: have `run` come to its end once everything is written."""
        self._ending.set()

    async def run(self) -> None:
        """Go on until told to end, and then for as long as there is something to write, and time for it."""
        try:
            while not self._ending.is_set():
                await self._pause(await self._look())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FAREWELL):
                    await self._write_all()
        finally:
            self._thread.shutdown(wait=False)

    async def _write_all(self) -> None:
        while True:
            outcome = await self._look()
            if outcome is _Outcome.DONE:
                return
            await asyncio.sleep(_RETRY if outcome is _Outcome.FAILED else 0)

    async def _pause(self, outcome: _Outcome) -> None:
        if outcome is _Outcome.MORE:
            await asyncio.sleep(0)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RETRY if outcome is _Outcome.FAILED else EVERY):
                await self._ending.wait()

    async def _look(self) -> _Outcome:
        """Write a batch of each ring."""
        loop = asyncio.get_running_loop()
        if self._is_renamed:
            self._is_renamed = False
            await loop.run_in_executor(self._thread, self._file.reopen)
        taken = self._kept or [(ring, self._read(ring)) for ring in self._rings]
        batch = b"".join([record for _, (records, _) in taken for record in records])
        if not batch:
            return _Outcome.DONE
        self._kept = taken
        if not await loop.run_in_executor(self._thread, self._file.write, batch):
            return _Outcome.FAILED
        self._kept = []
        for ring, (records, position) in taken:
            ring.release(position)
            self._cells[self._written] += len(records)
        return _Outcome.MORE

    def _read(self, ring: Ring) -> Taken:
        """The next records of a ring; it must not be blocked for ever by one that cannot be read."""
        taken = ring.read(BATCH)
        if taken.records or ring.is_empty:
            self._spoilt[ring] = 0
        else:
            self._spoilt[ring] += 1
            if self._spoilt[ring] >= _UNREADABLE:
                LOGGER.error("%d bytes of audit events are spoilt, and left out", ring.skip())
                self._cells[self._dropped] += 1
        return taken
