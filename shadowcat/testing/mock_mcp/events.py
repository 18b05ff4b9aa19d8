"""A bounded in-memory event store: resumability for the legacy era."""

from __future__ import annotations

from collections import deque
from typing import Final

from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp_types import JSONRPCMessage

_KEPT: Final = 10_000


class MemoryEventStore(EventStore):
    """Keeps the last 10,000 events of all streams. An event id, opaque to clients, is `<stream>/<number>`."""

    def __init__(self) -> None:
        self._events: deque[tuple[str, str, JSONRPCMessage | None]] = deque(maxlen=_KEPT)
        self._count = 0

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        """Keep one event and return its id."""
        self._count += 1
        event_id = f"{stream_id}/{self._count}"
        self._events.append((event_id, stream_id, message))
        return event_id

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        """Send the later events of the same stream; None if this one is not known (any more)."""
        stream_id, _, _ = last_event_id.rpartition("/")
        found = False
        for event_id, stream, message in list(self._events):
            if found and stream == stream_id and message is not None:
                await send_callback(EventMessage(message, event_id))
            found = found or event_id == last_event_id
        return stream_id if found else None
