"""The admin HTTP application."""

from __future__ import annotations

import socket
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import orjson
from aiohttp import hdrs, web

from shadowcat.config.changes import ConflictError, UnknownTargetError
from shadowcat.control.admin import guard
from shadowcat.control.admin.changes import Changes
from shadowcat.control.admin.limits import LimitsApi
from shadowcat.control.admin.metrics import exposition
from shadowcat.control.admin.readiness import complaints
from shadowcat.control.admin.sessions import SessionsApi
from shadowcat.control.admin.status import status
from shadowcat.control.admin.upstreams import UpstreamsApi
from shadowcat.control.closer import Closer
from shadowcat.control.oauth.upstream_grants import UpstreamGrants
from shadowcat.control.present import Present
from shadowcat.control.upstreams.health import HealthChecker
from shadowcat.errors import ConfigError
from shadowcat.log import LOGGER
from shadowcat.shm.sessions.table import SessionTable
from shadowcat.shm.shared import Shared

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Admin:
    """Answers every path of the admin listener."""

    def __init__(
        self,
        present: Present,
        shared: Shared,
        table: SessionTable,
        closer: Closer,
        health: HealthChecker,
        changes: Changes,
        limits: LimitsApi,
        consents: UpstreamGrants | None = None,
        *,
        token: str | None,
    ) -> None:
        """Put it together; `token` is what callers must show, None if only Unix sockets are served."""
        self._present = present
        self._shared = shared
        self._table = table
        self._health = health
        self._sessions = SessionsApi(present, table, closer)
        self._limits = limits
        self._consents = consents
        self._upstreams = UpstreamsApi(changes, consents)
        self._token = token

    def application(self) -> web.Application:
        """The application to serve."""
        application = web.Application(middlewares=[self._answer])
        application.router.add_get("/livez", self._livez)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/api/status", self._status)
        application.router.add_routes(self._sessions.routes())
        application.router.add_routes(self._upstreams.routes())
        application.router.add_routes(self._limits.routes())
        return application

    async def _livez(self, _request: web.Request) -> web.Response:
        return _json(200, {"status": "alive"})

    async def _readyz(self, _request: web.Request) -> web.Response:
        reasons = complaints(self._shared, time.monotonic_ns())
        if reasons:
            return _json(503, {"status": "not ready", "reasons": reasons})
        return _json(200, {"status": "ready"})

    async def _metrics(self, request: web.Request) -> web.Response:
        accept = request.headers.get(hdrs.ACCEPT, "")
        body, content_type = exposition(
            self._present, self._shared, self._table, self._health, accept, time.monotonic_ns()
        )
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: content_type})

    async def _status(self, _request: web.Request) -> web.Response:
        body = status(
            self._present.snapshot,
            self._shared,
            self._table,
            self._health,
            time.monotonic_ns(),
            self._consents,
        )
        return web.Response(body=body, content_type="application/json")

    @web.middleware
    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Guard every path, unknown ones included, and give every error the same form."""
        response: web.StreamResponse
        denial = self._judge(request)
        if denial is not None:
            response = _error(denial.status, denial.message)
            if denial.challenge is not None:
                response.headers[hdrs.WWW_AUTHENTICATE] = denial.challenge
        else:
            try:
                response = await handler(request)
            except web.HTTPException as error:
                response = _error(error.status, error.reason)
                if hdrs.ALLOW in error.headers:
                    response.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
            except ConfigError as error:
                response = _error(_status_of(error), str(error))
            except Exception:  # noqa: BLE001  one bad answer must not take the listener down
                LOGGER.exception("admin request %s %s failed", request.method, request.path)
                response = _error(500, "internal error; the log of the control process has the cause")
        response.headers[hdrs.CACHE_CONTROL] = "no-store"
        response.headers[hdrs.SERVER] = "shadowcat"
        return response

    def _judge(self, request: web.Request) -> guard.Denial | None:
        local = _is_local(request)
        denial = guard.check(
            request.method,
            request.headers.getall(hdrs.HOST, []),
            request.headers.getall(hdrs.ORIGIN, []),
            local,
            request.headers.getall("Sec-Fetch-Site", []),
        )
        # Whoever asks an orchestrator's probe for a secret gets a host that is restarted for ever.
        if denial is not None or request.match_info.handler in (self._livez, self._readyz):
            return denial
        return guard.admit(self._token, request.headers.getall(hdrs.AUTHORIZATION, []), local)


def _status_of(error: ConfigError) -> int:
    if isinstance(error, UnknownTargetError):
        return 404
    return 409 if isinstance(error, ConflictError) else 400


def _is_local(request: web.Request) -> bool:
    connection = request.transport.get_extra_info("socket") if request.transport else None
    return connection is not None and connection.family == socket.AF_UNIX


def _error(code: int, message: str) -> web.Response:
    return _json(code, {"status": code, "title": HTTPStatus(code).phrase, "detail": message})


def _json(code: int, document: dict[str, Any]) -> web.Response:
    return web.Response(body=orjson.dumps(document), status=code, content_type="application/json")
