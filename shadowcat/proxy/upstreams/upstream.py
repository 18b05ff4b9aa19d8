"""One connection to an upstream: sends a request, reads its answer, hands it on as it comes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Final, TypeAlias, cast

from shadowcat.errors import Refusal
from shadowcat.http1.chunks import WATCHED, ChunkError, ChunkReader
from shadowcat.http1.response import INTERIM, BadResponseError, Body
from shadowcat.mcp.sse import Boundary
from shadowcat.proxy.flow import HIGH_WATER, LOW_WATER, both
from shadowcat.proxy.upstreams.connection_phase import Phase
from shadowcat.proxy.upstreams.response_heads import HEAD_LIMIT, ResponseRecall, ResponseTemplate
from shadowcat.proxy.wheel import Timed

if TYPE_CHECKING:
    from shadowcat.proxy.exchanges.exchange import Exchange
    from shadowcat.proxy.plane import DataPlane
    from shadowcat.proxy.upstreams.errand import Errand
    from shadowcat.proxy.upstreams.pool import Pool

    Job: TypeAlias = Exchange | Errand
    """What a connection can serve."""

QUIET_TIME: Final = 15.0
"""Seconds without a byte after which a stream of events gets a comment, by which a client that vanished is
found, and proxies in between are kept from giving up. SDK servers ping as often by themselves."""
_FLUSH_CHECK: Final = 16 * 1024
"""Requests up to this size fit into an idle connection's socket buffer, so they are flushed when written."""
_WHOLE: Final = 16 * 1024
"""Answers up to this size go to the client when they are complete. Servers write head and body one after the
other: so the client costs one write, and an upstream that dies in between costs it nothing."""


_SAMPLE: Final = 15
"""One request in 16 is timed: to read the clock twice for each would cost 1 % more."""


# An Enum member costs three look-ups; these run several times per exchange.
_IDLE: Final = Phase.IDLE
_HEAD: Final = Phase.HEAD
_BODY: Final = Phase.BODY
_CLOSED: Final = Phase.CLOSED
_CHUNKED: Final = Body.CHUNKED
_LENGTH: Final = Body.LENGTH
_NONE: Final = Body.NONE


