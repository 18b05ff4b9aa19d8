"""/api/sessions: what lives in the session table, and ending it by hand.

A session is named by its handle: good for pointing at it, useless for speaking in it. Nothing that would be
of use there leaves this module: no session id, neither the proxy's nor the upstream's, and nothing that the
client sent.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import orjson
from aiohttp import web

from shadowcat.control.closer import Closer
from shadowcat.control.present import Present
from shadowcat.log import LOGGER
from shadowcat.shm.locks import PATIENCE, RETRY, LockBusyError
from shadowcat.shm.sessions import ids
from shadowcat.shm.sessions.table import Session, SessionTable
from shadowcat.shm.shared import worker_number

Document = dict[str, Any]
Result = TypeVar("Result")

PAGE_LIMIT: Final = 1000
_DEFAULT_LIMIT: Final = 100
_CHUNK: Final = 256
"""Slots read at a time. Between two chunks the loop does what else there is to do."""
_NUMBER: Final = re.compile(r"[0-9]{1,9}")
_HOUR: Final = 3_600_000_000_000


class SessionsApi:
    """Answers /api/sessions."""

    def __init__(self, present: Present, table: SessionTable, closer: Closer) -> None:
        self._table = table
        self._closer = closer
        self._present = present

    def routes(self) -> list[web.RouteDef]:
        """What to add to the application."""
        return [
            web.get("/api/sessions", self._list),
            web.get("/api/sessions/{handle}", self._show),
            web.delete("/api/sessions/{handle}", self._end),
        ]

    async def _list(self, request: web.Request) -> web.Response:
        limit = _number(request, "limit", _DEFAULT_LIMIT)
        cursor = _number(request, "cursor", 0)
        if not 1 <= limit <= PAGE_LIMIT:
            raise web.HTTPBadRequest(reason=f"limit must be 1 to {PAGE_LIMIT}")
        sessions: list[Document] = []
        while cursor < self._table.capacity:
            count = min(_CHUNK, self._table.capacity - cursor)
            now = time.monotonic_ns()
            for session in self._table.live(cursor, count):
                if self._table.expires_at(session) <= now:
                    continue
                if len(sessions) == limit:
                    return _json({"sessions": sessions, "cursor": session.slot})
                sessions.append(self._document(session, now))
            cursor += count
            await asyncio.sleep(0)
        return _json({"sessions": sessions, "cursor": None})

    async def _show(self, request: web.Request) -> web.Response:
        session = await _persist(lambda: self._find(request.match_info["handle"]))
        return _json(self._document(session, time.monotonic_ns()))

    async def _end(self, request: web.Request) -> web.Response:
        handle = request.match_info["handle"]
        session = await _persist(lambda: self._find(handle))
        self._closer.asked(session)
        if not self._closer.order(session, self._closer.workers(time.monotonic_ns())):
            await _persist(lambda: self._closer.end(session))
        LOGGER.info("session %s is ended by an operator", handle)
        return web.Response(status=204)

    def _find(self, handle: str) -> Session:
        """The session that a handle names.

        Raises:
            web.HTTPBadRequest: That is no handle.
            web.HTTPNotFound: There is no such session, or there is another one in its slot now.
            LockBusyError: Somebody is writing it.
        """
        slot = ids.handle_slot(handle)
        if slot is None:
            raise web.HTTPBadRequest(reason="a handle is what /api/sessions lists: slot, '-', 16 hex digits")
        session = self._table.at(slot) if slot < self._table.capacity else None
        if (
            session is not None
            and ids.handle(slot, session.id) == handle
            and self._table.expires_at(session) > time.monotonic_ns()
        ):
            return session
        raise web.HTTPNotFound(reason="no such session")

    def _document(self, session: Session, now_ns: int) -> Document:
        record = session.record
        _, upstream = self._present.upstream(record.row, record.generation)
        carrier, _ = self._table.stream(session)
        return {
            "handle": ids.handle(session.slot, session.id),
            "route": record.route,
            "upstream": upstream,
            "principal": record.principal,
            "owner": record.owner or record.principal,
            "protocol_version": record.version or None,
            "state": record.state.name.lower(),
            "age_seconds": (now_ns - record.created_ns) / 1e9,
            "idle_seconds": max(0, now_ns - self._table.last_seen(session)) / 1e9,
            "expires_in_seconds": (self._table.expires_at(session) - now_ns) / 1e9,
            "stream": carrier - worker_number(0) if carrier else None,
            "incarnation": session.incarnation,
            "recoveries": sum(now_ns - moment <= _HOUR for moment in record.recoveries),
        }


async def _persist(work: Callable[[], Result]) -> Result:
    """Do what a lock may stand in the way of.

    Raises:
        web.HTTPServiceUnavailable: It did so for PATIENCE seconds.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return work()
        except LockBusyError:
            if time.monotonic() >= deadline:
                raise web.HTTPServiceUnavailable(
                    reason="the session is locked by a process that does not get on with it: try again"
                ) from None
        await asyncio.sleep(RETRY)


def _number(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if _NUMBER.fullmatch(text) is None:
        raise web.HTTPBadRequest(reason=f"{name} must be a number")
    return int(text)


def _json(document: Document) -> web.Response:
    return web.Response(body=orjson.dumps(document), content_type="application/json")
