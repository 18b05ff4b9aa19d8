"""One keep-alive connection of a load run: one request at a time, heads and bodies parsed by httptools."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

import httptools


class Owner(Protocol):
    """Whoever runs the connections. Each request ends in exactly one of the two calls."""

    def answered(self, connection: Connection) -> None:
        """The whole answer is there: see `status`, `body`, `session`, `first_byte`."""
        ...

    def lost(self, connection: Connection) -> None:
        """The connection is gone, or sent what is no HTTP; `busy` tells whether a request was open."""
        ...


class Connection(asyncio.Protocol):
    """A client connection that can be used again after each answer.

    Args:
        owner: Told of every answer and of the end.
        clock: Nanoseconds, monotonic.
    """

    __slots__ = (
        "_chunks",
        "_clock",
        "_parser",
        "_transport",
        "busy",
        "due",
        "first_byte",
        "owner",
        "request_id",
        "sent",
        "session",
        "status",
    )

    def __init__(self, owner: Owner, clock: Callable[[], int]) -> None:
        self.owner = owner
        self._clock = clock
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(_Handshake(self))
        self._chunks: list[bytes] = []
        self.busy = False
        self.status = 0
        self.session: bytes | None = None
        self.request_id = 0
        self.due = 0
        """When the open request was due, in nanoseconds since the run's start."""
        self.sent = 0
        """When it was sent, by the clock."""
        self.first_byte = 0
        """When the first byte of its body came, by the clock; 0 = not yet."""

    @property
    def open(self) -> bool:
        """Whether a request can still be sent on it."""
        return self._transport is not None

    @property
    def body(self) -> bytes:
        """The last answer's body."""
        return b"".join(self._chunks)

    def handshake_done(self) -> None:
        """From here on header fields are not looked at: that is half the cost of an answer."""
        self._parser = httptools.HttpResponseParser(self)

    def send(self, data: bytes) -> None:
        """Send one request; only when not `busy`."""
        assert self._transport is not None
        assert not self.busy
        self.busy = True
        self.first_byte = 0
        self._chunks = []
        self.sent = self._clock()
        self._transport.write(data)

    def close(self) -> None:
        """Cut the connection off; the owner hears of it through `lost`."""
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol
    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        # uvloop's transports do not derive from asyncio.Transport, they only look like it.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:  # noqa: D102
        if not self.busy:
            # An answer nobody asked for: what follows could be taken for the next request's answer.
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self._transport = None
        self.owner.lost(self)

    # httptools
    def on_body(self, data: bytes) -> None:  # noqa: D102
        if not self.first_byte:
            self.first_byte = self._clock()
        self._chunks.append(data)

    def on_message_complete(self) -> None:  # noqa: D102
        self.status = self._parser.get_status_code()
        self.busy = False
        if not self._parser.should_keep_alive() and self._transport is not None:
            self._transport.close()
            self._transport = None
        self.owner.answered(self)


class _Handshake:
    """Parser callbacks while a session's id can still arrive."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"mcp-session-id":
            self._connection.session = value

    def on_body(self, data: bytes) -> None:
        self._connection.on_body(data)

    def on_message_complete(self) -> None:
        self._connection.on_message_complete()
