"""One client connection: takes requests strictly in order, starts their exchanges, writes their answers."""

from __future__ import annotations

import asyncio
import socket
import struct
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from shadowcat.errors import Refusal
from shadowcat.mcp.envelope import Envelope, Kind, peek, request_id
from shadowcat.mcp.eras import Era
from shadowcat.policy.forwarded import is_loopback
from shadowcat.policy.inspect import inspect
from shadowcat.proxy.answers import CONTINUE, answer, preflight
from shadowcat.proxy.exchange import Exchange
from shadowcat.proxy.flow import HIGH_WATER, LOW_WATER
from shadowcat.proxy.observe import Observation
from shadowcat.proxy.request_reader import Broken, RequestReader, Stage
from shadowcat.proxy.route import Route
from shadowcat.proxy.template import RequestTemplate
from shadowcat.proxy.wheel import TICK, Timed

if TYPE_CHECKING:
    from shadowcat.proxy.plane import DataPlane

_PIPELINE_LIMIT: Final = 64 * 1024
"""Bytes that may arrive behind an unanswered request. Reading is never paused meanwhile, because uvloop
reports no end of file while it is, and a client that leaves must be noticed."""
_LINGER_TIME: Final = 2.0
"""Seconds and bytes for which a client may go on sending after its last answer."""
_LINGER_LIMIT: Final = 1024 * 1024
_DRAIN_GRACE: Final = 1.0
"""How long an idle connection may still send a request once the worker drains, in seconds: closing it at once
would lose a request that is on its way."""


class State(Enum):
    """What the connection is doing.

    READING -whole request-> ANSWERING -answer-> READING
    A last answer, own or relayed, leads to LINGERING, and that to CLOSED.
    """

    READING = "reading"
    ANSWERING = "answering"
    """A request is being answered; what arrives now belongs to the next one."""
    LINGERING = "lingering"
    """The last answer is out, what still arrives is discarded: closing at once would reset the connection
    and could destroy the answer (RFC 9112 section 9.6)."""
    CLOSED = "closed"


class _Refused(NamedTuple):
    """A request that is answered by the proxy itself."""

    refusal: Refusal
    template: RequestTemplate | None
    """The request's head; None if it could not be read."""
    body: bytes
    """From which the answer takes the id; empty if it is not whole."""
    detail: str = ""
    """What is special about this case."""
    values: tuple[bytes, ...] = ()
    """Those of the head's varying fields, as far as they are known."""
    envelope: Envelope | None = None
    exchange: Exchange | None = None
    """The exchange that failed; None if it had not begun."""


# An Enum member costs three look-ups; these run several times per request.
_READING: Final = State.READING
_ANSWERING: Final = State.ANSWERING
_LINGERING: Final = State.LINGERING
_CLOSED: Final = State.CLOSED
_IDLE: Final = Stage.IDLE
_INVALID: Final = Kind.INVALID
_BATCH: Final = Kind.BATCH


