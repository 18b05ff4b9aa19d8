"""The event store that makes legacy streams resumable (`Last-Event-ID`)."""

from __future__ import annotations

from collections import deque

from mcp.server.streamable_http import EventCallback, EventId, EventMessage, EventStore, StreamId
from mcp_types import JSONRPCMessage


class RecentEvents(EventStore):
    """Keeps the newest events of all streams in memory; ids are consecutive numbers."""

    def __init__(self, capacity: int = 10_000) -> None:
        self._events: deque[tuple[int, StreamId, JSONRPCMessage | None]] = deque(maxlen=capacity)
        self._last = 0

    async def store_event(self, stream_id: StreamId, message: JSONRPCMessage | None) -> EventId:
        """Keep one event; None is a priming event, which marks a position and has nothing to replay."""
        self._last += 1
        self._events.append((self._last, stream_id, message))
        return str(self._last)

    async def replay_events_after(
        self, last_event_id: EventId, send_callback: EventCallback
    ) -> StreamId | None:
        """Send again what followed an event on its own stream; None if that event is not known."""
        if not last_event_id.isdecimal():
            return None
        position = int(last_event_id)
        stream = next((owner for number, owner, _ in self._events if number == position), None)
        if stream is None:
            return None
        for number, owner, message in list(self._events):
            if owner == stream and number > position and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream
