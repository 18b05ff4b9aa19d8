"""One client connection: reads requests strictly in order, starts their exchanges, writes their answers."""

from __future__ import annotations

import asyncio
import socket
import struct
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Final, cast

from shadowcat.errors import Refusal
from shadowcat.http1.chunks import ChunkError, ChunkReader
from shadowcat.mcp.envelope import peek, request_id
from shadowcat.mcp.eras import Era
from shadowcat.proxy.answers import CONTINUE, answer
from shadowcat.proxy.exchange import Exchange
from shadowcat.proxy.flow import HIGH_WATER, LOW_WATER
from shadowcat.proxy.template import RequestTemplate
from shadowcat.proxy.wheel import Timed

if TYPE_CHECKING:
    from shadowcat.proxy.plane import DataPlane

_PIPELINE_LIMIT: Final = 64 * 1024
"""Bytes that may arrive behind an unanswered request. Reading is never paused meanwhile, because uvloop
reports no end of file while it is, and a client that leaves must be noticed."""
_LINGER: Final = 2.0
"""Seconds and bytes for which a client may go on sending after its last answer."""
_LINGER_LIMIT: Final = 1024 * 1024
_LONGEST_METHOD_AND_VERSION: Final = 32
_DRAIN_GRACE: Final = 1.0
"""How long an idle connection may still send a request once the worker drains, in seconds: closing it at once
would lose a request that is on its way."""


class State(Enum):
    """What the next bytes are.

    IDLE -first byte-> HEAD -whole head-> BODY -whole body-> EXCHANGE -answer-> IDLE
    What arrived in one piece skips the states between. A last answer, own or relayed -> LINGER -> CLOSED.
    """

    IDLE = "idle"
    """Nothing of a request is here."""
    HEAD = "head"
    """A part of a head is here."""
    BODY = "body"
    EXCHANGE = "exchange"
    """A request is being answered; what arrives now belongs to the next one."""
    LINGER = "linger"
    """The last answer is out, what still arrives is discarded: closing at once would reset the connection
    and could destroy the answer (RFC 9112 section 9.6)."""
    CLOSED = "closed"


_BEFORE_BODY: Final = frozenset({State.IDLE, State.HEAD})