class ClientConnection(asyncio.Protocol, Timed):
    """Speaks HTTP/1.1 to one client."""

    __slots__ = (
        "_body_limit",
        "_discarded",
        "_exchange",
        "_half_closed",
        "_keepalive_timeout",
        "_meters",
        "_paused",
        "_plane",
        "_reader",
        "_requests_left",
        "_stage",
        "_state",
        "_transport",
        "_working",
        "address",
        "last_request",
    )

    _transport: asyncio.Transport
    _reader: RequestReader
    address: bytes
    """The client's IP address."""

    def __init__(self, plane: DataPlane) -> None:
        self.deadline = self.filed = inf
        self._plane = plane
        self._meters = plane.meters
        self._body_limit = int(plane.http.body_limit)
        self._keepalive_timeout = float(plane.http.keepalive_timeout)
        self._state = _READING
        self._stage = _IDLE
        """The reader's stage for which the deadline was set."""
        self._exchange: Exchange | None = None
        self._requests_left = plane.http.max_requests
        self.last_request = False
        """Whether the present request is the last one this connection may carry."""
        self._half_closed = False
        self._paused = False
        """The client's write buffer is full."""
        self._working = False
        self._discarded = 0

    # From the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The client has connected."""
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass.
        transport.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        peer = transport.get_extra_info("peername")
        own = transport.get_extra_info("sockname")
        address = str(peer[0]) if isinstance(peer, tuple) else "unknown"
        self.address = address.encode()
        heads = self._plane.heads_for(
            loopback=isinstance(own, tuple) and is_loopback(str(own[0])),
            trusted=self._plane.trusted_proxies.trusts(address),
        )
        self._reader = RequestReader(heads, self._plane.http)
        self._plane.connected(self)
        self._rest()

    def data_received(self, data: bytes) -> None:
        """The client has sent bytes."""
        self._meters.client_received += len(data)
        state = self._state
        reader = self._reader
        if state is _READING:
            if reader.buffer:
                reader.buffer += data
            else:
                if reader.stage is _IDLE and not self._paused:
                    # The short way, for a request like the one before that came in one read.
                    last = reader.recall
                    if last.match(data) and len(data) - last.end == last.length <= self._body_limit:
                        self._begin(last.verdict, last.values, data[last.end :])
                        return
                reader.buffer = data
            self._work()
        elif state is _ANSWERING:
            reader.buffer += data
            if len(reader.buffer) > _PIPELINE_LIMIT:
                self._lose()
        elif state is _LINGERING:
            self._discarded += len(data)
            if self._discarded > _LINGER_LIMIT:
                self._lose()

    def eof_received(self) -> bool:
        """The client will send no more. Returns whether the connection stays open for an answer."""
        exchange = self._exchange
        if exchange is None or exchange.cancelled_by_disconnect:
            # Without an exchange nothing is owed: an unfinished request is not answered.
            return False
        self._half_closed = self.last_request = True
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, whoever ended it."""
        self._plane.disconnected(self)
        self._state = _CLOSED
        self.deadline = inf
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_left()

    def pause_writing(self) -> None:
        """The client is slower than its upstream."""
        self._paused = True
        if self._exchange is not None:
            self._exchange.pause()
        self._plane.wheel.set(self, self._plane.clock() + self._plane.http.write_timeout)

    def resume_writing(self) -> None:
        """The client caught up."""
        self._paused = False
        if self._exchange is not None:
            self.deadline = inf
            self._exchange.resume()
        elif self._state is _READING:
            self._rest()

    def on_deadline(self, now: float) -> None:
        """The client is too slow, or idle for too long."""
        if self._state is not _READING or self._paused:
            self._lose()  # It has taken nothing of its answer for too long, or lingers.
        elif self._reader.stage is Stage.HEAD:
            self._break_off(self._reader.broken(Refusal.HEAD_TIMEOUT))
        elif self._reader.stage is Stage.BODY:
            self._break_off(self._reader.broken(Refusal.BODY_TIMEOUT))
        else:
            self._close()

    # Requests.

    def _work(self) -> None:
        """Take as many requests from the buffer as can be answered now."""
        reader = self._reader
        self._working = True
        while self._state is _READING and reader.buffer and not self._paused:
            result = reader.next()
            if result is None:
                self._wait_for_more()
                break
            if isinstance(result, Broken):
                self._break_off(result)
            else:
                self._begin(result.template, result.values, result.body)
        self._working = False

    def _wait_for_more(self) -> None:
        """A part of a request is here: the rest has to come in time.

        Absolute from the part's first byte: a byte now and then must not buy more time.
        """
        stage = self._reader.stage
        if stage is self._stage:
            return
        self._stage = stage
        http = self._plane.http
        timeout = http.body_timeout if stage is Stage.BODY else http.head_timeout
        self._plane.wheel.set(self, self._plane.clock() + timeout)
        if self._reader.wants_continue:
            self.write(CONTINUE)

    def _begin(self, template: RequestTemplate, values: tuple[bytes, ...], body: bytes) -> None:
        """A request is complete: start its exchange, or refuse it and go on."""
        self._requests_left -= 1
        if self._requests_left <= 0:
            self.last_request = True
        self._stage = _IDLE
        route = template.route
        if template.refusal is not None or route is None:
            refusal = template.refusal or Refusal.NO_ROUTE
            self._refuse(_Refused(refusal, template, body, values=values))
            return
        envelope = None
        if template.is_post:
            envelope = peek(body)
            kind = envelope.kind
            if kind is _INVALID or kind is _BATCH or template.is_modern:
                objection = inspect(envelope, template.era, template.mirrored(values))
            else:
                objection = None
            if objection is not None:
                refusal, detail = objection.refusal, objection.detail
                self._refuse(_Refused(refusal, template, body, detail, values, envelope))
                return
        elif template.preflight is not None:
            self._answer_preflight(template, route, template.preflight, values)
            return
        self._state = _ANSWERING
        self.deadline = inf
        plane = self._plane
        exchange = self._exchange = plane.new_exchange(plane, self, template, route, values, body, envelope)
        exchange.start()

    # From the exchange.

    def write(self, data: bytes) -> None:
        """Send bytes of an answer."""
        self._meters.client_sent += len(data)
        self._transport.write(data)

    def exchange_ended(self, *, close: bool) -> None:
        """The answer is complete."""
        self._exchange = None
        if close or self._half_closed:
            self._finish()
        else:
            self._next()

    def refuse_exchange(self, exchange: Exchange, refusal: Refusal, detail: str) -> None:
        """The exchange could not be carried out; nothing of an answer was sent."""
        self._exchange = None
        template, values, envelope = exchange.template, exchange.values, exchange.envelope
        self._answer(_Refused(refusal, template, exchange.body, detail, values, envelope, exchange))

    def cut_off(self, *, reset: bool) -> None:
        """The answer broke off. `reset` where a clean end would read as the end of the answer."""
        self._exchange = None
        if reset:
            self._lose()
        else:
            self._close()

    # From the plane.

    def drain(self) -> None:
        """The worker is about to stop: answer what was asked, then close."""
        if self._exchange is not None:
            self._exchange.end_stream()
        elif self._state is _READING and self._reader.stage is _IDLE:
            self._rest()

    def forget_head(self) -> None:
        """Some time has passed: an idle connection keeps no token."""
        self._reader.forget()

    def abort(self) -> None:
        """The worker stops now."""
        self._transport.abort()

    # Ends.

    def _next(self) -> None:
        """Make ready for the next request, which may already be in the buffer."""
        self._state = _READING
        if not self._paused:
            self._rest()

    def _rest(self) -> None:
        plane = self._plane
        wheel = plane.wheel
        self.deadline = deadline = (
            wheel.now + TICK + (_DRAIN_GRACE if plane.draining else self._keepalive_timeout)
        )
        if deadline < self.filed:
            wheel.file(self)
        if self._reader.buffer and not self._working:
            self._work()

    def _break_off(self, broken: Broken) -> None:
        """Refuse what was not read to its end: where the next request begins is not known."""
        self._refuse(_Refused(broken.refusal, broken.template, b""), close=True)

    def _answer_preflight(
        self, template: RequestTemplate, route: Route, fields: bytes, values: tuple[bytes, ...]
    ) -> None:
        """Tell a browser, or whoever asks, what may be sent here: no upstream and no credential is needed."""
        self._plane.cells[route.meters.statuses + 204] += 1
        close = not template.keep_alive or self._plane.draining or self.last_request
        text = preflight(template.cors + fields if template.cors else b"", close=close)
        self.write(text)
        if self._plane.observers:
            self._tell(template, values, sent=len(text))
        if close:
            self._finish()
        else:
            self._next()

    def _refuse(self, refused: _Refused, *, close: bool = False) -> None:
        """Refuse a request for which there is no exchange."""
        template = refused.template
        if template is not None and template.route is not None:
            self._plane.cells[template.route.meters.statuses + refused.refusal.status] += 1
        self._answer(refused, close=close)

    def _answer(self, refused: _Refused, *, close: bool = False) -> None:
        """Write an answer of the proxy's own. `close` ends the connection even if the refusal does not."""
        refusal, template, body, detail, values, _, _ = refused
        plane = self._plane
        plane.cells[self._meters.refusals[refusal]] += 1
        close = close or refusal.close or template is None or not template.keep_alive
        close = close or plane.draining or self.last_request
        text = answer(
            refusal,
            template.era if template else Era.LEGACY,
            request_id(body),
            detail=detail,
            fields=template.cors if template else b"",
            close=close,
            head=template is not None and template.method == b"HEAD",
        )
        self.write(text)
        if plane.observers:
            self._tell(template, values, sent=len(text), refused=refused)
        if close:
            self._finish()
        else:
            self._next()

    def _tell(
        self,
        template: RequestTemplate | None,
        values: tuple[bytes, ...],
        *,
        sent: int,
        refused: _Refused | None = None,
    ) -> None:
        """Tell the observers of an answer of the proxy's own; without a refusal it was a preflight's."""
        now = self._plane.clock()
        exchange = refused.exchange if refused is not None else None
        started = exchange.started if exchange is not None else now
        self._plane.observe(
            Observation(
                client=self.name(template),
                template=template,
                values=values,
                envelope=refused.envelope if refused is not None else None,
                upstream=exchange.upstream if exchange is not None else None,
                status=refused.refusal.status if refused is not None else 204,
                refusal=refused.refusal if refused is not None else None,
                complete=True,
                started=started,
                seconds=now - started,
                received=len(refused.body) if refused is not None else 0,
                sent=sent,
                span=exchange.span if exchange is not None else None,
            )
        )

    def name(self, template: RequestTemplate | None) -> str:
        """The client's address, seen through trusted proxies."""
        peer = self.address.decode()
        return self._plane.trusted_proxies.client_of(peer, template.chain) if template else peer

    def _finish(self) -> None:
        """The last answer is written: close without destroying it."""
        if self._half_closed:
            self._close()
        elif not self._transport.is_closing():
            self._state = _LINGERING
            self._transport.write_eof()
            self._plane.wheel.set(self, self._plane.clock() + _LINGER_TIME)

    def _close(self) -> None:
        self._state = _CLOSED
        self._transport.close()

    def _lose(self) -> None:
        """Cut the connection so that the client notices."""
        self._state = _CLOSED
        raw = self._transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()
