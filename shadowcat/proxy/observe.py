"""What is told about a request once it has been answered, to those who asked for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from shadowcat.errors import Refusal
from shadowcat.mcp.envelope import Envelope
from shadowcat.proxy.template import RequestTemplate


class Observation(NamedTuple):
    """One answered request. Made only if somebody observes."""

    client: str
    """The address of the client, seen through trusted proxies."""
    template: RequestTemplate | None
    """The request's head; None if it could not be read."""
    values: tuple[bytes, ...]
    """Those of the head's varying fields."""
    envelope: Envelope | None
    """The message of a POST."""
    upstream: str | None
    """The name of the upstream that answered, or was tried last."""
    status: int
    """0 if the client left before there was an answer."""
    refusal: Refusal | None
    """Why the proxy answered itself."""
    complete: bool
    """False if the answer broke off, or the client left before its end."""
    started: float
    """On the loop's clock, seconds."""
    seconds: float
    """From the request's last byte to the answer's last."""
    received: int
    """Bytes of the request's body."""
    sent: int
    """Bytes sent to the client, head included."""


Observer = Callable[[Observation], None]
