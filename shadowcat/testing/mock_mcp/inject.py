"""Carries out faults between uvicorn and the application."""

from __future__ import annotations

import asyncio
from typing import Any

from shadowcat.testing.mock_mcp.faults import Fault
from shadowcat.testing.mock_mcp.transport import CapturingProtocol

Message = Any
_BAD_JSON = b'{"jsonrpc":"2.0","id":1,"result":{"con'


async def answer(
    send: Any, status: int, body: bytes, content_type: str, headers: dict[str, str] | None = None
) -> None:
    """Send a whole response over ASGI."""
    fields = {"content-type": content_type, **(headers or {}), "content-length": str(len(body))}
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


async def instead(fault: Fault, wire: CapturingProtocol, receive: Any, send: Any) -> bool:
    """Answer, or not, in place of the application. False: the application serves the request."""
    match fault.fault:
        case "delay":
            await asyncio.sleep(fault.seconds)
            return False
        case "status":
            await answer(send, fault.status, fault.body.encode(), "text/plain", fault.headers)
        case "refuse_get":
            await answer(send, 405, b"", "text/plain", {"Allow": "POST, DELETE"})
        case "bad_json":
            await answer(send, 200, _BAD_JSON, "application/json")
        case "hang":
            await _until_disconnect(receive)
        case "reset" if fault.bytes is None:
            wire.reset()
        case _:
            return False
    return True


class Cutter:
    """An ASGI `send` that lets part of a response through and then ends, or stops, the connection."""

    __slots__ = ("_chunked", "_fault", "_left", "_send", "_wire", "cut")

    def __init__(self, fault: Fault, wire: CapturingProtocol, send: Any) -> None:
        self._fault = fault
        self._wire = wire
        self._send = send
        self._left = fault.bytes
        self._chunked = True
        self.cut = False

    async def __call__(self, message: Message) -> None:
        """Pass a message on, or cut inside it. What comes after the cut is dropped."""
        if self.cut:
            return
        if message["type"] == "http.response.start":
            self._chunked = not any(name.lower() == b"content-length" for name, _ in message["headers"])
            await self._send(message)
            return
        body: bytes = message.get("body", b"")
        more: bool = message.get("more_body", False)
        if self._left is None and body:
            self._left = len(body) // 2
        if more and (not body or (self._left is not None and self._left >= len(body))):
            self._left = self._left and self._left - len(body)
            await self._send(message)
            return
        # A cut behind the last byte would be no cut: hold that one back.
        part = body[: min(self._left or 0, max(len(body) - 1, 0))]
        # The announced chunk, like the announced length, is longer than what comes.
        self._wire.transport.write((b"%x\r\n" % len(body) if self._chunked and body else b"") + part)
        self.cut = True
        match self._fault.fault:
            case "reset":
                self._wire.reset()
            case "truncate":
                self._wire.transport.close()


async def _until_disconnect(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def hold_open(cutter: Cutter, receive: Any) -> None:
    """Keep a stalled exchange open: returning from the application would make uvicorn close it."""
    if cutter.cut:
        await _until_disconnect(receive)