class ClientConnection(asyncio.Protocol, Timed):
    """Speaks HTTP/1.1 to one client."""

    __slots__ = (
        "_body",
        "_body_length",
        "_buffer",
        "_chunks",
        "_discarded",
        "_exchange",
        "_half_closed",
        "_paused",
        "_plane",
        "_requests",
        "_state",
        "_template",
        "_transport",
        "_working",
        "address",
    )

    _transport: asyncio.Transport
    address: bytes
    """The client's IP address."""

    def __init__(self, plane: DataPlane) -> None:
        self.deadline = self.filed = inf
        self._plane = plane
        self._state = State.IDLE
        self._buffer = b""
        self._template: RequestTemplate | None = None
        self._body: list[bytes] = []
        self._body_length = 0
        self._chunks: ChunkReader | None = None
        self._exchange: Exchange | None = None
        self._requests = 0
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
        self.address = str(peer[0]).encode() if isinstance(peer, tuple) else b"unknown"
        self._plane.connected(self)
        self._plane.wheel.set(self, self._plane.loop.time() + self._plane.http.keepalive_timeout)

    def data_received(self, data: bytes) -> None:
        """The client has sent bytes."""
        plane = self._plane
        plane.cells[plane.meters.client_received] += len(data)
        state = self._state
        if state is State.LINGER:
            self._discarded += len(data)
            if self._discarded > _LINGER_LIMIT:
                self._lose()
            return
        self._buffer = self._buffer + data if self._buffer else data
        if state is not State.EXCHANGE:
            self._work()
        elif len(self._buffer) > _PIPELINE_LIMIT:
            self._lose()

    def eof_received(self) -> bool:
        """The client will send no more. Returns whether the connection stays open for an answer."""
        exchange = self._exchange
        if exchange is None or exchange.cancelled_by_disconnect:
            # Without an exchange nothing is owed: an unfinished request is not answered.
            return False
        self._half_closed = True
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, whoever ended it."""
        self._plane.disconnected(self)
        self._state = State.CLOSED
        self.deadline = inf
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_left()

    def pause_writing(self) -> None:
        """The client is slower than its upstream."""
        self._paused = True
        if self._exchange is not None:
            self._exchange.pause()
        self._plane.wheel.set(self, self._plane.loop.time() + self._plane.http.write_timeout)

    def resume_writing(self) -> None:
        """The client caught up."""
        self._paused = False
        if self._exchange is not None:
            self.deadline = inf
            self._exchange.resume()
        elif self._state is State.IDLE:
            self._rest()

    def on_deadline(self, now: float) -> None:
        """The client is too slow, or idle for too long."""
        if self._state is State.IDLE and not self._paused:
            self._close()
        elif self._state is State.HEAD:
            self._break_off(Refusal.HEAD_TIMEOUT)
        elif self._state is State.BODY:
            self._break_off(Refusal.BODY_TIMEOUT)
        else:
            self._lose()  # It has taken nothing of its answer for too long, or lingers.

    # Requests.

    def _work(self) -> None:
        """Take as many requests from the buffer as can be answered now."""
        self._working = True
        while self._buffer:
            if self._state is State.BODY:
                self._take_body()
            elif self._state not in _BEFORE_BODY or self._paused or not self._take_head():
                break
        self._working = False

    def _take_head(self) -> bool:
        """Read one head from the buffer; false if it is not complete yet."""
        plane = self._plane
        data = self._buffer
        # One empty line before a request line is tolerated (RFC 9112 section 2.2).
        start = 2 if data.startswith(b"\r\n") else 0
        end = data.find(b"\r\n\r\n", start, start + plane.limits.head) + 4
        if end < 4:
            self._await_head(data[start:])
            return False
        template, length = plane.read_head(data[start:end])
        self._buffer = data[end:]
        if isinstance(template, Refusal):
            self._break_off(template)
            return True
        self._template = template
        self._requests += 1
        if length > plane.http.body_limit:
            self._break_off(Refusal.BODY_TOO_LARGE)
        elif template.head.chunked:
            self._chunks = ChunkReader(decode=True)
            self._await_body(0)
        elif len(self._buffer) >= length:
            body = self._buffer[:length]
            self._buffer = self._buffer[length:]
            self._begin(template, body)
        elif template.refusal is not None:
            self._break_off(template.refusal)
        else:
            self._await_body(length)
        return True

    def _await_head(self, data: bytes) -> None:
        """Check as much as there is of a head, and wait for the rest."""
        plane = self._plane
        line_end = data.find(b"\n")
        if line_end == 0 or (line_end > 0 and data[line_end - 1 : line_end] != b"\r"):
            self._break_off(Refusal.BAD_REQUEST_LINE)
        elif line_end < 0 and len(data) > plane.limits.target + _LONGEST_METHOD_AND_VERSION:
            self._break_off(Refusal.TARGET_TOO_LONG)
        elif len(data) >= plane.limits.head:
            self._break_off(Refusal.HEAD_TOO_LARGE)
        elif self._state is State.IDLE:
            # Absolute from the head's first byte: a byte now and then must not buy more time.
            self._state = State.HEAD
            plane.wheel.set(self, plane.loop.time() + plane.http.head_timeout)

    def _await_body(self, length: int) -> None:
        """Wait for the rest of a body; `length` is its Content-Length, 0 if it is chunked."""
        plane = self._plane
        template = self._template
        assert template is not None
        self._state = State.BODY
        self._body_length = length
        plane.wheel.set(self, plane.loop.time() + plane.http.body_timeout)
        if template.refusal is not None:
            self._break_off(template.refusal)
        elif template.expect_continue and not self._buffer:
            self.write(CONTINUE)

    def _take_body(self) -> None:
        """Read the body, as far as it is there."""
        data, self._buffer = self._buffer, b""
        template = self._template
        assert template is not None
        if self._chunks is None:
            self._body.append(data[: self._body_length])
            left = self._body_length - len(data)
            if left > 0:
                self._body_length = left
                return
            self._buffer = data[self._body_length :]
        else:
            try:
                content = self._chunks.feed(data)
            except ChunkError:
                self._break_off(Refusal.BAD_CHUNK)
                return
            self._body.append(content)
            self._body_length += len(content)
            if self._body_length > self._plane.http.body_limit:
                self._break_off(Refusal.BODY_TOO_LARGE)
                return
            if not self._chunks.done:
                return
            self._buffer = self._chunks.excess
            self._chunks = None
        body = b"".join(self._body)
        self._body.clear()
        self._begin(template, body)

    def _begin(self, template: RequestTemplate, body: bytes) -> None:
        """The request is complete: start its exchange, or refuse it and go on."""
        self._template = None
        route = template.route
        if template.refusal is not None or route is None:
            self._refuse(template.refusal or Refusal.NO_ROUTE, template, body)
            return
        self._state = State.EXCHANGE
        self.deadline = inf
        envelope = peek(body) if template.is_post else None
        exchange = self._exchange = Exchange(self._plane, self, template, route, body, envelope)
        exchange.start()

    # From the exchange.

    def write(self, data: bytes) -> None:
        """Send bytes of an answer."""
        plane = self._plane
        plane.cells[plane.meters.client_sent] += len(data)
        self._transport.write(data)

    @property
    def last_request(self) -> bool:
        """Whether the present request is the last one this connection may carry."""
        return self._half_closed or self._requests >= self._plane.http.max_requests

    def exchange_ended(self, *, close: bool) -> None:
        """The answer is complete."""
        self._exchange = None
        if close or self._half_closed:
            self._finish()
            return
        self._next()

    def refuse_exchange(self, exchange: Exchange, refusal: Refusal, detail: str) -> None:
        """The exchange could not be carried out; nothing of an answer was sent."""
        self._exchange = None
        self._answer(refusal, exchange.template, exchange.body, detail)

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
        if self._state is State.IDLE:
            self._rest()
        elif self._exchange is not None:
            self._exchange.end_stream()

    def abort(self) -> None:
        """The worker stops now."""
        self._transport.abort()

    # Ends.

    def _next(self) -> None:
        """Make ready for the next request, which may already be in the buffer."""
        self._state = State.IDLE
        if not self._paused:
            self._rest()

    def _rest(self) -> None:
        plane = self._plane
        idle = _DRAIN_GRACE if plane.draining else plane.http.keepalive_timeout
        plane.wheel.set(self, plane.loop.time() + idle)
        if self._buffer and not self._working:
            self._work()

    def _break_off(self, refusal: Refusal) -> None:
        """Refuse what was not read to its end: where the next request begins is not known."""
        template, self._template = self._template, None
        self._refuse(refusal, template, b"", close=True)

    def _refuse(
        self, refusal: Refusal, template: RequestTemplate | None, body: bytes, *, close: bool = False
    ) -> None:
        """Refuse a request for which there is no exchange."""
        if template is not None and template.route is not None:
            self._plane.cells[template.route.meters.statuses + refusal.status] += 1
        self._answer(refusal, template, body, "", close=close)

    def _answer(
        self,
        refusal: Refusal,
        template: RequestTemplate | None,
        body: bytes,
        detail: str,
        *,
        close: bool = False,
    ) -> None:
        """Write an answer of the proxy's own.

        Args:
            refusal: Why.
            template: The request's head; None if it could not be read.
            body: The request's body, from which the answer takes the id; empty if it is not whole.
            detail: What is special about this case; may be empty.
            close: End the connection even if the refusal itself does not.
        """
        plane = self._plane
        plane.cells[plane.meters.refusals[refusal]] += 1
        close = close or refusal.close or template is None or not template.keep_alive
        close = close or plane.draining or self.last_request
        self.write(
            answer(
                refusal,
                template.era if template else Era.LEGACY,
                request_id(body),
                detail=detail,
                close=close,
                head=template is not None and template.head.method == b"HEAD",
            )
        )
        if close:
            self._finish()
        else:
            self._next()

    def _finish(self) -> None:
        """The last answer is written: close without destroying it."""
        if self._transport.is_closing():
            return
        self._buffer = b""
        self._body.clear()
        self._chunks = None
        if self._half_closed:
            self._close()
            return
        self._state = State.LINGER
        self._discarded = 0
        self._transport.write_eof()
        self._plane.wheel.set(self, self._plane.loop.time() + _LINGER)

    def _close(self) -> None:
        self._state = State.CLOSED
        self._transport.close()

    def _lose(self) -> None:
        """Cut the connection so that the client notices."""
        self._state = State.CLOSED
        raw = self._transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()
