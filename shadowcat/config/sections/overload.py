"""What the host takes on at most, and what happens to the rest."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from shadowcat.config.sections.base import Positive, Section
from shadowcat.config.units import Duration, Size

Priority = Literal["low", "normal", "high"]


class Overload(Section, frozen=True, kw_only=True):
    """Bounds for the whole host, all workers together."""

    max_connections: Positive | None = None
    """Most client connections. For a further one the connection that was idle for longest is closed; if none
    is, it gets 503. Off by default; descriptors that run short have the same effect."""
    max_in_flight: Positive | None = None
    """Most requests that are being carried out; further ones wait. Streams (GET, subscriptions/listen),
    notifications, clients' answers and DELETE neither count nor wait. Off by default."""
    queue: Annotated[int, Meta(ge=0)] = 1024
    """Most requests that wait, an equal part of it for each worker; 0: none waits."""
    queue_timeout: Duration = Duration(1)
    """How long one waits at most; then it gets 503. 0: none waits."""
    max_buffered: Size = Size(256 * 2**20)
    """Most bytes of request bodies above 16 KiB, and of answers that slow clients have not taken. Beyond it
    such a body gets 503 before it is read."""
