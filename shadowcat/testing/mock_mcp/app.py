"""The mock server's ASGI application: MCP endpoints, capture, faults, control page."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from shadowcat.testing.mock_mcp.capture import Capture
from shadowcat.testing.mock_mcp.faults import Faults
from shadowcat.testing.mock_mcp.inject import Cutter, answer, hold_open, instead
from shadowcat.testing.mock_mcp.transport import SCOPE_KEY, CapturingProtocol

AsgiApp = Callable[[Any, Any, Any], Awaitable[None]]
_MAX_BODY: Final = 16 * 1024 * 1024


class MockApp:
    """Routes by exact path. Without `control` nothing is captured and no fault applies."""

    def __init__(
        self,
        endpoints: Mapping[str, AsgiApp],
        capture: Capture,
        faults: Faults,
        control: AsgiApp | None,
    ) -> None:
        self._endpoints = endpoints
        self._capture = capture
        self._faults = faults
        self._control = control

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        path: str = scope["path"]
        if self._control is not None and path.startswith("/_control"):
            await self._control(scope, receive, send)
        elif self._control is not None:
            await self._observed(scope, receive, send)
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        endpoint = self._endpoints.get(scope["path"])
        if endpoint is not None:
            await endpoint(scope, receive, send)
        elif scope["path"] == "/health":
            await answer(send, 200, b"ok\n", "text/plain")
        else:
            await answer(send, 404, b"not found\n", "text/plain")

    async def _observed(self, scope: Any, receive: Any, send: Any) -> None:
        wire, raw_headers = scope[SCOPE_KEY]
        messages, body = await _read(receive)
        target = scope["raw_target"].decode("latin-1")
        entry = self._capture.record(wire.number, scope["method"], target, raw_headers, body)
        complete = False

        async def replay() -> Any:
            return messages.popleft() if messages else await receive()

        async def watch(message: Any) -> None:
            nonlocal complete
            if message["type"] == "http.response.start":
                entry.status = message["status"]
            await send(message)
            complete = complete or (
                message["type"] == "http.response.body" and not message.get("more_body", False)
            )

        fault = self._faults.choose(entry)
        cycle = wire.cycle
        cut = False
        try:
            if fault is not None and await instead(fault, wire, receive, watch):
                cut = True
                return
            if fault is not None and fault.fault in ("reset", "truncate", "stall"):
                cutter = Cutter(fault, wire, watch)
                await self._serve(scope, replay, cutter)
                cut = cutter.cut
                if fault.fault == "stall":
                    await hold_open(cutter, receive)
                return
            await self._serve(scope, replay, watch)
        finally:
            gone = cycle.disconnected and not complete
            entry.outcome = "fault" if cut else "client gone" if gone else "answered"
        if fault is not None and fault.fault == "close_idle":
            wire.close_when_idle(fault.seconds)


async def _read(receive: Any) -> tuple[deque[Any], bytes]:
    """Read a request's body, up to a bound, and keep the messages for the application."""
    messages: deque[Any] = deque()
    body = bytearray()
    while len(body) < _MAX_BODY:
        message = await receive()
        messages.append(message)
        if message["type"] != "http.request":
            break
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    return messages, bytes(body)


def protocol_for(capture: Capture) -> type[asyncio.Protocol]:
    """Return a protocol class that reports to this capture: uvicorn makes the instances itself."""
    return type("CapturingProtocol", (CapturingProtocol,), {"capture": capture})
