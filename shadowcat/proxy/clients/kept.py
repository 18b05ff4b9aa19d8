"""A client connection as the plane sees it, which looks after all of them."""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING, Final

from shadowcat.proxy.clients.client_state import State
from shadowcat.proxy.clients.request_reader import Stage
from shadowcat.proxy.flow import descriptor_of
from shadowcat.proxy.wheel import Timed

if TYPE_CHECKING:
    from shadowcat.proxy.clients.pages import Visit
    from shadowcat.proxy.clients.request_reader import RequestReader
    from shadowcat.proxy.clients.waiter import Waiter
    from shadowcat.proxy.exchanges.exchange import Exchange
    from shadowcat.proxy.limits.entrance import LockWaiter

_READING: Final = State.READING
_CLOSED: Final = State.CLOSED


class Kept(asyncio.Protocol, Timed):
    """What it is told and asked now and then."""

    __slots__ = ()

    _exchange: Exchange | None
    _keepalive: float
    _paused: bool
    _reader: RequestReader
    _state: State
    _transport: asyncio.Transport
    _waiter: Waiter | LockWaiter | Visit | None

    def touch(self, now_ns: int) -> None:
        """Some time has passed: see `Exchange.touch`."""
        if self._exchange is not None:
            self._exchange.touch(now_ns)

    def forget_head(self) -> None:
        """Some time has passed: an idle connection keeps no token."""
        self._reader.forget()

    def forget_verdict(self) -> None:
        """What heads are judged by has changed."""
        self._reader.forget_verdict()

    def abort(self) -> None:
        """The worker stops now, or has no room."""
        self._transport.abort()

    # Too many connections.

    @property
    def descriptor(self) -> int:
        """The number of its descriptor."""
        return descriptor_of(self._transport)

    @property
    def is_gone(self) -> bool:
        """Whether the connection has ended, or does so by itself."""
        return self._state is _CLOSED

    def idle_for(self, now: float) -> float:
        """Seconds since its last request was answered, or since it was opened; below 0 if it is in use."""
        if self._state is not _READING or self._reader.stage is not Stage.IDLE or self._paused:
            return -inf
        return now + self._keepalive - self.deadline

    # Too many bytes.

    @property
    def needs_body(self) -> bool:
        """Whether what it has sent may be needed once more."""
        return self._exchange is not None or self._waiter is not None

    def let_go(self) -> int:
        """Of the last request nothing is needed any more: how many bytes it had room for. 0 if the next one
        is arriving, which has taken its place.
        """
        reader = self._reader
        if self._state is _READING and reader.stage is Stage.BODY:
            return 0
        held, reader.held = reader.held, 0
        return held

    @property
    def unsent(self) -> int:
        """Bytes that it has not taken yet; 0 if it caught up, or is gone."""
        return self._transport.get_write_buffer_size() if self._paused and self._state is not _CLOSED else 0
