"""The control page: what was received, and which faults are in force, over HTTP under /_control.

GET    /_control/requests[?count=N&timeout=S]   records; with count, waits until that many are kept
DELETE /_control/requests                       forget them
GET    /_control/faults                         rules with their counts
POST   /_control/faults                         add a rule (fields of faults.Fault)
DELETE /_control/faults                         drop all rules
GET    /_control/state                          pid, connections, and what the server itself counts
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec
import orjson

from shadowcat.testing.mock_mcp.capture import Capture
from shadowcat.testing.mock_mcp.faults import Fault, Faults
from shadowcat.testing.mock_mcp.inject import answer

_POLL: Final = 0.005
_LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")


class Control:
    """An ASGI application of its own; it never appears in the capture.

    Args:
        capture: What was received.
        faults: The rules in force.
        state: What the server adds to the state page.
    """

    def __init__(self, capture: Capture, faults: Faults, state: Callable[[], dict[str, Any]]) -> None:
        self._capture = capture
        self._faults = faults
        self._state = state

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        headers = dict(scope["headers"])
        # The capture holds credentials: a web page must not get at it by DNS rebinding or a form post.
        host = headers.get(b"host", b"").decode("latin-1").rpartition(":")
        if (host[0] or host[2]) not in _LOOPBACK or b"origin" in headers:
            await answer(send, 403, b"loopback clients only\n", "text/plain")
            return
        try:
            query = parse_qs(scope["query_string"].decode("latin-1"))
            path = scope["path"].removeprefix("/_control/")
            result = await self.dispatch(scope["method"], path, query, await _body(receive))
        except ValueError as error:
            await _json(send, 400, {"error": str(error)})
            return
        if result is None:
            await _json(send, 404, {"error": f"no {scope['method']} {scope['path']} here"})
        else:
            await _json(send, 200, result)

    async def dispatch(
        self, method: str, path: str, query: dict[str, list[str]], body: bytes
    ) -> dict[str, Any] | None:
        """Serve one request of the page.

        Returns:
            The JSON to answer with, or None: there is no such thing here.

        Raises:
            ValueError: The request is wrong; the text is for its sender.
        """
        match method, path:
            case "GET", "requests":
                await self._wait(query)
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
                self._faults.add(msgspec.json.decode(body, type=Fault))
                return {"faults": len(self._faults.rules)}
            case "DELETE", "faults":
                self._faults.clear()
                return {}
            case "GET", "state":
                return {
                    "pid": os.getpid(),
                    "total": self._capture.total,
                    "connections": self._capture.connections,
                    "open_connections": self._capture.open_connections,
                    **self._state(),
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
