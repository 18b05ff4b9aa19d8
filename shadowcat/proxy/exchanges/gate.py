"""Stands between an answer and its client where something has to be noted before the client gets it.

Servers number their own requests anew in every session. So that a client's late answer never reaches a
session that did not ask, the requests in the answers that pass are noted in the session's slot first.

    content --look--> nothing of interest, or noted: passes
                |
                +--> the slot's lock is held: what follows is held, tried every 1 ms, cut off after 50 ms
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from math import inf
from typing import TYPE_CHECKING

from shadowcat.mcp.initialize import Outcome, ResultWatch
from shadowcat.mcp.server_requests import MAX_MESSAGE, ServerRequests
from shadowcat.shm.locks import PATIENCE, RETRY, LockBusyError

if TYPE_CHECKING:
    from shadowcat.proxy.clients.denial import Denial
    from shadowcat.proxy.clients.downstream import ClientConnection
    from shadowcat.proxy.clients.template import RequestTemplate
    from shadowcat.proxy.exchanges.exchange import Exchange
    from shadowcat.proxy.plane import DataPlane
    from shadowcat.shm.sessions.table import Session


class Gate:
    """To an exchange it is the client, to which it hands on what may pass; to a connection, who looks on."""

    __slots__ = (
        "_break_off",
        "_client",
        "_close",
        "_digests",
        "_has_ended",
        "_held",
        "_is_stream",
        "_last",
        "_notes_ids",
        "_notes_requests",
        "_plane",
        "_requests",
        "_result",
        "_session",
        "_since",
        "_size",
        "_succeeded",
    )

    def __init__(
        self,
        plane: DataPlane,
        client: ClientConnection,
        session: Session,
        *,
        is_stream: bool,
        notes_requests: bool,
        notes_ids: bool,
        succeeded: Callable[[], None] | None,
        break_off: Callable[[], None],
    ) -> None:
        """Stand before the first byte.

        Args:
            plane: Of the worker.
            client: Who gets the answer.
            session: Whose upstream gives it.
            is_stream: Whether it is a stream of events; if not, it is one JSON text.
            notes_requests: Whether requests of the server are noted.
            notes_ids: Whether it is noted that there was an event id.
            succeeded: Called when the answer turns out a result; None where that is of no interest.
            break_off: Ends the exchange if it still goes on and what has to be noted cannot be.
        """
        self._plane = plane
        self._client: ClientConnection | None = client
        self._session = session
        self._is_stream = is_stream
        self._notes_requests = notes_requests
        self._notes_ids = notes_ids
        self._requests = ServerRequests(is_stream=is_stream)
        self._succeeded = succeeded
        self._result = ResultWatch(is_stream=is_stream) if succeeded is not None else None
        self._break_off = break_off
        self._digests: deque[int] = deque()
        """To be noted before anything else passes."""
        self._since = inf
        """When the lock was found held."""
        self._held: list[bytes] = []
        self._size = 0
        self._last = b""
        """Of a JSON text what came last: it may be the end, before which the text says nothing."""
        self._has_ended = False
        self._close = False

    # What a connection does.

    def __call__(self, content: bytes) -> None:
        """Look at the next bytes of the answer's content."""
        if self._client is None:
            return
        requests = self._requests
        digests = requests.feed(content)
        if self._notes_ids and requests.has_event_id:
            self._plane.sessions.table.set_delivered(self._session)
        if digests:
            self._note(digests)
        if self._result is not None and self._result.feed(content) is Outcome.RESULT:
            self._succeed()

    # What an exchange asks of its client.

    @property
    def address(self) -> bytes:
        """The client's IP address."""
        return self._client.address if self._client is not None else b""

    @property
    def last_request(self) -> bool:
        """Whether this is the last request of the client's connection."""
        return self._client is None or self._client.last_request

    def name(self, template: RequestTemplate | None) -> str:
        """The client's address, seen through trusted proxies."""
        return self._client.name(template) if self._client is not None else ""

    def write(self, data: bytes) -> None:
        """Hand on what came before `data`, and `data` too if nothing speaks against it."""
        if not self._is_stream:
            data, self._last = self._last, data
        self._pass(data)

    def exchange_ended(self, close: bool) -> None:
        """The answer is complete."""
        if not self._is_stream:
            self._note(self._requests.end())
            if self._result is not None and self._result.end() is Outcome.RESULT:
                self._succeed()
            self._pass(self._last)
        self._has_ended = True
        self._close = close
        if not self._digests:
            self._open()

    def cut_off(self, *, reset: bool) -> None:
        """The answer broke off: what is held goes with it."""
        client = self._leave()
        if client is not None:
            client.cut_off(reset=reset)

    def refuse_exchange(self, exchange: Exchange, denial: Denial) -> None:
        """Nothing of the answer was sent."""
        client = self._leave()
        if client is not None:
            client.refuse_exchange(exchange, denial)

    def client_left(self) -> None:
        """Nobody waits for the answer any more."""
        self._leave()

    # Holding.

    def _pass(self, data: bytes) -> None:
        if not self._digests:
            if self._client is not None and data:
                self._client.write(data)
            return
        self._held.append(data)
        self._size += len(data)
        if self._size > MAX_MESSAGE:
            self._fail()

    def _note(self, digests: Iterable[int]) -> None:
        if not self._notes_requests:
            return
        was_open = not self._digests
        self._digests.extend(digests)
        if was_open and self._digests:
            self._record()

    def _record(self) -> None:
        """Note what is to be noted; what has to wait for that goes on when it is done."""
        table = self._plane.sessions.table
        try:
            while self._digests:
                table.expect(self._session, self._digests[0])
                self._digests.popleft()
        except LockBusyError:
            now = self._plane.clock()
            self._since = min(self._since, now)
            if now - self._since < PATIENCE:
                self._plane.loop.call_later(RETRY, self._again)
            else:
                self._fail()
            return
        self._since = inf

    def _again(self) -> None:
        if self._client is None:
            return
        self._record()
        if not self._digests:
            self._open()

    def _open(self) -> None:
        """Let go of what was held."""
        held, self._held = b"".join(self._held), []
        self._size = 0
        client = self._client
        if client is None:
            return
        if held:
            client.write(held)
        if self._has_ended:
            self._leave()
            client.exchange_ended(self._close)

    def _fail(self) -> None:
        """It cannot be noted: the client must not take what it has for the whole."""
        if self._has_ended:
            self.cut_off(reset=True)
        else:
            self._break_off()

    def _leave(self) -> ClientConnection | None:
        client, self._client = self._client, None
        self._digests.clear()
        self._held.clear()
        return client

    def _succeed(self) -> None:
        self._result = None
        if self._succeeded is not None:
            self._succeeded()
