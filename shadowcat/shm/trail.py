"""The audit trail of one process: its events become lines, which wait in a ring for control to write them.

Every line is one JSON object with the same members, null where they do not apply:

    time, id, event, outcome, reason, request_id, trace_id, rpc_id, session, principal, client, http, method,
    tool, status, seconds, route, upstream, worker, data

`id` is unique for ever: the time at which the host was started, the process, and the line's place in what
that process has recorded. Who kills control may find a line twice, with the same id, never miss one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from shadowcat.config.model import Audit, AuditEvent
from shadowcat.shm.rings import Ring, space_for

LONGEST_LINE: Final = 2040
"""Bytes; with its length, a line takes 2 KiB of a ring."""
SPACE: Final = space_for(LONGEST_LINE)
"""Bytes that must be free in a ring for a line to be certain of its place."""
_SHORT: Final = 16
_CHOSEN: Final = ("request_id", "rpc_id", "client", "method", "tool", "reason")
"""Members that somebody else chose freely. They are bounded, but written in JSON may be six times as long."""
_LINE_FEED: Final = orjson.OPT_APPEND_NEWLINE

Members = dict[str, Any]


class Trail:
    """Where a process records events."""

    __slots__ = (
        "_cells",
        "_dropped",
        "_events",
        "_millisecond",
        "_opening",
        "_prefix",
        "_wall",
        "ring",
        "worker",
    )

    def __init__(
        self,
        section: Audit,
        ring: Ring,
        process: int,
        worker: int | None,
        wall: Callable[[], float],
        cells: memoryview,
        dropped: int,
    ) -> None:
        """Go on behind what the process before this one has recorded.

        Args:
            section: What is recorded.
            ring: The process's own.
            process: Its number.
            worker: Its slot, if it is a worker.
            wall: The time of day, in seconds since 1970.
            cells: Of the process's page.
            dropped: The cell that counts what there was no room for.
        """
        self._events = None if section.events is None else frozenset(section.events)
        self.ring = ring
        self._prefix = b"%x-%x" % (ring.epoch, process)
        self._wall = wall
        self._cells = cells
        self._dropped = dropped
        self._millisecond = -1
        self._opening = b""
        self.worker = worker

    def takes(self, event: AuditEvent) -> bool:
        """Whether such events are recorded."""
        return self._events is None or event in self._events

    def record(
        self,
        event: AuditEvent,
        outcome: str,
        reason: str | None = None,
        *,
        request_id: str | None = None,
        trace_id: str | None = None,
        rpc_id: str | None = None,
        session: str | None = None,
        principal: str | None = None,
        client: str | None = None,
        http: str | None = None,
        method: str | None = None,
        tool: str | None = None,
        status: int | None = None,
        seconds: float | None = None,
        route: str | None = None,
        upstream: str | None = None,
        data: Members | None = None,
    ) -> None:
        """Record an event, if such events are. Never blocks, and never raises for what is in it.

        Args:
            event: Its kind.
            outcome: How it went, in a word.
            reason: Why.
            request_id: X-Request-Id of the request.
            trace_id: Its trace, 32 hexadecimal digits.
            rpc_id: The id of the JSON-RPC message, as it is spelt.
            session: The handle of the session.
            principal: On whose behalf.
            client: The address of the client.
            http: The HTTP method.
            method: The JSON-RPC method.
            tool: The tool or prompt.
            status: The HTTP status; None if there was none.
            seconds: How long it took.
            route: The path of the route.
            upstream: The name of the upstream.
            data: What is special about the event.
        """
        if self._events is not None and event not in self._events:
            return
        members = {
            "event": event,
            "outcome": outcome,
            "reason": reason,
            "request_id": request_id,
            "trace_id": trace_id,
            "rpc_id": rpc_id,
            "session": session,
            "principal": principal,
            "client": client,
            "http": http,
            "method": method,
            "tool": tool,
            "status": status,
            "seconds": seconds,
            "route": route,
            "upstream": upstream,
            "worker": self.worker,
            "data": data,
        }
        self.put(_line(self.stamp(), members))

    def stamp(self) -> bytes:
        """How the next line begins: its time and its id."""
        millisecond = int(self._wall() * 1000)
        if millisecond != self._millisecond:
            self._millisecond = millisecond
            self._opening = b'{"time":"%b","id":"%b-' % (_rfc3339(millisecond).encode(), self._prefix)
        return b'%b%x",' % (self._opening, self.ring.tail)

    def put(self, line: bytes) -> None:
        """Record a line that was written elsewhere: with `stamp`, all members, and a line feed."""
        if not self.ring.append(line):
            self._cells[self._dropped] += 1


def _rfc3339(millisecond: int) -> str:
    second, rest = divmod(millisecond, 1000)
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}.{rest:03d}Z"


def _line(stamp: bytes, members: Members) -> bytes:
    most = LONGEST_LINE + 1 - len(stamp)
    try:
        line = orjson.dumps(members, option=_LINE_FEED)
    except orjson.JSONEncodeError:  # A lone surrogate.
        members |= {key: _encodable(value) for key, value in members.items() if isinstance(value, str)}
        line = orjson.dumps(members | {"data": None}, option=_LINE_FEED)
    if len(line) > most:
        members |= {key: _short(members[key]) for key in _CHOSEN}
        line = orjson.dumps(members, option=_LINE_FEED)
    if len(line) > most:
        line = orjson.dumps(members | {"data": {"left_out": True}}, option=_LINE_FEED)
    return stamp + line[1:]


def _short(text: str | None) -> str | None:
    return text if text is None or len(text) <= _SHORT else text[:_SHORT] + "…"


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def as_many(texts: Sequence[str], length: int) -> list[str]:
    """The first of some texts, of which the rest is left out where they are too long together."""
    found: list[str] = []
    for text in texts:
        length -= len(text) + 3
        if length < 0:
            found.append("…")
            break
        found.append(text)
    return found
