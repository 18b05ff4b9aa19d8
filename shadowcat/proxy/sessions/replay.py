"""Opening a session anew at an upstream: what its client said at the beginning is said once more.

initialize --result as good as before--> notifications/initialized --> level --> subscriptions --> RECOVERED
|  |                                          |
|  +-- an error, another version, less: UNLIKE+-- an error: UNLIKE, no answer: NO_UPSTREAM
+-- no connection, 5xx: the next upstream; none left: NO_UPSTREAM
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple

from shadowcat.errors import Refusal
from shadowcat.mcp.initialize import (
    INITIALIZED,
    Outcome,
    Result,
    ResultWatch,
    offers_at_least,
    render_initialize,
    render_set_level,
    render_subscribe,
)
from shadowcat.policy.sessions import Event, Loss
from shadowcat.proxy.sessions.sessions import USABLE_ID
from shadowcat.proxy.upstreams.errand import Answer, Errand

if TYPE_CHECKING:
    from shadowcat.proxy.clients.admission import Admitted
    from shadowcat.proxy.plane import DataPlane
    from shadowcat.proxy.upstreams.pool import Pool
    from shadowcat.shm.sessions.table import Session

Fields = Sequence[tuple[bytes, bytes]]

_UNREACHABLE: Final = (
    Refusal.BREAKER_OPEN,
    Refusal.CREDENTIAL_MISSING,
    Refusal.CONNECT_FAILED,
    Refusal.CONNECT_TIMEOUT,
    Refusal.QUEUE_TIMEOUT,
    Refusal.QUEUE_FULL,
    Refusal.NO_UPSTREAM,
)
_JSON: Final = ((b"Content-Type", b"application/json"), (b"Accept", b"application/json, text/event-stream"))
_OF_ONE_MESSAGE: Final = frozenset(
    {
        b"accept",
        b"content-type",
        b"last-event-id",
        b"mcp-method",
        b"mcp-name",
        b"mcp-protocol-version",
        b"traceparent",
        b"tracestate",
        b"x-amzn-trace-id",
        b"x-request-id",
    }
)
"""Fields of the request that came upon the loss which say nothing about the session."""


class Opening(NamedTuple):
    """What is said, and to whom."""

    session: Session
    params: bytes
    """Of `initialize`."""
    uris: Sequence[bytes]
    """Of the resources that the client has subscribed to."""
    loss: Loss
    """Why it is needed."""
    pools: Iterator[Pool]
    """The upstreams, in the order in which they are asked."""
    fields: Fields
    """End-to-end fields of the client's."""
    admitted: Admitted | None = None
    """What is known of the client's token: some upstreams are told whose session it is."""


