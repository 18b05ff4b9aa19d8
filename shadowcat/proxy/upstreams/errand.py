"""A request of the proxy's own to an upstream, over the same pool as those of clients.

To a pool and its connections it looks like an exchange; there is no client, and the answer is collected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple

from shadowcat.errors import Refusal
from shadowcat.http1.response import Body
from shadowcat.policy.waits import Waits
from shadowcat.proxy.upstreams.response_heads import ResponseTemplate
from shadowcat.proxy.wheel import Timed

if TYPE_CHECKING:
    from shadowcat.proxy.clients.admission import Admitted
    from shadowcat.proxy.plane import DataPlane
    from shadowcat.proxy.upstreams.pool import Pool
    from shadowcat.proxy.upstreams.upstream import UpstreamConnection

_MOST_CONTENT: Final = 2**20
"""Bytes of an answer beyond which it is none."""


class Answer(NamedTuple):
    """What an upstream answered."""

    status: int
    names_session: bool
    """Whether there was a session id, even one that cannot be told."""
    session_id: bytes | None
    event_stream: bool
    """Whether `content` is server-sent events."""
    content: bytes
    """Without transfer coding."""


class Errand(Timed):
    """One request; its `done` is called exactly once."""

    __slots__ = (
        "_body",
        "_connection",
        "_content",
        "_done",
        "_fields",
        "_head",
        "_is_enough",
        "_is_over",
        "_plane",
        "_pool",
        "_size",
        "_suffix",
        "_values",
        "admitted",
        "method",
        "rpc_method",
        "started",
        "waits",
    )

    # What a connection asks of an exchange, and what is the same for all errands.
    takes_chunks: Final = False
    is_kept_whole: Final = False
    is_detached: Final = False
    refused_at: Final = inf
    session_line: Final = b""
    watch: Final = None

    def __init__(
        self,
        plane: DataPlane,
        pool: Pool,
        method: bytes,
        fields: Sequence[tuple[bytes, bytes]],
        body: bytes,
        done: Callable[[Errand, Answer | Refusal], None],
        *,
        seconds: float,
        suffix: bytes = b"",
        rpc_method: str | None = None,
        is_enough: Callable[[bytes], bool] | None = None,
        admitted: Admitted | None = None,
    ) -> None:
        """Describe it; `start` sends it.

        Args:
            plane: Of the worker.
            pool: Of the upstream.
            method: The HTTP method.
            fields: Header fields beside those of the connection; names and values.
            body: The content, without coding.
            done: Gets the answer, or why there is none.
            seconds: How long all of it may take.
            suffix: What follows the upstream's own path, and a query.
            rpc_method: That of the body, where it matters for what an answer's status says.
            is_enough: Is shown the pieces of a stream of events; whether the rest of it does not matter.
            admitted: On whose behalf, for an upstream that is told.
        """
        self.deadline = self.filed = inf
        self._plane = plane
        self._pool = pool
        self.method = method
        self.rpc_method = rpc_method
        self._fields = fields
        self._body = body
        self._done = done
        self._suffix = suffix
        self._is_enough = is_enough
        self.admitted = admitted
        self.started = plane.clock()
        self.waits = Waits(seconds, seconds)
        self._connection: UpstreamConnection | None = None
        self._head: ResponseTemplate | None = None
        self._values: tuple[bytes, ...] = ()
        self._content: list[bytes] = []
        self._size = 0
        self._is_over = False

    def start(self, *, fresh: bool = False) -> None:
        """Send it; `fresh`: over a new connection."""
        self._pool.acquire(self, fresh=fresh)

    def abandon(self) -> None:
        """Give it up; `done` hears of it."""
        if self._is_over:
            return
        if self._connection is None:
            self._pool.forget(self)
        else:
            self._connection.abandon()
        self._finish(Refusal.RESET)

    # From the pool.

    def send(self, connection: UpstreamConnection) -> bytes:
        """The request's bytes."""
        self._connection = connection
        origin = self._pool.origin
        lines = [
            b"%b: %b\r\n" % (name, value)
            for name, value in self._fields
            if name.lower() not in origin.replaced
        ]
        path, mark, query = self._suffix.partition(b"?")
        return (
            b"%b %b%b%b HTTP/1.1\r\nHost: %b\r\n%b%bAccept-Encoding: identity\r\nContent-Length: %d\r\n\r\n%b"
            % (
                self.method,
                origin.path_for(path),
                mark,
                query,
                origin.address.authority,
                b"".join(lines),
                origin.credential_lines + (self._pool.line_for(self.admitted) or b""),
                len(self._body),
                self._body,
            )
        )

    def no_connection(self, refusal: Refusal, detail: str) -> None:
        """There is none to be had."""
        self._finish(refusal)

    def on_deadline(self, now: float) -> None:
        """The wait for a connection was too long."""
        if self._connection is None and not self._is_over and self._pool.overdue(self):
            self._finish(Refusal.QUEUE_TIMEOUT)

    # From the connection.

    def answers_whole(self, status: int) -> bool:
        """Never: `open` remembers the head."""
        return False

    def open(self, head: ResponseTemplate, values: tuple[bytes, ...], body: Body, length: int) -> bytes:
        """The answer's head has arrived."""
        self._head = head
        self._values = values
        return b""

    def frame(self, data: bytes) -> bytes:
        """Content is kept as it is."""
        return data

    def last_piece(self) -> bytes:
        """Nothing follows the content."""
        return b""

    def write(self, data: bytes) -> None:
        """Keep a part of the content."""
        self._size += len(data)
        if self._size <= _MOST_CONTENT:
            self._content.append(data)
        elif self._connection is not None:
            self._connection.abandon()
            self._finish(Refusal.BAD_RESPONSE)
            return
        head = self._head
        assert head is not None
        if self._is_enough is not None and head.event_stream and self._is_enough(data):
            if self._connection is not None:
                self._connection.abandon()
            self._finish(self._answer(head))

    def comment(self) -> None:
        """Nobody has to be kept from leaving."""

    def end_stream(self) -> bool:
        """An answer has its own end."""
        return False

    def end(self, rest: bytes) -> None:
        """The answer is whole."""
        head = self._head
        assert head is not None
        if self._size + len(rest) > _MOST_CONTENT:
            self._finish(Refusal.BAD_RESPONSE)
            return
        self._content.append(rest)
        if self._is_enough is not None and head.event_stream:
            self._is_enough(rest)
        self._finish(self._answer(head))

    def _answer(self, head: ResponseTemplate) -> Answer:
        return Answer(
            head.status,
            head.names_session,
            head.session_id(self._values),
            head.event_stream,
            b"".join(self._content),
        )

    def no_answer(self, refusal: Refusal) -> None:
        """The connection ended, or the time was up."""
        self._finish(refusal)

    def cut_off(self) -> None:
        """The answer broke off."""
        self._finish(Refusal.RESET)

    def _finish(self, outcome: Answer | Refusal) -> None:
        self.deadline = inf
        self._connection = None
        if not self._is_over:
            self._is_over = True
            self._done(self, outcome)
