"""Upstreams that drain or were removed: their deadlines, and the end of what they still have.

draining --deadline--> its sessions end, here and upstream --> what is still open is cut: drained
removed  --no session, no request, or the deadline as above--> its row is given up
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from shadowcat.config import seats
from shadowcat.config.seats import NO_DEADLINE, Phase, Seat
from shadowcat.config.urls import upstream_name
from shadowcat.control.admin.reading import Reading
from shadowcat.control.closer import Closer
from shadowcat.control.present import Present
from shadowcat.control.publisher import Publisher
from shadowcat.log import LOGGER
from shadowcat.shm.sessions.table import Session, SessionTable
from shadowcat.shm.shared import Shared

_LOOK_EVERY: Final = 0.25
_CHUNK: Final = 256
"""Slots read at a time. Between two chunks the loop does what else there is to do."""
_ORDERS: Final = 32
"""Most orders to one worker at a time: half of what its mailbox holds."""
_PAUSE: Final = 0.05
_FAREWELL: Final = 1.0
"""Seconds for workers to tell an upstream that its sessions are over, before its connections are cut."""
_ROUNDS: Final = 100
"""Times that the table is looked through for sessions which were ordered to end, before they are left to
their own expiry: a worker that does not carry its orders out is replaced by then."""


class Retirement:
    """Looks after those that leave."""

    def __init__(
        self,
        shared: Shared,
        present: Present,
        table: SessionTable,
        closer: Closer,
        publisher: Publisher,
    ) -> None:
        self._shared = shared
        self._present = present
        self._table = table
        self._closer = closer
        self._publisher = publisher

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            try:
                await self.look()
            except Exception:  # noqa: BLE001  what leaves must not keep others from leaving
                LOGGER.exception("the end of a drain could not be carried out and is tried again")

    async def look(self) -> None:
        """Carry out what is due."""
        snapshot = self._present.snapshot
        due = self._due()
        if due:
            await self._end_sessions()
            await asyncio.sleep(_FAREWELL)
        idle = await self._idle([one.seat for one in snapshot.leaving if one.seat not in due])
        if not due and not idle:
            return
        # While sessions were being ended the configuration may have changed: what is due is decided again.
        snapshot = self._present.snapshot
        over = {seat.row for _, _, _, seat in snapshot.upstreams() if seat in due}
        freed = {one.seat.row for one in snapshot.leaving if one.seat in due or one.seat in idle}
        if not over and not freed:
            return
        for path, _, upstream, seat in snapshot.upstreams():
            if seat.row in over | freed:
                LOGGER.info("upstream %s of %s is drained", upstream_name(upstream), path)
        self._publisher.publish(seats.settle(snapshot, over, freed))

    def _due(self) -> list[Seat]:
        """Those whose deadline has passed, as things are now."""
        now = time.monotonic_ns()
        return [
            seat
            for _, _, _, seat in self._present.snapshot.upstreams()
            if seat.phase is Phase.DRAINING and NO_DEADLINE < seat.until_ns <= now
        ]

    async def _idle(self, seats: list[Seat]) -> list[Seat]:
        """Those of them that nobody needs any more: by the counts, and by the table itself."""
        if not seats or not self._publisher.is_taken_up:
            return []  # A worker may still send them something, or has not told yet that it did.
        reading = Reading(self._shared, self._present.directory)
        idle = [seat for seat in seats if self._is_idle(reading, seat)]
        if not idle:
            return []
        records = [session.record for session in await self._sessions_of({_key(seat) for seat in idle})]
        pinned = {(record.row, record.generation) for record in records}
        return [seat for seat in idle if _key(seat) not in pinned]

    def _is_idle(self, reading: Reading, seat: Seat) -> bool:
        layout = self._shared.layout

        def count(family: str) -> int:
            return reading.sum([layout.cell(family, seat.row)])

        if count("pool_active") or count("pool_queue") or count("sessions_opening"):
            return False
        return count("sessions_created_total") <= count("sessions_ended_total")

    async def _sessions_of(self, rows: set[tuple[int, int]]) -> list[Session]:
        """The sessions that are pinned to one of these, by row and generation."""
        found: list[Session] = []
        for first in range(0, self._table.capacity, _CHUNK):
            count = min(_CHUNK, self._table.capacity - first)
            found += [
                session
                for session in self._table.live(first, count)
                if (session.record.row, session.record.generation) in rows
            ]
            await asyncio.sleep(0)
        return found

    async def _end_sessions(self) -> None:
        """Have all sessions ended that are pinned to those that are due."""
        for _ in range(_ROUNDS):
            found = await self._sessions_of({_key(seat) for seat in self._due()})
            # One that was taken back meanwhile may have new sessions, which are not to end.
            still = {_key(seat) for seat in self._due()}
            sessions = [each for each in found if (each.record.row, each.record.generation) in still]
            if not sessions:
                return
            workers = self._closer.workers(time.monotonic_ns())
            for number, session in enumerate(sessions, 1):
                if not self._closer.order(session, workers):
                    break
                if number % (_ORDERS * len(workers)) == 0:
                    await asyncio.sleep(_PAUSE)
            await asyncio.sleep(_PAUSE)
        LOGGER.warning("some sessions of drained upstreams do not end; they are left to their expiry")


def _key(seat: Seat) -> tuple[int, int]:
    return seat.row, seat.generation