class Replay:
    """One attempt; its `done` is called once, unless it is abandoned."""

    __slots__ = (
        "_done",
        "_errand",
        "_plane",
        "_pools",
        "_rest",
        "deadline",
        "opening",
        "pool",
        "upstream_id",
    )

    def __init__(
        self, plane: DataPlane, opening: Opening, deadline: float, done: Callable[[Replay, Event], None]
    ) -> None:
        """`deadline`: when all of it has to be over, on the plane's clock."""
        self._plane = plane
        self._done = done
        self._pools = opening.pools
        self._rest: deque[bytes] = deque()
        self._errand: Errand | None = None
        self.opening = opening
        self.deadline = deadline
        self.pool: Pool | None = None
        """The upstream asked last."""
        self.upstream_id: bytes | None = None
        """What it calls the new session; None while there is none."""

    def start(self) -> None:
        """Begin with the first upstream."""
        self._ask_next()

    def abandon(self) -> None:
        """Give up, without a word."""
        errand, self._errand = self._errand, None
        if errand is not None:
            errand.abandon()

    # The steps.

    def _ask_next(self) -> None:
        pool = next(self._pools, None)
        if pool is None:
            self._finish(Event.NO_UPSTREAM)
            return
        self.pool = pool
        # Over a connection that cannot be stale: the upstream has restarted, as a rule.
        self._send(render_initialize(self.opening.params, _id(0)), self._initialized, fresh=True)

    def _initialized(self, answer: Answer | Refusal, result: Result | None) -> None:
        """Judge what an upstream says to `initialize`."""
        if isinstance(answer, Refusal):
            if answer in _UNREACHABLE:
                self._ask_next()
            else:
                self._finish(Event.NO_UPSTREAM)
            return
        if _is_unable(answer.status):
            self._ask_next()
            return
        record = self.opening.session.record
        new_id = answer.session_id
        if not _is_good(answer.status) or new_id is None or not USABLE_ID.fullmatch(new_id):
            self._finish(Event.UNLIKE)
            return
        self.upstream_id = new_id
        if (
            result is None
            or result.version != record.version
            or not offers_at_least(result.capabilities, record.capabilities)
        ):
            self._finish(Event.UNLIKE)
            return
        if record.initialized:
            self._rest.append(INITIALIZED)
        if record.log_level:
            self._rest.append(render_set_level(record.log_level, _id(1)))
        for number, uri in enumerate(self.opening.uris, 2):
            self._rest.append(render_subscribe(uri, _id(number)))
        self._go_on()

    def _go_on(self) -> None:
        if self._rest:
            message = self._rest.popleft()
            self._send(message, partial(self._taken, message is INITIALIZED))
        else:
            self._finish(Event.RECOVERED)

    def _taken(self, is_notification: bool, answer: Answer | Refusal, result: Result | None) -> None:
        """Judge what the new session says to a message that the old one had accepted."""
        if isinstance(answer, Refusal) or _is_unable(answer.status):
            self._finish(Event.NO_UPSTREAM)
        elif not _is_good(answer.status) or (result is None and not is_notification):
            self._finish(Event.UNLIKE)
        else:
            self._go_on()

    # Asking.

    def _send(
        self, body: bytes, then: Callable[[Answer | Refusal, Result | None], None], *, fresh: bool = False
    ) -> None:
        seconds = self.deadline - self._plane.clock()
        if seconds <= 0:
            self._finish(Event.NO_UPSTREAM)
            return
        assert self.pool is not None
        fields = [*self.opening.fields, *_JSON]
        if self.upstream_id is not None:
            version = self.opening.session.record.version.encode()
            fields += ((b"Mcp-Session-Id", self.upstream_id), (b"MCP-Protocol-Version", version))
        events = ResultWatch(is_stream=True)

        def done(errand: Errand, answer: Answer | Refusal) -> None:
            if self._errand is not errand:
                return  # Abandoned.
            self._errand = None
            result = None
            if isinstance(answer, Answer):
                result = events.result if answer.event_stream else _read(answer.content)
            then(answer, result)

        errand = self._errand = Errand(
            self._plane,
            self.pool,
            b"POST",
            fields,
            body,
            done,
            seconds=seconds,
            suffix=self.opening.session.record.suffix,
            rpc_method=None if self.upstream_id is not None else "initialize",
            # A server may keep the stream open behind its answer.
            is_enough=lambda data: events.feed(data) is not None,
            admitted=self.opening.admitted,
        )
        errand.start(fresh=fresh)

    def _finish(self, event: Event) -> None:
        self._errand = None
        self._done(self, event)


def fields_of_session(fields: Fields) -> Fields:
    """Those fields of a request that will be the same in every request of its client."""
    return [(name, value) for name, value in fields if name.lower() not in _OF_ONE_MESSAGE]


def _id(number: int) -> str:
    """The id of a request of the proxy's own: no client uses it."""
    return f"shadowcat-recovery-{number}"


def _is_good(status: int) -> bool:
    return 200 <= status < 300


def _is_unable(status: int) -> bool:
    """Whether the upstream says that it cannot now: another one may."""
    return status >= 500 or status == HTTPStatus.TOO_MANY_REQUESTS


def _read(content: bytes) -> Result | None:
    watch = ResultWatch(is_stream=False)
    watch.feed(content)
    return watch.result if watch.end() is Outcome.RESULT else None
