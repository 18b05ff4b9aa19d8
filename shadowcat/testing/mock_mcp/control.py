"""The control page: what was received, and which faults are in force, over HTTP under /_control.

GET    /_control/requests[?count=N&timeout=S]   records; with count, waits until that many are kept
DELETE /_control/requests                       forget them
GET    /_control/faults                         rules with their counts
POST   /_control/faults                         add a rule (fields of faults.Fault)
DELETE /_control/faults                         drop all rules
GET    /_control/state                          name, pid, connections, running and cancelled tool calls
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec
import orjson

from shadowcat.testing.mock_mcp.capture import Capture
from shadowcat.testing.mock_mcp.faults import Fault, Faults
from shadowcat.testing.mock_mcp.inject import answer
from shadowcat.testing.mock_mcp.options import MockOptions
from shadowcat.testing.mock_mcp.tools import Calls

_POLL: Final = 0.005
_LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")


class Control:
    """An ASGI application of its own; it never appears in the capture."""

    def __init__(self, options: MockOptions, capture: Capture, faults: Faults, calls: Calls) -> None:
        self._options = options
        self._capture = capture
        self._faults = faults
        self._calls = calls

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        headers = dict(scope["headers"])
        # The capture holds credentials: a web page must not get at it by DNS rebinding or a form post.
        host = headers.get(b"host", b"").decode("latin-1").rpartition(":")
        if (host[0] or host[2]) not in _LOOPBACK or b"origin" in headers:
            await answer(send, 403, b"loopback clients only\n", "text/plain")
            return
        try:
            result = await self._dispatch(scope, receive)
        except (msgspec.ValidationError, msgspec.DecodeError, ValueError) as error:
            await _json(send, 400, {"error": str(error)})
            return
        if result is None:
            await _json(send, 404, {"error": f"no {scope['method']} {scope['path']} here"})
        else:
            await _json(send, 200, result)

    async def _dispatch(self, scope: Any, receive: Any) -> Any:
        match scope["method"], scope["path"].removeprefix("/_control/"):
            case "GET", "requests":
                await self._wait(parse_qs(scope["query_string"].decode("latin-1")))
                return {
                    "requests": [entry.as_json() for entry in self._capture.requests],
                    "total": self._capture.total,
                    "connections": self._capture.connections,
                }
            case "DELETE", "requests":
                self._capture.clear()
                return {}
            case "GET", "faults":
                return {"faults": [msgspec.to_builtins(rule) for rule in self._faults.rules]}
            case "POST", "faults":
                self._faults.add(msgspec.json.decode(await _body(receive), type=Fault))
                return {"faults": len(self._faults.rules)}
            case "DELETE", "faults":
                self._faults.clear()
                return {}
            case "GET", "state":
                return {
                    "name": self._options.name,
                    "pid": os.getpid(),
                    "total": self._capture.total,
                    "connections": self._capture.connections,
                    "open_connections": self._capture.open_connections,
                    "running": self._calls.running,
                    "finished": self._calls.finished,
                    "cancelled": self._calls.cancelled,
                }
        return None

    async def _wait(self, query: dict[str, list[str]]) -> None:
        count = int(query.get("count", ["0"])[0])
        deadline = time.monotonic() + min(float(query.get("timeout", ["10"])[0]), 60.0)
        while len(self._capture.requests) < count and time.monotonic() < deadline:  # noqa: ASYNC110 - a test page
            await asyncio.sleep(_POLL)


async def _body(receive: Any) -> bytes:
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    return body


async def _json(send: Any, status: int, value: Any) -> None:
    await answer(send, status, orjson.dumps(value), "application/json")
