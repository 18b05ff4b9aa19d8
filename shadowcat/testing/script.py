"""What a scripted upstream plays (steps) and what it records (requests, connections).

A step is also plain bytes, sent as they are, or a function from the last request to the bytes of its answer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from shadowcat.testing.wire import Headers, Message


@dataclass(frozen=True, slots=True)
class Receive:
    """Read one whole request, framed strictly, and record it."""


@dataclass(frozen=True, slots=True)
class ReceiveHead:
    """Read and record a request's head only; its body stays unread."""


@dataclass(frozen=True, slots=True)
class ReceiveBytes:
    """Read this many raw bytes; they appear in `Connection.received` only."""

    count: int


@dataclass(frozen=True, slots=True)
class ReceiveEnd:
    """Read until the peer closes or resets; which of the two is in `Connection.ended`."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing, not even read, until the event is set."""

    event: threading.Event


@dataclass(frozen=True, slots=True)
class Set:
    """Set an event: the script has come this far."""

    event: threading.Event


@dataclass(frozen=True, slots=True)
class Close:
    """Close in an orderly way (FIN)."""


@dataclass(frozen=True, slots=True)
class HalfClose:
    """Send FIN and go on reading."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Abort the connection (RST)."""


@dataclass(frozen=True, slots=True)
class Hang:
    """Neither read nor write until the double stops."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """Play steps again and again until the peer closes between two requests."""

    steps: Sequence[Step]


@dataclass(frozen=True, slots=True)
class Request:
    """A recorded request. `connection` counts accepted connections from 0, `index` its requests from 0."""

    connection: int
    index: int
    method: str
    target: str
    version: str
    message: Message

    @property
    def headers(self) -> Headers:
        """Header fields in the order received."""
        return self.message.headers

    @property
    def head(self) -> bytes:
        """The head byte for byte, with its blank line."""
        return self.message.head

    @property
    def body(self) -> bytes:
        """The body without chunk framing."""
        return self.message.body

    def header(self, name: str) -> str | None:
        """Return the one value of a field, or None; fails if the field is repeated."""
        return self.message.header(name)


Step = (
    bytes
    | Callable[[Request], bytes]
    | Receive
    | ReceiveHead
    | ReceiveBytes
    | ReceiveEnd
    | Wait
    | Set
    | Close
    | HalfClose
    | Reset
    | Hang
    | Repeat
)
Ending = Literal["peer closed", "peer reset", "closed", "reset", "handshake failed"]


@dataclass(slots=True)
class Connection:
    """What happened on one accepted connection. `ended` is None while it is open.

    `received` is every byte read, `sent` how many bytes the kernel has taken so far: it stops growing when
    the peer stops reading.
    """

    number: int
    peer: tuple[str, int] | None
    requests: list[Request] = field(default_factory=list)
    received: bytearray = field(default_factory=bytearray)
    sent: int = 0
    ended: Ending | None = None
    sni: str | None = None
    client_certificate: dict[str, object] | None = None
