"""Ending sessions from outside the data plane: by a worker where there is one, otherwise here."""

from __future__ import annotations

from typing import Final

from shadowcat.shm.mailboxes import Mail
from shadowcat.shm.page import State
from shadowcat.shm.sessions import ids
from shadowcat.shm.sessions.record import SessionState
from shadowcat.shm.sessions.table import Session, SessionTable
from shadowcat.shm.shared import CONTROL, Shared, worker_number
from shadowcat.shm.trail import Trail

_VERSION_BITS: Final = (1 << 24) - 1
_SLOT_BITS: Final = 24
_SILENT: Final = 1_000_000_000
"""ns without a heartbeat (one every 50 ms) after which a worker is not given work that it may never do."""


class Closer:
    """Has sessions ended.

    A worker has connections to the upstream and ends the session there too; control has none, so what it
    ends itself stays open upstream until the upstream's own expiry.
    """

    __slots__ = ("_cells", "_next", "_shared", "_table", "_trail")

    def __init__(self, shared: Shared, table: SessionTable, trail: Trail | None = None) -> None:
        self._shared = shared
        self._table = table
        self._trail = trail
        self._cells = shared.page(CONTROL).cells
        self._next = 0

    def workers(self, now_ns: int) -> list[int]:
        """The process numbers of the workers that can be given orders.

        Args:
            now_ns: CLOCK_MONOTONIC.
        """
        numbers = map(worker_number, range(self._shared.host.slots))
        return [number for number in numbers if self._obeys(number, now_ns)]

    def _obeys(self, number: int, now_ns: int) -> bool:
        page = self._shared.page(number)
        return page.state is State.READY and now_ns - page.heartbeat <= _SILENT

    def order(self, session: Session, workers: list[int]) -> bool:
        """Order one of `workers`, in turn, to end a session here and upstream.

        Returns:
            False if none of them could be reached. True is no proof: the worker may die before it gets there.
        """
        argument = (session.version & _VERSION_BITS) << _SLOT_BITS | session.slot
        for _ in workers:
            self._next += 1
            worker = workers[self._next % len(workers)]
            if self._shared.mail.send(CONTROL, worker, Mail.END_SESSION, argument):
                return True
        return False

    def end(self, session: Session) -> bool:
        """End a session without telling its upstream.

        Returns:
            False if it was gone already.

        Raises:
            LockBusyError: Somebody is writing it: try again.
        """
        record = self._table.delete(session)
        if record is None:
            return False
        self._cells[self._shared.layout.cell("sessions_ended_total", record.row)] += 1
        if record.state is SessionState.OPEN:
            self._record(session, "expired")
        return True

    def asked(self, session: Session) -> None:
        """An operator wants a session to end; that it has ended is an event of its own."""
        self._record(session, "end_requested", "operator")

    def _record(self, session: Session, outcome: str, reason: str | None = None) -> None:
        if self._trail is not None:
            record = session.record
            self._trail.record(
                "session",
                outcome,
                reason,
                session=ids.handle(session.slot, session.id),
                principal=record.principal,
                route=record.route,
            )
