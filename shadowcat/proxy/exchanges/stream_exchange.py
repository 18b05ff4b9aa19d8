"""A session's GET: the stream on which its server speaks unasked, or the resumption of a broken one.

    found --take the stream--> go --> as every exchange of a session
               |               ^ |
    the one before lets go     | +-- 409: the server has not noticed yet that the one before is gone
               v               |     |
            waits -------------+ <---+

Whatever its state, it gives way to another stream, and to the end of its session.
"""

from __future__ import annotations

import asyncio
from functools import partial
from math import inf
from typing import Final

from shadowcat.errors import Refusal
from shadowcat.http1.response import Body
from shadowcat.proxy.exchanges.exchange_state import State
from shadowcat.proxy.exchanges.session_exchange import SessionExchange
from shadowcat.proxy.sessions.sessions import NANOSECONDS
from shadowcat.proxy.sessions.streams import SETTLE
from shadowcat.proxy.upstreams.response_heads import ResponseTemplate
from shadowcat.shm.locks import LockBusyError
from shadowcat.shm.sessions.table import Session

PAUSES: Final = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4)
"""Seconds until a GET that was answered with 409 is sent again."""
_CONFLICT: Final = 409
_LAST_EVENT_ID: Final = b"last-event-id"

_QUEUED: Final = State.QUEUED
_OPEN: Final = State.OPEN
_DONE: Final = State.DONE


class StreamExchange(SessionExchange):
    """One GET of a session."""

    __slots__ = ("_conflicts", "_is_woken", "_timer", "generation", "is_carried")

    generation: int
    """Under which it owns the session's stream; 0: it does not. This and the next belong to `Streams`."""
    is_carried: bool
    _conflicts: int
    """How often the upstream answered 409."""
    _is_woken: bool
    _timer: asyncio.TimerHandle | None
    """Set while it waits for another stream to let go."""

    def start(self) -> None:
        """Find the session, become its stream, and go."""
        self.generation = 0
        self.is_carried = False
        self._conflicts = 0
        self._timer = None
        super().start()

    def _go(self, session: Session) -> None:
        """The session is there. What was taken for an earlier form of it is left first."""
        streams = self.plane.streams
        streams.leave(self)
        self._is_woken = False
        self.session = session
        if self._resumes():
            streams.carry(self)
            super()._go(session)
            return
        try:
            pause = streams.take(self)
        except LockBusyError:
            self._wait_for_lock(partial(self._go, session))
            return
        self._patience = inf
        if not self.generation:
            self._find()
        elif pause:
            self._wait(pause)
        else:
            super()._go(session)

    def _resumes(self) -> bool:
        """Whether it goes on with a stream that broke off. An empty id names none.

        Until the GET stream of this incarnation has delivered an event id, the client's is of a server that
        has forgotten it: an error now, or, worse, the id of another event.
        """
        session = self.session
        if session.incarnation != session.born and not self.plane.sessions.table.delivered(session):
            self.template = self.template.without_resumption()
        return bool(self.template.field(_LAST_EVENT_ID, self.values))

    # Waiting for another stream to let go.

    def _wait(self, seconds: float) -> None:
        self._stop_waiting()
        self.state = _QUEUED
        self._connection = self._pool = None  # As long as it is in no queue.
        self._timer = self.plane.loop.call_later(seconds, self._go_on)

    def wake(self) -> None:
        """The stream before has let go: it is not to be waited for any more."""
        if self._timer is not None and not self._is_woken and not self._conflicts:
            self._is_woken = True
            self._wait(SETTLE)

    def _go_on(self) -> None:
        self._timer = None
        session = self.session
        if not self.plane.sessions.use(session, int(self.plane.clock() * NANOSECONDS)):
            self._find()
        elif self.generation and not self.plane.streams.owns(self):
            self._give_way(Refusal.STREAM_TAKEN)
        else:
            self.plane.sessions.pin(session)
            super()._go(session)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def answers_whole(self, status: int) -> bool:
        """Whether the usual answer can go to the client in one piece; 409 is for `open` to judge."""
        return status != _CONFLICT and super().answers_whole(status)

    def open(
        self, head: ResponseTemplate, values: tuple[bytes, ...], body: Body, length: int
    ) -> bytes | None:
        """The answer's head has arrived. A 409 is passed on only if it stays.

        It may mean a stream that another worker closed a moment ago, or that died with one, of which nothing
        is known here.
        """
        if head.status == _CONFLICT and self._conflicts < len(PAUSES):
            assert self._connection is not None
            self._connection.abandon()
            self._wait(PAUSES[self._conflicts])
            self._conflicts += 1
            return None
        return super().open(head, values, body, length)

    # Giving way.

    def look(self, session: Session | None) -> None:
        """Take note of what has become of the session: its stream may have to end."""
        if session is None:
            self._give_way(Refusal.SESSION_UNKNOWN)
        elif self.generation and not self.plane.streams.owns(self):
            self._give_way(Refusal.STREAM_TAKEN)
        else:
            super().look(session)

    def _give_way(self, refusal: Refusal) -> None:
        """End it now; `refusal` is for a client that has nothing of an answer yet."""
        if self.state is _DONE:
            return
        if self.state is _OPEN:
            self._close_stream()
            return
        if self.state is _QUEUED and self._pool is not None:
            self._pool.forget(self)
        self._give_up(refusal)

    def _close_stream(self) -> None:
        """In good order where it can be: the client is to open it anew, not to fail."""
        connection = self._connection
        assert connection is not None
        if self.event_stream and connection.at_boundary:
            connection.abandon()
            self.end(self.last_piece())
        else:
            super()._close_stream()

    def _done(self) -> None:
        """Leave the stream to the next one."""
        super()._done()
        self._stop_waiting()
        self.plane.streams.leave(self)