class UpstreamConnection(asyncio.Protocol, Timed):
    """Serves one exchange after the other. It owns the response's framing; the exchange owns its meaning."""

    __slots__ = (
        "_body",
        "_boundary",
        "_dial",
        "_exchange",
        "_held",
        "_idle_timeout",
        "_left",
        "_limit",
        "_meters",
        "_opened",
        "_opened_line",
        "_opening",
        "_paused",
        "_phase",
        "_plane",
        "_pool",
        "_reader",
        "_recall",
        "_reusable",
        "_sent_at",
        "_size",
        "_transport",
        "_watch",
    )

    _transport: asyncio.Transport

    def __init__(self, plane: DataPlane, pool: Pool, dial: int) -> None:
        """`dial` is the number under which the pool knows that this connection is being made."""
        self.deadline = self.filed = inf
        self._plane = plane
        self._meters = plane.meters
        self._pool = pool
        self._dial = dial
        self._phase = _CLOSED
        self._exchange: Job | None = None
        self._held = b""
        self._recall: ResponseRecall = plane.response_heads.recall()
        self._opened: bytes | tuple[bytes, ...] = b""
        self._opened_line = b""
        self._opening = b""
        """What an ordinary client got for the head `_opened`, which is the last one as a rule, in a session
        with this line."""
        self._body = Body.NONE
        self._left = 0
        self._reader: ChunkReader | None = None
        self._boundary: Boundary | None = None
        """Follows the events of an answer into which comments may be put; None for every other answer."""
        self._watch: Callable[[bytes], None] | None = None
        """Is shown the content of the answer."""
        self._limit = inf
        """When the answer has to be complete."""
        self._reusable = True
        self._sent_at = 0.0
        """When the request was sent; 0 once its answer has been timed, and for most that are not."""
        self._size = 0
        """Bytes of the request."""
        self._paused = False
        self._idle_timeout = pool.idle_timeout
        """Seconds; 0: this exchange is the last one."""

    # From the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The dial, and the TLS handshake if there is one, succeeded."""
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass.
        transport.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        self._phase = _IDLE
        if self._pool.opened(self, self._dial):
            self._rest()

    def data_received(self, data: bytes) -> None:
        """The upstream has sent bytes."""
        self._meters.upstream_received += len(data)
        phase = self._phase
        if phase is _HEAD:
            if self._held:
                data = self._held + data
                self._held = b""
            recall = self._recall
            if data.startswith(recall.head) or recall.match(data):
                # The short way, for an answer like the one before that is complete.
                head = recall.verdict
                exchange = self._exchange
                end = recall.end
                length = recall.length
                if (
                    head.ordinary
                    and len(data) - end == length
                    and exchange is not None
                    and exchange.answers_whole(head.status)
                ):
                    line = exchange.session_line
                    if recall.head is not self._opened or line is not self._opened_line:
                        self._opened = recall.head
                        self._opened_line = line
                        self._opening = head.render_opening(recall.values, line, length)
                    self._reusable = True
                    self._finish(self._opening + data[end:])
                    return
            self._read_head(data)
        elif phase is _BODY:
            self._relay(b"", data)
        else:
            # An answer nobody asked for must never become the next exchange's answer (RFC 9112 section 9.5).
            self.abandon()

    def eof_received(self) -> None:
        """The transport closes itself; `connection_lost` decides what the end means."""
        if self._phase is _IDLE:  # It comes a turn of the loop later: a request before that would be lost.
            self.abandon()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone; what that means depends on how far the answer had come."""
        phase, self._phase = self._phase, _CLOSED
        self.deadline = inf
        self._pool.gone()
        if phase is _CLOSED:
            return
        exchange, self._exchange = self._exchange, None
        self._pool.drop(self, idle=phase is _IDLE)
        if exchange is None:
            return
        if phase is _HEAD:
            exchange.no_answer(Refusal.RESET)
        elif self._body is Body.CLOSE and exc is None:
            exchange.end(exchange.last_piece())
        else:
            exchange.cut_off()

    def on_deadline(self, now: float) -> None:
        """Idle for too long, the upstream is too slow, or its stream is quiet."""
        phase = self._phase
        exchange = self._exchange
        if phase is _BODY and exchange is not None and now < self._limit:
            if self.at_boundary and not self._paused:
                exchange.comment()
            self._plane.wheel.set(self, min(self._limit, now + QUIET_TIME))
            return
        is_over = exchange is not None and now >= exchange.started + exchange.waits.answer
        self.fail(Refusal.REQUEST_TIMEOUT if is_over else Refusal.FIRST_BYTE_TIMEOUT)

    def pause_writing(self) -> None:
        """The request is in memory as a whole, so there is nothing to hold back."""

    def resume_writing(self) -> None:
        """See `pause_writing`."""

    # From the pool and the exchange.

    def begin(self, exchange: Job) -> None:
        """Send an exchange's request."""
        self._exchange = exchange
        self._phase = _HEAD
        if not self._pool.meters.reused & _SAMPLE:
            self._sent_at = self._plane.clock()
        request = exchange.send(self)
        size = self._size = len(request)
        self._meters.upstream_sent += size
        self._transport.write(request)
        self.deadline = deadline = exchange.started + exchange.waits.first_byte
        if deadline < self.filed:
            self._plane.wheel.file(self)

    def _rest(self) -> None:
        self._phase = _IDLE
        # The wheel's own time, up to a tick old, would drop it early, which does no harm.
        wheel = self._plane.wheel
        self.deadline = deadline = wheel.now + self._idle_timeout
        if deadline < self.filed:
            wheel.file(self)

    def abandon(self) -> None:
        """Close at once, whatever is under way; the caller tells the exchange, if there is one."""
        if self._phase is _CLOSED:
            return
        idle = self._phase is _IDLE
        self._phase = _CLOSED
        self.deadline = inf
        self._exchange = None
        self._transport.abort()
        self._pool.drop(self, idle=idle)

    def fail(self, refusal: Refusal, *, is_own: bool = False) -> None:
        """Close at once: who has nothing of an answer yet gets `refusal`, who has a part of it is cut off."""
        phase, exchange = self._phase, self._exchange
        self.abandon()
        if exchange is not None:
            if phase is _HEAD:
                exchange.no_answer(refusal)
            else:
                exchange.cut_off()

    def retire(self) -> None:
        """Serve no further exchange: close now if idle, else when the answer is complete."""
        if self._phase is _IDLE:
            self.abandon()
        else:
            self._idle_timeout = 0.0

    def pause(self) -> None:
        """The client is slower than the upstream."""
        if self._phase is not _CLOSED:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """The client caught up."""
        self._paused = False
        if self._phase is not _CLOSED:
            self._transport.resume_reading()

    def go_on(self) -> None:
        """The exchange can say now what it makes of the head that it had held back."""
        if self._phase is _HEAD:
            self.resume()
            self._read_head(b"")

    def limit(self, deadline: float) -> None:
        """The answer has to be complete by then."""
        if self._phase is not _CLOSED:
            self._limit = deadline
            self._plane.wheel.set(self, deadline)

    @property
    def at_boundary(self) -> bool:
        """Whether a stream of events may end, or get a comment, here: after a blank line, between chunks."""
        if self._boundary is None or not self._boundary.is_between_events:
            return False
        return self._reader is None or self._reader.at_boundary

    # The response.

    def _time(self) -> None:
        """An answer's head has come: note how long that took."""
        totals = self._pool.meters
        totals.responses += 1
        totals.seconds += self._plane.clock() - self._sent_at
        self._sent_at = 0.0

    def _judge_head(self, exchange: Job, head: ResponseTemplate) -> None:
        """The final head of an answer has come; it may be told more than once of the same."""
        if self._sent_at:
            self._time()

    def _read_head(self, data: bytes) -> None:
        exchange = self._exchange
        assert exchange is not None
        if self._held:
            data = self._held + data
        recall = self._recall
        while True:
            if recall.match(data):
                head, values, length, end = recall.verdict, recall.values, recall.length, recall.end
            else:
                end = data.find(b"\r\n\r\n", 0, HEAD_LIMIT) + 4
                if end < 4:
                    self._held = data
                    if len(data) >= HEAD_LIMIT:
                        self.fail(Refusal.BAD_RESPONSE)
                    return
                try:
                    head, values, length = self._plane.response_heads.read(data[:end], recall)
                except BadResponseError:
                    self.fail(Refusal.BAD_RESPONSE)
                    return
            if not head.interim:
                break
            if head.status not in INTERIM or head.chunked or length:
                self.fail(Refusal.BAD_RESPONSE)
                return
            data = data[end:]
        body = head.body(exchange.method)
        self._judge_head(exchange, head)
        if (
            body is _LENGTH
            and len(data) - end < length <= _WHOLE
            and exchange.is_kept_whole
            and not head.event_stream
        ):
            self._held = data
            if not exchange.is_detached:
                self._plane.wheel.set(self, exchange.started + exchange.waits.answer)
            return
        opening = exchange.open(head, values, body, length)
        if opening is None:
            self._held = data
            return
        self._held = b""
        self._phase = _BODY
        self._body = body
        # A 204 that announces content (RFC 9112 section 6.3) may send it, as the next answer.
        self._reusable = head.keep_alive and body is not Body.CLOSE and not (head.status == 204 and length)
        if head.keep_alive_timeout is not None and self._idle_timeout:
            # One second less than the upstream said, so that it does not close while a request is on its way.
            self._idle_timeout = min(self._pool.idle_timeout, max(head.keep_alive_timeout - 1.0, 0.0))
        boundary = None
        if not exchange.is_detached:  # A detached exchange has its limit already.
            deadline = self._limit = exchange.started + exchange.waits.answer
            if head.event_stream and (body is Body.CHUNKED or body is Body.CLOSE):
                boundary = Boundary()
                deadline = min(deadline, self._plane.clock() + QUIET_TIME)
            self._plane.wheel.set(self, deadline)
        self._boundary = boundary
        watch = exchange.watch
        watched = WATCHED if watch is None else sys.maxsize
        if boundary is not None:
            watch = boundary.feed if watch is None else both(boundary.feed, watch)
        self._watch = watch
        if body is Body.LENGTH:
            self._left = length
        elif body is Body.CHUNKED:
            self._reader = ChunkReader(decode=not exchange.takes_chunks, watch=watch, watched=watched)
        self._relay(opening, data[end:])

    def _relay(self, opening: bytes, data: bytes) -> None:
        """Hand on what belongs to this answer: `opening` as it is, `data` as its framing says."""
        exchange = self._exchange
        assert exchange is not None
        body = self._body
        if body is _CHUNKED:
            reader = self._reader
            assert reader is not None
            try:
                data = reader.feed(data)
            except ChunkError:
                if opening:  # The client has nothing of this answer yet, so it can have a better one.
                    self._phase = _HEAD
                self.fail(Refusal.BAD_RESPONSE)
                return
            if reader.done:
                self._reader = None
                self._reusable = self._reusable and not reader.excess
                self._finish(opening + data)
                return
        elif body is _LENGTH:
            left = self._left = self._left - len(data)
            if left < 0:
                data = data[:left]
                self._reusable = False
            if self._watch is not None:
                self._watch(data)
            if left <= 0:
                self._finish(opening + data)
                return
        elif body is _NONE:
            self._reusable = self._reusable and not data
            self._finish(opening)
            return
        else:
            if self._watch is not None:
                self._watch(data)
            data = exchange.frame(data)
        if opening or data:
            exchange.write(opening + data if opening else data)
        if self._boundary is not None:
            plane = self._plane
            # The wheel's own time may be a tick old; a comment that much early does no harm.
            deadline = plane.wheel.now + QUIET_TIME
            limit = self._limit
            self.deadline = deadline if deadline < limit else limit  # noqa: FURB136 (half the cost)
            if plane.draining:
                exchange.end_stream()

    def _finish(self, rest: bytes) -> None:
        """The answer is complete: the connection is free before the client's next request looks for one."""
        exchange, self._exchange = self._exchange, None
        assert exchange is not None
        if self._sent_at:
            self._time()
        if self._paused:
            self.resume()
        # A response that ends before its request was flushed leaves request bytes behind on the connection.
        flushed = self._size <= _FLUSH_CHECK or not self._transport.get_write_buffer_size()
        plane = self._plane
        if self._reusable and flushed and self._idle_timeout > 0.0 and not plane.draining:
            pool = self._pool
            if not pool.pressed or pool.keeps(self):
                pool.idle.append(self)
                # As `_rest`, without the call: this is at the end of every exchange.
                self._phase = _IDLE
                self.deadline = deadline = plane.wheel.now + self._idle_timeout
                if deadline < self.filed:
                    plane.wheel.file(self)
        else:
            self._phase = _CLOSED
            self.deadline = inf
            if flushed:
                self._transport.close()
            else:  # Closing would wait for an upstream that may never take the rest.
                self._transport.abort()
            self._pool.drop(self, idle=False)
        exchange.end(rest)
