"""The GET streams of sessions that a worker carries, and its part in what the workers agree on about them.

A session has one stream, as its server has (SDK servers answer a second GET with 409). Who carries it is
said by a word in the session's slot, process and generation:

    B: GET, word from A to B --END_STREAM--> A: closes upstream, ends its client's stream --WAKE--> B: goes on

B goes on without WAKE after `PATIENCE`: a ring may be full, and A may have died. And after `SETTLE` with it.

A resumption (a GET with Last-Event-ID) stands beside it and never owns the word. Event ids are opaque, and
what a resumption goes on with is a call's stream as a rule: were it the owner where there is none, the next
plain GET would break off the answer to that call.

What mail says is a hint: every exchange looks at its slot once a second (`SessionExchange.touch`).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from shadowcat.shm.mailboxes import Mail, Mailboxes
from shadowcat.shm.shared import worker_number

if TYPE_CHECKING:
    from shadowcat.proxy.exchanges.stream_exchange import StreamExchange
    from shadowcat.proxy.plane import DataPlane


PATIENCE: Final = 0.5
"""Seconds for which a worker that is asked to let go of a stream may do so."""
SETTLE: Final = 0.02
"""Seconds from the close of a stream to the GET that follows. SDK servers need some turns of their loop to
notice a close, and two GETs that overtake each other there leave a stream that is open and never speaks."""


class Streams:
    """What a worker carries, by the slot of the session."""

    __slots__ = ("_carried", "_mail", "_others", "_plane", "_process")

    def __init__(self, plane: DataPlane, mail: Mailboxes, process: int, processes: int) -> None:
        """`processes` is how many process numbers there are; `process` is the worker's own."""
        self._plane = plane
        self._mail = mail
        self._process = process
        self._others = [number for number in range(worker_number(0), processes) if number != process]
        self._carried: dict[int, list[StreamExchange]] = {}

    # For the exchanges.

    def take(self, exchange: StreamExchange) -> float:
        """Make an exchange the owner of its session's stream, and ask the owner before to let go.

        Its generation stays 0 if the session is not what the exchange found any more.

        Returns:
            Seconds to wait before the GET is sent; `wake` may shorten them.

        Raises:
            LockBusyError: Nothing was done.
        """
        session = exchange.session
        previous, _, generation = self._plane.sessions.table.take_stream(session, self._process)
        exchange.generation = generation
        if not generation:
            return 0.0
        for other in self._at(session.slot):
            other.look(session)
        self.carry(exchange)
        if previous in self._others:
            self._mail.send(self._process, previous, Mail.END_STREAM, session.slot)
            return PATIENCE
        return SETTLE if previous else 0.0

    def carry(self, exchange: StreamExchange) -> None:
        """Know of an exchange from now on, until it leaves."""
        exchange.is_carried = True
        self._carried.setdefault(exchange.session.slot, []).append(exchange)

    def leave(self, exchange: StreamExchange) -> None:
        """An exchange is over, or begins anew; does nothing if it is not known."""
        if not exchange.is_carried:
            return
        exchange.is_carried = False
        session, generation = exchange.session, exchange.generation
        carried = self._carried[session.slot]
        carried.remove(exchange)
        if not carried:
            del self._carried[session.slot]
        if generation:
            exchange.generation = 0
            sessions = self._plane.sessions
            sessions.persist(partial(sessions.table.leave_stream, session, self._process, generation))

    def owns(self, exchange: StreamExchange) -> bool:
        """Whether an exchange still is the owner."""
        owner = self._plane.sessions.table.stream(exchange.session)
        return owner == (self._process, exchange.generation)

    # What comes by mail.

    def end_stream(self, slot: int) -> None:
        """Something happened to the session in a slot: close what must not stay open."""
        self._plane.sessions.persist(partial(self._look, slot))

    def _look(self, slot: int) -> None:
        table = self._plane.sessions.table
        session = table.at(slot)
        for exchange in self._at(slot):
            exchange.look(session)
        if session is None:
            return
        if session.incarnation != session.born:
            self._plane.look_soon()
        # Whoever has taken over waits for this, even if there was nothing to close.
        owner, _ = table.stream(session)
        if owner in self._others:
            self._mail.send(self._process, owner, Mail.WAKE, slot)

    def wake(self, slot: int) -> None:
        """A stream of the session in a slot has let go."""
        for exchange in self._at(slot):
            exchange.wake()

    # For whoever ends or re-pins sessions.

    def close_session(self, slot: int) -> None:
        """The session that was in a slot is over: its streams end, in all workers."""
        for exchange in self._at(slot):
            exchange.look(None)
        self._tell_others(slot)

    def close_older(self, slot: int, incarnation: int) -> None:
        """The session in a slot has a new incarnation: streams of older ones end, in all workers.

        Those of GET end at once. Those of POST, of which no account is kept, end on the next tick.
        """
        for exchange in self._at(slot):
            exchange.close_older(incarnation)
        self._plane.look_soon()
        self._tell_others(slot)

    def _tell_others(self, slot: int) -> None:
        for other in self._others:
            self._mail.send(self._process, other, Mail.END_STREAM, slot)

    def _at(self, slot: int) -> tuple[StreamExchange, ...]:
        return tuple(self._carried.get(slot, ()))
