"""Exchanges of the legacy era: within a session, and outside of one.

start --find--> _go --> as every exchange, but to the session's own upstream
          |
          +-- unknown, expired, another route's: 404; wrong version: 400
          +-- its lock is held: again from a 1 ms timer, 503 after 50 ms

    upstream answers 404 --> judged --> held until the session is back, then sent once more (`Recoveries`)
    it refuses connections -->  |  +--> tried again for some seconds, then judged anew (`Redial`)
                                +--> 404: the session is over; 202: a notification that nobody needs
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from http import HTTPStatus
from math import inf
from typing import TYPE_CHECKING, Any, Final, cast

from shadowcat.errors import Refusal
from shadowcat.http1.response import Body, parse_response_head
from shadowcat.mcp.envelope import Envelope, Kind
from shadowcat.mcp.eras import VERSIONS, Era
from shadowcat.policy.sessions import Event, Loss, Trouble, Verdict, what_now
from shadowcat.policy.waits import Waits
from shadowcat.proxy.clients.denial import Denial
from shadowcat.proxy.exchanges.awaited import await_again, take_awaited
from shadowcat.proxy.exchanges.exchange import Exchange
from shadowcat.proxy.exchanges.exchange_state import State
from shadowcat.proxy.exchanges.gate import Gate
from shadowcat.proxy.exchanges.lock_exchange import LockExchange
from shadowcat.proxy.exchanges.plight import Plight
from shadowcat.proxy.exchanges.remember import INITIALIZED_NOTE, NOTED, WITH_RESULT, remember
from shadowcat.proxy.sessions.sessions import NANOSECONDS, Pin
from shadowcat.proxy.upstreams.balancer import Purpose
from shadowcat.proxy.upstreams.response_heads import ResponseTemplate
from shadowcat.shm.locks import LockBusyError
from shadowcat.shm.sessions.record import SessionState

if TYPE_CHECKING:
    from shadowcat.proxy.clients.downstream import ClientConnection
    from shadowcat.proxy.upstreams.pool import Pool
    from shadowcat.proxy.upstreams.upstream import UpstreamConnection
    from shadowcat.shm.sessions.table import Session

_ACCEPTED: Final = ResponseTemplate(
    parse_response_head(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")[0], []
)
_QUEUED: Final = State.QUEUED
_SENT: Final = State.SENT
_OPEN: Final = State.OPEN
_DONE: Final = State.DONE
_answers_whole: Final = Exchange.answers_whole


class UnboundExchange(Exchange):
    """A legacy request without a session id that does not open a session."""

    __slots__ = ()

    _purpose = Purpose.LEGACY

    def start(self) -> None:
        """Choose an upstream and go, if one may take it."""
        version = self.template.version
        # A version that is of no session makes no request of a session: the upstream names those it knows.
        if self._route.needs_session and (version is None or VERSIONS.get(version) is Era.LEGACY):
            self._refuse(Refusal.SESSION_MISSING, "")
        else:
            super().start()


class SessionExchange(LockExchange):
    """A request of a session: it goes to the session's upstream and to no other."""

    __slots__ = ("_is_checked", "_pin", "_plight", "session", "session_line", "watch")
    _pin: Pin
    session: Session
    """Known once there is a pool."""

    def start(self) -> None:
        """Find the session and go."""
        self._patience = inf
        self._plight: Plight | None = None
        self._is_checked = False
        self.session_line = b""
        self.watch = None
        session = self.template.session
        use = self.plane.sessions.use  # `sessions.use()` would look for a method first.
        if session is not None and use(session, int(self.started * NANOSECONDS)):
            self._go(session)
        else:
            self._find()

    def _find(self) -> None:
        """Look the session up anew: it is new to this worker, or has changed."""
        plane = self.plane
        try:
            found = plane.sessions.find(self.template, self._route, int(plane.clock() * NANOSECONDS))
        except LockBusyError:
            self._wait_for_lock(self._find)
            return
        self._patience = inf
        if isinstance(found, Refusal):
            self._refuse(found, "")
        else:
            self._go(found)

    def _go(self, session: Session) -> None:
        """The session is there, and may be used."""
        self.session = session
        pin: Any = session.note  # `find` has seen to it.
        self._pin = pin
        self.session_line = pin.line
        if pin.is_watched and not self._may_answer():
            return
        self._pool = pool = pin.pool
        pool.acquire(self)

    def _try_next(self) -> None:
        """Only the same upstream knows the session; over a connection that cannot be stale."""
        assert self._pool is not None
        self._tried += 1
        self._pool.acquire(self, fresh=True)

    def send(self, connection: UpstreamConnection) -> bytes:
        """The request's bytes for `connection`, which now serves this exchange."""
        self.state = _SENT
        self._connection = connection
        pin = self._pin
        pool = pin.pool
        client = self._client
        assert client is not None
        return self.template.render_pinned(
            pool.origin, client.address, self.body, self.values, pin.upstream_id
        )

    def answers_whole(self, status: int) -> bool:
        """Whether the usual answer can go to the client in one piece, as nothing in it is of interest."""
        envelope = self.envelope
        if self._pin.is_watched or (envelope is not None and envelope.method in NOTED):
            return False
        return _answers_whole(self, status)  # `super` takes three times as long.

    def open(
        self, head: ResponseTemplate, values: tuple[bytes, ...], body: Body, length: int
    ) -> bytes | None:
        """The answer's head has arrived. 404 means that the upstream has lost the session."""
        client = self._client
        if client is None:
            return super().open(head, values, body, length)
        if head.status == HTTPStatus.NOT_FOUND:
            try:
                verdict, _ = self._judge(Loss.NOT_FOUND)
            except LockBusyError:
                self._hold_back()
                return None
            if verdict is not Verdict.PASS:
                connection = self._connection
                assert connection is not None
                connection.abandon()
                self._lost(Loss.NOT_FOUND)
                return None
        elif 200 <= head.status < 300:
            method = self.envelope.method if self.envelope is not None else None
            succeeded = None
            if method in WITH_RESULT:
                succeeded = partial(self._remember, method)
            elif method in NOTED:
                self._remember(method)
            if succeeded is not None or not self._pin.is_plain:
                self._watch(client, head, succeeded)
        return super().open(head, values, body, length)

    def _remember(self, method: str) -> None:
        remember(self.plane.sessions, self.session, method, self.body)

    def _watch(
        self, client: ClientConnection, head: ResponseTemplate, succeeded: Callable[[], None] | None
    ) -> None:
        """See what passes, if any of it is of interest."""
        notes_requests = self._pin.is_watched
        # Those of calls' streams do not count: until the GET stream has delivered one, its client knows only
        # older ones, which may be of other events by now.
        notes_ids = self.template.method == b"GET" and not self.plane.sessions.table.delivered(self.session)
        if succeeded is None and not notes_requests and not notes_ids:
            return
        gate = Gate(
            self.plane,
            client,
            self.session,
            is_stream=head.event_stream,
            notes_requests=notes_requests,
            notes_ids=notes_ids,
            succeeded=succeeded,
            break_off=self._break_off,
        )
        self.watch = gate
        self._client = cast("ClientConnection", gate)

    def client_left(self) -> None:
        """The client closed or lost its connection."""
        if isinstance(self.watch, Gate):
            self.watch.client_left()
        if self.state is _DONE:
            return  # Only the end of the answer was still held.
        self._await_again()
        super().client_left()

    def deny(self, denial: Denial) -> None:
        """End it before the client has got anything."""
        self._await_again()
        super().deny(denial)

    # Answers of the client to what the server asked.

    def _may_answer(self) -> bool:
        """Whether the message may go, as far as it answers what was asked in this incarnation."""
        envelope = self.envelope
        if envelope is None or envelope.kind is not Kind.RESPONSE:
            return True
        try:
            (is_awaited,) = self._take_awaited([envelope])
        except LockBusyError:
            self._wait_for_lock(partial(self._go, self.session))
            return False
        self._patience = inf
        if not is_awaited:
            self._accept(self._route.meters.answers_dropped)
        return is_awaited

    def _take_awaited(self, answers: Sequence[Envelope]) -> list[bool]:
        """Which of these answers are awaited; from now on they are not.

        Raises:
            LockBusyError: Some of them may have been taken: call it again.
        """
        self._plight = plight = self._plight or Plight()
        return take_awaited(self.plane.sessions, self.session, answers, plight)

    def _await_again(self) -> None:
        """The message was not sent: the client may try again."""
        if self.state is _QUEUED and self._plight is not None:
            await_again(self.plane.sessions, self.session, self._plight)

    def _accept(self, counter: int) -> None:
        """Take a message that nobody will get."""
        if self._plight is not None:
            self._plight.awaited.clear()
        self.plane.cells[counter] += 1
        opening = Exchange.open(self, _ACCEPTED, (), Body.LENGTH, 0)
        self.end(opening or b"")

    # The session is gone.

    @property
    def _has_choice(self) -> bool:
        return False

    @property
    def _kind(self) -> Kind | None:
        return self.envelope.kind if self.envelope is not None else None

    @property
    def refused_at(self) -> float:  # type: ignore[override]
        """When the upstream first refused a connection for this request; infinite if it did not."""
        return self._plight.refused_at if self._plight is not None else inf

    def successors(self, home: Pool) -> Iterator[Pool]:
        """Who may have the session if its upstream, `home`, has lost it, in the order they are asked."""
        return self._route.balancer.successors(home)

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        """Its end-to-end fields."""
        client = self._client
        assert client is not None
        return self.template.end_to_end(self.values, client.address)

    def no_connection(self, refusal: Refusal, detail: str) -> None:
        """There is no connection to the session's upstream, which may only be restarting."""
        if refusal is Refusal.CONNECT_FAILED:
            plight = self._plight = self._plight or Plight()
            plight.refused_at = min(plight.refused_at, self.plane.clock())
            self.plane.recoveries.refused(self, self._pin.pool)
            self._lost(Loss.REFUSED)
        else:
            super().no_connection(refusal, detail)

    def no_answer(self, refusal: Refusal) -> None:
        """There is no answer. A retry that was reset, too, fell upon a server that is just dying: it is sent
        again when that one is dead.
        """
        plight = self._plight = self._plight or Plight()
        if (
            refusal is Refusal.RESET
            and self._repeated  # And so may be.
            and not plight.was_reset
            and self._client is not None
            and self._route.retries.take()
        ):
            plight.was_reset = True
            plight.refused_at = min(plight.refused_at, self.plane.clock())
            self._lost(Loss.REFUSED)
        else:
            super().no_answer(refusal)

    @property
    def has_no_hope(self) -> bool:
        """Whether the upstream need not be tried again."""
        return self._route.balancer.is_down(self._pin.pool)

    def refused_for_long(self) -> None:
        """The upstream has refused for as long as it is tried, or is known to be down."""
        self._lost(Loss.REFUSED)

    def try_again(self) -> None:
        """Try the upstream, which has refused, once more."""
        self._renew_waits()
        self._pool = self._pin.pool
        self._pool.acquire(self, fresh=True)

    def resend(self, session: Session) -> None:
        """The session is back: send the request to where it is now."""
        plight = self._plight = self._plight or Plight()
        plight.is_resent = True
        plight.refused_at = self._patience = inf
        self._renew_waits()
        self.plane.sessions.pin(session)
        self._go(session)

    def refuse(self, refusal: Refusal) -> None:
        """Give up what is held."""
        self._pool = self._pin.pool  # For the log.
        self._refuse(refusal, "")

    def _renew_waits(self) -> None:
        """Its upstream has all the time that it would have had without the delay."""
        delay = self.plane.clock() - self.started
        waits = self._route.waits(self.template.method, self.envelope)
        self.waits = Waits(waits.first_byte + delay, waits.answer + delay)

    def _judge(self, loss: Loss) -> tuple[Verdict, Session | None]:
        """What becomes of the request; the session in its present form.

        Raises:
            LockBusyError: The session is being written.
        """
        plane = self.plane
        table = plane.sessions.table
        now = plane.clock()
        now_ns = int(now * NANOSECONDS)
        present = table.find(self.session.id, now_ns)
        session = present or self.session
        waited = max(now - self.refused_at, 0.0) if loss is Loss.REFUSED else 0.0
        is_resent = self._plight is not None and self._plight.is_resent
        verdict = what_now(
            Trouble(self.template.method, self._kind, loss, waited, is_resent, self.has_no_hope),
            plane.recoveries.section,
            is_recoverable=session.record.recoverable and bool(table.params(session)),
            recoveries=session.record.recoveries,
            now_ns=now_ns,
        )
        if verdict is Verdict.RECOVER and session.record.state is SessionState.OPENING:
            verdict = Verdict.PASS  # What is not open yet is not lost.
        return verdict, present

    def _lost(self, loss: Loss) -> None:
        """The upstream has not run the request: hold it, send it, or answer it, as the policy says."""
        self.state = _QUEUED
        self.deadline = inf
        self._connection = self._pool = None  # As long as it is in no queue.
        try:
            self._bear(loss)
        except LockBusyError:
            self._wait_for_lock(partial(self._lost, loss))

    def _bear(self, loss: Loss) -> None:
        verdict, present = self._judge(loss)
        recoveries = self.plane.recoveries
        if present is None:
            self.refuse(Refusal.SESSION_UNKNOWN)
        elif present.incarnation != self.session.incarnation:
            # Somebody was faster.
            if self._kind in (Kind.NOTIFICATION, Kind.RESPONSE):
                self._drop()
            elif self._plight is not None and self._plight.is_resent:
                self.refuse(Refusal.SESSION_RECOVERING)
            else:
                self.resend(present)
        elif verdict is Verdict.RETRY_SAME:
            recoveries.redial(self, self._pin.pool)
        elif verdict is Verdict.RECOVER:
            recoveries.hold(self, present, loss)
        elif verdict is Verdict.DROP:
            self._drop()
        elif verdict is Verdict.EXPIRE:
            self.plane.sessions.happened(present, Event.LOST)
            if self.template.method != b"DELETE":
                recoveries.expired(present)
            self.refuse(Refusal.SESSION_UNKNOWN)
        else:
            self.refuse(Refusal.CONNECT_FAILED)

    def _drop(self) -> None:
        """A notification or an answer for a server that has forgotten what it is about."""
        if self.envelope is not None and self.envelope.method == INITIALIZED_NOTE:
            self._remember(INITIALIZED_NOTE)  # The next server is to hear of it.
        self._accept(self._route.meters.notifications_dropped)

    def touch(self, now_ns: int) -> None:
        """The session is not idle."""
        if self._pool is not None:
            self.look(self.plane.sessions.touch(self.session, now_ns))

    def look(self, session: Session | None) -> None:
        """Take note of what has become of the session; None: it is over, as its upstream knows."""
        if session is None:
            return
        if session.incarnation == self.session.incarnation:
            self.session = session
        else:
            self.close_older(session.incarnation)

    def close_older(self, incarnation: int) -> None:
        """The session has a new incarnation: a client's stream of an older one ends.

        What the server asks on it nobody awaits an answer for any more. Without a stream the answer may come.
        """
        if (
            self.session.incarnation < incarnation
            and self.state is _OPEN
            and self.event_stream
            and self._client is not None
        ):
            self._close_stream()

    def _close_stream(self) -> None:
        """End a stream that is open."""
        self._break_off()

    def _break_off(self) -> None:
        """Cut off an answer that is open."""
        assert self._connection is not None
        self._connection.abandon()
        self.cut_off()
