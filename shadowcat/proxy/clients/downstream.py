"""One client connection: takes requests strictly in order, starts their exchanges, writes their answers."""

from __future__ import annotations

import asyncio
import sys
from math import inf
from typing import TYPE_CHECKING, Final, cast

from shadowcat.mcp.envelope import Kind, peek
from shadowcat.policy.forwarded import is_loopback
from shadowcat.policy.inspect import inspect
from shadowcat.proxy.clients.answers import CONTINUE
from shadowcat.proxy.clients.client_state import State
from shadowcat.proxy.clients.denial import Denial
from shadowcat.proxy.clients.kept import Kept
from shadowcat.proxy.clients.own_answer import OwnAnswer
from shadowcat.proxy.clients.pages import Verdict, Visit
from shadowcat.proxy.clients.patience import DRAIN_GRACE, LINGER_LIMIT, LINGER_TIME, PIPELINE_LIMIT
from shadowcat.proxy.clients.request_reader import Broken, RequestReader, Stage
from shadowcat.proxy.clients.template import RequestTemplate
from shadowcat.proxy.clients.waiter import Waiter
from shadowcat.proxy.exchanges.exchange import Exchange
from shadowcat.proxy.flow import limit_reader, peer_of, reset, unacknowledged
from shadowcat.proxy.overload.stock import SMALL
from shadowcat.proxy.wheel import TICK

if TYPE_CHECKING:
    from shadowcat.proxy.limits.entrance import LockWaiter
    from shadowcat.proxy.plane import DataPlane

# An Enum member costs three look-ups; these run several times per request.
_READING, _ANSWERING = State.READING, State.ANSWERING
_LINGERING, _CLOSED = State.LINGERING, State.CLOSED
_IDLE: Final = Stage.IDLE
_INVALID: Final = Kind.INVALID
_BATCH: Final = Kind.BATCH
_REQUEST: Final = Kind.REQUEST


