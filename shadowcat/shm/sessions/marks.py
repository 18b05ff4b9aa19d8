"""The words of a slot that change while its record does not: streams, leases, outstanding requests.

They carry what they belong to (a generation, an incarnation, a deadline), so that they need not be cleared
when that is over.
"""

from __future__ import annotations

from typing import Final

from shadowcat.shm.sessions.layout import (
    BORN,
    DELIVERED,
    INCARNATION,
    LAST_SEEN,
    LEASE,
    OUTSTANDING,
    OUTSTANDING_LIMIT,
    SLOT,
    STREAM,
    TALLY,
)
from shadowcat.shm.sessions.session import Session
from shadowcat.shm.sessions.slots import Slots

_PROCESS_BITS: Final = 16
_PROCESS: Final = (1 << _PROCESS_BITS) - 1
_US: Final = 1000
_OVERFLOW: Final = 1
_NONE_OUTSTANDING: Final = bytes(OUTSTANDING_LIMIT * 8)


class Marks:
    """What can be noted on a session without a new version of it. LockBusyError: see `Slots.lock`."""

    __slots__ = ("_slots", "_words")

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._words = slots.words

    def last_seen(self, session: Session) -> int:
        """When the session was last used, to the second."""
        seen: int = self._words[session.base + LAST_SEEN]
        return seen

    # The GET stream

    def stream(self, session: Session) -> tuple[int, int]:
        """Which process carries the session's GET stream, and the generation of that stream; 0: nobody."""
        word: int = self._words[session.base + STREAM]
        if not self._lives(session):
            return 0, 0
        return word & _PROCESS, word >> _PROCESS_BITS

    def take_stream(self, session: Session, process: int) -> tuple[int, int, int]:
        """Become the owner of the session's GET stream.

        Returns:
            The previous owner (0: nobody), its generation, and the own generation; that is 0 if the session
            is gone or has been given to another upstream session.

        Raises:
            LockBusyError: The slot is locked by another process.
        """
        at = session.base + STREAM
        with self._slots.held(session.slot):
            if not self._is_current(session):
                return 0, 0, 0
            word = self._words[at]
            previous, generation = word & _PROCESS, word >> _PROCESS_BITS
            self._words[at] = generation + 1 << _PROCESS_BITS | process
            return previous, generation, generation + 1

    def leave_stream(self, session: Session, process: int, generation: int) -> None:
        """Stop being the owner; does nothing if another stream has taken over.

        Raises:
            LockBusyError: The slot is locked by another process.
        """
        at = session.base + STREAM
        own = generation << _PROCESS_BITS | process
        if self._words[at] != own:
            return
        with self._slots.held(session.slot):
            if self._words[at] == own:
                self._words[at] = generation << _PROCESS_BITS

    # The recovery lease

    def lease(self, session: Session, now_ns: int) -> int:
        """The process that is recovering the session; 0: nobody, or not in time."""
        word: int = self._words[session.base + LEASE]
        return word & _PROCESS if self._lives(session) and _deadline(word) > now_ns else 0

    def take_lease(self, session: Session, process: int, deadline_ns: int, now_ns: int) -> bool:
        """Get the sole right to recover a session until a deadline, or prolong it.

        Returns:
            False if another process has it, or if the session is gone or has been recovered already.

        Raises:
            LockBusyError: The slot is locked by another process.
        """
        at = session.base + LEASE
        with self._slots.held(session.slot):
            if not self._is_current(session):
                return False
            word = self._words[at]
            if word & _PROCESS not in (0, process) and _deadline(word) > now_ns:
                return False
            self._words[at] = -(-deadline_ns // _US) << _PROCESS_BITS | process
            return True

    def drop_lease(self, session: Session, process: int) -> None:
        """Give the lease back; does nothing if `process` has it no more.

        Raises:
            LockBusyError: The slot is locked by another process; the lease ends at its deadline.
        """
        at = session.base + LEASE
        if self._words[at] & _PROCESS != process:
            return
        with self._slots.held(session.slot):
            if self._lives(session) and self._words[at] & _PROCESS == process:
                self._words[at] = 0

    # Requests of the server that await an answer of the client

    def expect(self, session: Session, digest: int) -> None:
        """Note that the server asked the client something; ignored if that incarnation is over.

        Args:
            session: The session.
            digest: Digest of the request's id, 64 bits.

        Raises:
            LockBusyError: The slot is locked by another process.
        """
        digest = digest or 1
        first = session.base + OUTSTANDING
        words = self._words
        with self._slots.held(session.slot):
            if not self._is_current(session):
                return
            if words[session.base + TALLY] >> 1 != session.incarnation:
                start = session.slot * SLOT + OUTSTANDING * 8
                self._slots.view[start : start + len(_NONE_OUTSTANDING)] = _NONE_OUTSTANDING
                words[session.base + TALLY] = session.incarnation << 1
            outstanding = words[first : first + OUTSTANDING_LIMIT].tolist()
            if digest in outstanding:
                return
            if 0 in outstanding:
                words[first + outstanding.index(0)] = digest
            else:
                words[session.base + TALLY] |= _OVERFLOW

    def answered(self, session: Session, digest: int) -> bool:
        """Take the client's answer to a request of the server.

        Returns:
            False if this incarnation did not ask that, or the answer came before: it must be dropped. Once
            more than 16 requests were outstanding, every answer passes until the next re-pin.

        Raises:
            LockBusyError: The slot is locked by another process.
        """
        digest = digest or 1
        first = session.base + OUTSTANDING
        words = self._words
        with self._slots.held(session.slot):
            tally = words[session.base + TALLY]
            if not self._is_current(session) or tally >> 1 != session.incarnation:
                return False
            outstanding = words[first : first + OUTSTANDING_LIMIT].tolist()
            if digest in outstanding:
                words[first + outstanding.index(digest)] = 0
                return True
            return bool(tally & _OVERFLOW)

    # Resumption of streams

    def delivered(self, session: Session) -> bool:
        """Whether this incarnation has delivered an SSE event with an id."""
        incarnation: int = self._words[session.base + DELIVERED]
        return incarnation == session.incarnation

    def set_delivered(self, session: Session) -> None:
        """Note that this incarnation has delivered an SSE event with an id."""
        at = session.base + DELIVERED
        # Never back to an older incarnation, whose last event may still be on its way through here.
        if self._words[at] < session.incarnation:
            self._words[at] = session.incarnation

    # Whether a decoded session is still what its slot holds

    def _lives(self, session: Session) -> bool:
        born: int = self._words[session.base + BORN]
        return born == session.born

    def _is_current(self, session: Session) -> bool:
        incarnation: int = self._words[session.base + INCARNATION]
        return incarnation == session.incarnation and self._lives(session)


def _deadline(word: int) -> int:
    """A lease's deadline in ns."""
    return (word >> _PROCESS_BITS) * _US


def clear_process(slots: Slots, slot: int, process: int) -> None:
    """Take the stream and the lease of a locked slot from a process that has been reaped."""
    at = slot * (SLOT // 8)
    stream, lease = slots.words[at + STREAM], slots.words[at + LEASE]
    if stream & _PROCESS == process:
        slots.words[at + STREAM] = stream >> _PROCESS_BITS << _PROCESS_BITS
    if lease & _PROCESS == process:
        slots.words[at + LEASE] = 0


def marked_for(slots: Slots, first: int, count: int, process: int) -> list[int]:
    """The slots among first..first+count whose stream or lease a process has."""
    streams = slots.column(STREAM, first, count)
    leases = slots.column(LEASE, first, count)
    return [
        first + index
        for index, (stream, lease) in enumerate(zip(streams, leases, strict=True))
        if process in (stream & _PROCESS, lease & _PROCESS)
    ]
