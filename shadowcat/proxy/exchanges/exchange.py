"""One request and its answer: the link between a client connection and an upstream connection.

A detached exchange goes on without a client, its bytes discarded: in the legacy era a disconnect does not
cancel a POST (MCP 2025-11-25, basic/transports "Sending messages to the server").
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, ClassVar, Final

from shadowcat.errors import Refusal
from shadowcat.http1.chunks import LAST_CHUNK
from shadowcat.http1.response import Body
from shadowcat.mcp.envelope import Envelope
from shadowcat.policy.retry import BARRED, is_repeatable
from shadowcat.proxy.clients.denial import Denial
from shadowcat.proxy.clients.template import RequestTemplate
from shadowcat.proxy.exchanges.exchange_state import State
from shadowcat.proxy.exchanges.framing import framing_for
from shadowcat.proxy.observers.observe import Span, observation_of
from shadowcat.proxy.route import Route
from shadowcat.proxy.upstreams.balancer import Choice, Purpose
from shadowcat.proxy.upstreams.response_heads import ResponseTemplate
from shadowcat.proxy.wheel import Timed

if TYPE_CHECKING:
    from shadowcat.proxy.clients.downstream import ClientConnection
    from shadowcat.proxy.plane import DataPlane
    from shadowcat.proxy.upstreams.pool import Pool
    from shadowcat.proxy.upstreams.upstream import UpstreamConnection

_COMMENT: Final = b":\n\n"
"""An empty comment, and the blank line that keeps the stream between two events."""

# An Enum member costs three look-ups; these run several times per exchange.
_QUEUED: Final = State.QUEUED
_SENT: Final = State.SENT
_OPEN: Final = State.OPEN
_DONE: Final = State.DONE


class Exchange(Timed):
    """A request that has been read whole, from choosing an upstream to the last byte of its answer."""

    _chunked: bool
    """The client gets chunks. This and the next two are known once the answer is open."""
    _endless: bool
    """Only the end of the connection tells the client that it has the whole answer."""
    event_stream: bool
    _choice: Choice
    """Where the route has a choice: known once it was made."""
    _purpose: ClassVar = Purpose.MODERN
    span: Span | None = None
    """Set where the request is traced."""
    session_line: bytes = b""
    """What takes the place of the upstream's session id in the answer: a whole field, or nothing."""
    watch: Callable[[bytes], None] | None = None
    """Is shown the answer's content, without transfer coding, before the client gets it; looked up once the
    answer is open."""

    refused_at: ClassVar[float] = inf
    """When its upstream refused it, which is tried again and again since then: see `Redial`."""
    is_kept_whole: ClassVar[bool] = True
    """Whether a small answer is kept until it is complete; not where its head says something by itself."""

    __slots__ = (
        "_choice",
        "_chunked",
        "_client",
        "_connection",
        "_endless",
        "_pool",
        "_repeated",
        "_route",
        "_sent",
        "_status",
        "_tried",
        "body",
        "close_after",
        "envelope",
        "event_stream",
        "plane",
        "started",
        "state",
        "template",
        "values",
        "waits",
    )

    def begin(
        self,
        plane: DataPlane,
        client: ClientConnection,
        template: RequestTemplate,
        route: Route,
        values: tuple[bytes, ...],
        body: bytes,
        envelope: Envelope | None,
    ) -> None:
        """Take on a request that was read whole; called once, first of all, and `start` next.

        Not `__init__`, because a call that CPython 3.11 makes from C costs 0.09 us more.

        Args:
            plane: What all exchanges of the worker share.
            client: Whom to answer.
            template: What the head decided.
            route: The template's route.
            values: Those of the head's varying fields.
            body: The body, its coding taken off.
            envelope: What the body says as JSON-RPC; None for methods other than POST.
        """
        self.deadline = self.filed = inf
        self.plane = plane
        self._client: ClientConnection | None = client
        self.template = template
        self._route = route
        self.values = values
        self.body = body
        self.envelope = envelope
        self.state = _QUEUED
        self._connection: UpstreamConnection | None = None
        self._pool: Pool | None = None
        self._repeated = False
        self._status = 0
        self._sent = 0
        self.close_after = False
        """Whether the client connection ends with this answer."""
        method = envelope.method if envelope is not None else None
        self.waits = route.usual_waits.get(method) or route.waits(template.method, envelope)
        """Bounds on the answer, in seconds from `started`."""
        clock = plane.clock  # `plane.clock()` would look for a method first.
        self.started = clock()
        route.retries.requests += 1
        self._tried = 1

    def start(self) -> None:
        """Choose an upstream and go."""
        route = self._route
        pool = route.only
        if pool is None:
            self._choose(route.balancer.number(self, self._client))
        else:
            self._pool = pool
            pool.acquire(self)

    def _choose(self, number: int) -> None:
        """Choose by this number, and go."""
        self._choice = choice = self._route.balancer.choice(self._purpose, self.envelope, number)
        self._go_to(choice.next())

    def _go_to(self, pool: Pool | None) -> None:
        self._pool = pool
        if pool is None:
            self._refuse(Refusal.NO_UPSTREAM, "")
        else:
            pool.acquire(self)

    def _try_next(self) -> None:
        """Try another upstream than the one that failed."""
        self._tried += 1
        self._go_to(self._route.only or self._choice.next())

    # From the pool.

    def send(self, connection: UpstreamConnection) -> bytes:
        """The request's bytes for `connection`, which now serves this exchange."""
        self.state = _SENT
        self._connection = connection
        pool = self._pool
        client = self._client
        assert pool is not None
        assert client is not None
        return self.template.render(pool.origin, client.address, self.body, self.values)

    def no_connection(self, refusal: Refusal, detail: str) -> None:
        """There is no connection to the chosen upstream: nothing was sent, so any other will do."""
        self.deadline = inf
        is_barred = refusal in BARRED
        if is_barred and self._has_choice and (other := self._choice.other()) is not None:
            self._go_to(other)  # No retry: it has not been tried.
        # More tries would not shorten a queue that is full.
        elif not is_barred and refusal is not Refusal.QUEUE_FULL and self._may_retry():
            self._try_next()
        else:
            self._refuse(refusal, detail)

    @property
    def _has_choice(self) -> bool:
        return self._route.only is None

    @property
    def retry_after(self) -> int | None:
        """Whole seconds after which an upstream may take it, if that is why there was none."""
        if self._pool is None:
            return self._choice.retry_after if self._has_choice else None
        return self._pool.outcomes.retry_after if self._pool.outcomes is not None else None

    def _may_retry(self) -> bool:
        route = self._route
        return self._client is not None and self._tried < route.attempts and route.retries.take()

    def on_deadline(self, now: float) -> None:
        """The wait for a connection was too long."""
        if self.state is _QUEUED:
            pool = self._pool
            assert pool is not None
            if pool.overdue(self):
                self._refuse(Refusal.QUEUE_TIMEOUT, pool.origin.name)

    # From the upstream connection.

    def open(
        self, head: ResponseTemplate, values: tuple[bytes, ...], body: Body, length: int
    ) -> bytes | None:
        """The answer's head has arrived; what of it goes to the client.

        None if it cannot be said yet: the connection holds the answer back until its `go_on`, or its end.

        Args:
            head: What the head says.
            values: Those of its varying fields.
            body: How its body ends.
            length: Its Content-Length.
        """
        self.state = _OPEN
        self._status = head.status
        self.event_stream = head.event_stream
        self._chunked = False
        self._endless = False
        template = self.template
        client = self._client
        if client is None:
            return b""
        if head.event_stream and template.is_modern and not self.plane.observers:
            # Nobody will ask for them: a stream may stay open for hours, and they are a third of its memory.
            self.body = b""
            self.envelope = None
        http11 = template.http11
        framing, self._chunked, self._endless = framing_for(head, body, length, http11)
        self.close_after = (
            self._endless or not template.keep_alive or self.plane.draining or client.last_request
        )
        framing += template.cors
        if self.close_after:
            framing += b"Connection: close\r\n"
        elif not http11:
            framing += b"Connection: keep-alive\r\n"
        return b"%b%b\r\n" % (head.render(values, self.session_line), framing)

    def answers_whole(self, status: int) -> bool:
        """Whether the usual answer, its length known and all of it there, can go to this client in one piece.

        False if this client needs another framing, which `open` finds.
        """
        client = self._client
        if client is None or not self.template.keeps_alive or self.plane.draining or client.last_request:
            return False
        self.state = _OPEN
        self._status = status
        return True

    def frame(self, data: bytes) -> bytes:
        """Content of an answer that ends with its connection, in the framing this client gets."""
        if self._chunked and data:
            return b"%x\r\n%b\r\n" % (len(data), data)
        return data

    def last_piece(self) -> bytes:
        """What ends an answer that ended with its connection."""
        return LAST_CHUNK if self._chunked else b""

    def write(self, data: bytes) -> None:
        """Hand on a part of the answer."""
        if self._client is not None:
            self._sent += len(data)
            self._client.write(data)

    def comment(self) -> None:
        """Put a comment between two events of an answer without Content-Length."""
        self.write(self.frame(_COMMENT))

    def end(self, rest: bytes) -> None:
        """Hand on the last part of the answer."""
        client = self._client
        self._connection = None  # It may serve another one by now, whom a slow client must not hold up.
        if client is not None and rest:
            self._sent += len(rest)
            client.write(rest)
        self._done()
        if client is not None:
            if self.plane.observers:
                self._tell(client, complete=True)
            client.exchange_ended(self.close_after)

    def no_answer(self, refusal: Refusal) -> None:
        """The upstream connection ended, or its time was up, and the client has nothing of an answer."""
        self._connection = None
        pool = self._pool
        assert pool is not None
        if (
            refusal is Refusal.RESET
            and not self._repeated
            and is_repeatable(self.template.method, self.rpc_method)
            and self._may_retry()  # Last, because it takes from the budget.
        ):
            # To the same upstream, since the request may belong to a session there, and over a connection
            # that cannot be stale.
            self._repeated = True
            self._tried += 1
            self.state = _QUEUED
            pool.acquire(self, fresh=True)
            return
        self._refuse(refusal, pool.origin.name)

    def cut_off(self) -> None:
        """The answer broke off: the client must not take what it has for the whole."""
        client = self._client
        self._done()
        if client is not None:
            self._tell(client, complete=False)
            client.cut_off(reset=self._endless)

    @property
    def method(self) -> bytes:
        """The HTTP method."""
        return self.template.method

    @property
    def rpc_method(self) -> str | None:
        """The JSON-RPC method, as long as it is of interest."""
        return self.envelope.method if self.envelope is not None else None

    @property
    def takes_chunks(self) -> bool:
        """Whether the answer may stay in chunks."""
        return self.template.http11

    @property
    def is_detached(self) -> bool:
        """Whether the client left, and the upstream goes on."""
        return self._client is None

    @property
    def upstream(self) -> str | None:
        """The name of the upstream that answers, or was tried last."""
        return self._pool.origin.name if self._pool is not None else None

    def touch(self, now_ns: int) -> None:
        """The exchange still goes on; called about once a second, for what depends on that."""

    # From the client connection.

    def client_left(self) -> None:
        """The client closed or lost its connection."""
        client, self._client = self._client, None
        assert client is not None
        plane = self.plane
        plane.cells[self._route.meters.aborts] += 1
        self._tell(client, complete=False)
        if self.state is _QUEUED:
            if self._pool is not None:
                self._pool.forget(self)
            self._done()
        elif self.cancelled_by_disconnect:
            self._abandon()
        else:
            assert self._connection is not None
            self._connection.resume()
            self._connection.limit(plane.clock() + self._route.timeouts.detached)
            plane.detach(self)

    @property
    def cancelled_by_disconnect(self) -> bool:
        """Whether a client that leaves means its request to end."""
        return self.template.cancelled_by_disconnect

    def abandon_detached(self) -> None:
        """Too many exchanges without a client: this one is given up."""
        self._abandon()

    def _abandon(self) -> None:
        connection = self._connection
        self._done()
        if connection is not None:
            connection.abandon()

    def pause(self) -> None:
        """The client takes its answer more slowly than it comes."""
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        """The client has taken what there was."""
        if self._connection is not None:
            self._connection.resume()

    def end_stream(self) -> bool:
        """End a GET stream in good order, so that its client opens it elsewhere, if that can be done now."""
        connection = self._connection
        if (
            self.state is not _OPEN
            or not self.event_stream
            or self.template.method != b"GET"
            or connection is None
            or not connection.at_boundary
        ):
            return False
        self.close_after = True
        connection.abandon()
        self.end(self.last_piece())
        return True

    # The end.

    def _refuse(self, refusal: Refusal, detail: str) -> None:
        self.deny(Denial(refusal, detail=detail))

    def deny(self, denial: Denial) -> None:
        """End it before the client has got anything."""
        client = self._client
        self._status = denial.refusal.status
        self._done()
        if client is not None:
            client.refuse_exchange(self, denial)

    def _done(self) -> None:
        """Count, and let go of both sides."""
        self.state = _DONE
        self.deadline = inf
        self._connection = None
        plane = self.plane
        if self._client is None:
            plane.settle(self)
        self._client = None
        clock = plane.clock
        meters = self._route.meters
        meters.durations.append(clock() - self.started)
        if self._status:
            meters.statuses[self._status] += 1

    def _tell(self, client: ClientConnection | None, *, complete: bool) -> None:
        """Tell the observers how it went; called once, when the client's part is over."""
        if client is not None and self.plane.observers:
            self.plane.observe(observation_of(self, client, self._status, self._sent, complete=complete))