class ClientConnection(Kept):
    """Speaks HTTP/1.1 to one client."""

    __slots__ = (
        "_discarded",
        "_exchange",
        "_half_closed",
        "_keepalive",
        "_meters",
        "_paused",
        "_plane",
        "_reader",
        "_requests_left",
        "_short_limit",
        "_since",
        "_stage",
        "_state",
        "_transport",
        "_unsent",
        "_waiter",
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
        self._short_limit = min(int(plane.http.body_limit), SMALL)
        self._keepalive = TICK + plane.http.keepalive_timeout
        """Seconds until an idle connection is closed, for a clock that may be a tick behind."""
        self._state = _READING
        self._stage = _IDLE
        """The reader's stage for which the deadline was set."""
        self._since = 0.0
        """When it began."""
        self._exchange: Exchange | None = None
        self._waiter: Waiter | LockWaiter | Visit | None = None
        """A request that cannot be judged yet."""
        self._requests_left = plane.http.max_requests
        self.last_request = False
        """Whether the present request is the last one this connection may carry."""
        self._half_closed = False
        self._paused = False
        """The client's write buffer is full."""
        self._working = False
        self._discarded = 0
        self._unsent = 0
        """Bytes of the last answer that the client has not taken, when it was last looked."""

    # From the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The client has connected."""
        transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass.
        self.serve(transport, peer_of(transport))

    def serve(self, transport: asyncio.Transport, address: str) -> None:
        """Begin with a client whose IP address is this."""
        self._transport = transport
        limit_reader(transport, self._plane.http.write_timeout)
        own = transport.get_extra_info("sockname")
        self.address = address.encode()
        heads = self._plane.heads_for(
            loopback=isinstance(own, tuple) and is_loopback(str(own[0])),
            trusted=self._plane.trusted_proxies.trusts(address),
        )
        self._reader = RequestReader(heads, self._plane.http, self._plane.stock)
        self._rest()
        self._plane.connected(self)

    def data_received(self, data: bytes) -> None:
        """The client has sent bytes."""
        self._meters.client_received += len(data)
        state = self._state
        reader = self._reader
        if state is _READING:
            plane = self._plane
            if plane.epoch[0] != plane.known:
                plane.refresh()
            if reader.buffer:
                reader.buffer += data
                if self._paused and len(reader.buffer) > PIPELINE_LIMIT:
                    self._lose()
                    return
            else:
                if reader.stage is _IDLE and not self._paused:
                    # The short way, for a request with a head like one before that came in one read.
                    last = reader.recall
                    if (data.startswith(last.head) or last.match(data)) and len(
                        data
                    ) - last.end == last.length <= self._short_limit:
                        self._begin(last.verdict, last.values, data[last.end :])
                        return
                reader.buffer = data
            self._work()
        elif state is _ANSWERING:
            reader.buffer += data
            if len(reader.buffer) > PIPELINE_LIMIT:
                self._lose()
        elif state is _LINGERING:
            self._discarded += len(data)
            if self._discarded > LINGER_LIMIT:
                self._lose()

    def eof_received(self) -> bool:
        """The client will send no more. Returns whether the connection stays open for an answer."""
        exchange = self._exchange
        if exchange is None:
            if self._waiter is None or self._waiter.cancelled_by_disconnect:
                return False  # Nothing is owed: an unfinished request is not answered.
            self._half_closed = self.last_request = True
            return True
        if exchange.cancelled_by_disconnect:
            # Now, and not once everything is flushed: a client that has stopped reading would put that off.
            self._exchange = None
            exchange.client_left()
            self._lose()
            return False
        self._half_closed = self.last_request = True
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, whoever ended it."""
        self._plane.disconnected(self)
        if self._stage is not _IDLE and self._reader.held:  # It was in the middle of a body.
            self._plane.stock.hold(self)
        self._state = _CLOSED
        self.deadline = inf
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_left()
        if self._waiter is not None:
            self._waiter.cancel()
            self._waiter = None

    def pause_writing(self) -> None:
        """The client is slower than its upstream."""
        self._paused = True
        self._plane.stock.slow(self)
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
        if self._state is _LINGERING and self._unsent:
            self._linger()
        elif self._state is not _READING or self._paused:
            self._lose()  # It has taken nothing of its answer for too long, or lingers.
        elif self._reader.stage is not _IDLE:
            if (deadline := self._reader.due(self._since)) > now:
                self._plane.wheel.set(self, deadline)
            else:
                self._break_off(self._reader.late())
        elif unacknowledged(self._transport):
            self._finish()  # The kernel would keep a closed one for as long as the client does not read.
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
                if reader.held:
                    self._plane.stock.hold(self)
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
        template = self._reader.template
        if stage is Stage.BODY and template is not None and template.halts:
            # Decided on the head, so that nobody is asked for a body that is not wanted.
            denial = self._plane.entrance.judge(self, template, None)
            if isinstance(denial, Denial):
                self._break_off(self._reader.broken(denial))
                return
        self._since = since = self._plane.clock()
        self._plane.wheel.set(self, self._reader.due(since))
        if self._reader.wants_continue:
            self.write(CONTINUE)

    def _begin(self, template: RequestTemplate, values: tuple[bytes, ...], body: bytes) -> None:
        """A request is complete: start its exchange, or refuse it and go on."""
        self._requests_left -= 1
        if self._requests_left <= 0:
            self.last_request = True
        self._stage = _IDLE
        if template.halts and self._halted(template, values, body):
            return
        route = template.route
        assert route is not None
        envelope = None
        new_exchange = template.new_exchange
        if template.is_post:
            envelope = peek(body)
            kind = envelope.kind
            if (
                kind is _INVALID
                or kind is _BATCH
                or (template.is_modern and not template.agrees(envelope, values))
            ):
                objection = inspect(envelope, template.era, template.mirrored(values))
                if kind is _BATCH and template.session_id is not None:
                    # Whether that is allowed depends on the session.
                    objection = None
                    new_exchange = self._plane.kinds.batch(template)
            else:
                objection = None
                if template.may_open and envelope.method == "initialize" and kind is _REQUEST:
                    new_exchange = self._plane.kinds.initialize(template)
            if objection is not None:
                denial = Denial(objection.refusal, detail=objection.detail)
                self._answer(OwnAnswer(denial, template, body, values, envelope))
                return
        elif template.preflight is not None:
            self._answer(OwnAnswer(None, template, values=values))
            return
        self._state = _ANSWERING
        self.deadline = inf
        plane = self._plane
        exchange = self._exchange = new_exchange()
        exchange.begin(plane, self, template, route, values, body, envelope)
        exchange.start()

    def _halted(self, template: RequestTemplate, values: tuple[bytes, ...], body: bytes) -> bool:
        """Whether a request does not begin, or not yet; if so, it was seen to."""
        if template.refusal is not None or template.document is not None:
            denial = None if template.refusal is None else Denial(template.refusal)
            self._answer(OwnAnswer(denial, template, body, values))
            return True
        found = self._plane.entrance.admit(self, template, values, body)
        if found is None:
            return False
        if isinstance(found, Denial):
            self.decided(template, values, body, found)
        else:
            self._state, self._waiter, self.deadline = _ANSWERING, found, inf
        return True

    def decided(
        self, template: RequestTemplate, values: tuple[bytes, ...], body: bytes, verdict: Verdict
    ) -> None:
        """A request is let through, or not; it may have waited for that."""
        self._waiter = None
        if verdict is None:
            self._requests_left += 1  # It was counted when it came.
            self._begin(self._reader.renewed(template), values, body)
        else:
            self._answer(OwnAnswer.of(verdict, template, body, values))

    # From the exchange.

    def write(self, data: bytes) -> None:
        """Send bytes of an answer."""
        self._meters.client_sent += len(data)
        self._transport.write(data)

    def exchange_ended(self, close: bool) -> None:
        """The answer is complete: make ready for the next request, which may already be in the buffer."""
        self._exchange = None
        if close or self._half_closed:
            self._finish()
            return
        self._state = _READING
        if not self._paused:
            # As `_rest`, without the call: this is at the end of every exchange.
            wheel = self._plane.wheel
            self.deadline = deadline = wheel.now + self._keepalive
            if deadline < self.filed:
                wheel.file(self)
            if self._reader.buffer and not self._working:
                self._work()

    def refuse_exchange(self, exchange: Exchange, denial: Denial) -> None:
        """The exchange is not carried out; nothing of an answer was sent."""
        self._exchange = None
        self._answer(
            OwnAnswer(denial, exchange.template, exchange.body, exchange.values, exchange.envelope, exchange)
        )

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
        self._keepalive = TICK + DRAIN_GRACE
        if self._exchange is not None:
            self._exchange.end_stream()
        elif self._state is _READING and self._reader.stage is _IDLE:
            self._rest()

    def close_idle(self) -> None:
        """Let go of it in favour of another one."""
        self._close()

    def turn_away(self, denial: Denial) -> None:
        """Answer before anything was asked, and part."""
        self._break_off(self._reader.broken(denial))

    # Ends.

    def _rest(self) -> None:
        self._plane.wheel.set(self, self._plane.wheel.now + self._keepalive)
        if self._reader.buffer and not self._working:
            self._work()

    def _break_off(self, broken: Broken) -> None:
        """Refuse what was not read to its end: where the next request begins is not known."""
        if self._reader.held:
            self._plane.stock.hold(self)
        self._answer(OwnAnswer(broken.denial, broken.template, values=broken.values), close=True)

    def _answer(self, own: OwnAnswer, *, close: bool = False) -> None:
        """Answer without an upstream. `close` ends the connection even if nothing else does."""
        plane = self._plane
        if own.denial is not None:
            plane.cells[self._meters.refusals[own.denial.refusal]] += 1
        # An exchange has counted its status itself.
        if own.exchange is None and own.template is not None and own.template.route is not None:
            own.template.route.meters.statuses[own.status] += 1
        close = close or own.closes or plane.draining or self.last_request
        text = own.render(close=close)
        self.write(text)
        if plane.observers:
            plane.observe(own.observation(self.name(own.template), plane.clock(), len(text)))
        self.exchange_ended(close)

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
            self._unsent = sys.maxsize
            self._transport.write_eof()
            self._linger()

    def _linger(self) -> None:
        """Wait for the client to close. Its time runs once it has the whole answer, and until then as long as
        it takes some of it.
        """
        unsent = self._transport.get_write_buffer_size() + unacknowledged(self._transport)
        if unsent >= self._unsent:
            self._lose()
            return
        self._unsent = unsent
        timeout = self._plane.http.write_timeout if unsent else LINGER_TIME
        self._plane.wheel.set(self, self._plane.clock() + timeout)

    def _close(self) -> None:
        self._state = _CLOSED
        self._plane.wheel.set(self, self._plane.clock() + self._plane.http.write_timeout)
        self._transport.close()

    def _lose(self) -> None:
        """Cut the connection so that the client notices."""
        self._state = _CLOSED
        reset(self._transport)
