"""uvicorn's HTTP protocol with what ASGI hides: raw header spelling, connection numbers, the transport."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shadowcat.testing.mock_mcp.capture import Capture
from shadowcat.testing.wire import linger_zero

SCOPE_KEY = "shadowcat.wire"


class CapturingProtocol(HttpToolsProtocol):
    """One connection. The application finds this object in the scope under `SCOPE_KEY`."""

    capture: Capture

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Number the connection."""
        super().connection_made(transport)
        self.number = self.capture.connections
        self.requests_begun = 0
        self.raw_headers: list[tuple[str, str]] = []
        self.capture.connections += 1
        self.capture.open_connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the connection out."""
        self.capture.open_connections -= 1
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Start a request: a fresh list, because a pipelined one may arrive before this one is served."""
        super().on_message_begin()
        self.requests_begun += 1
        self.raw_headers = []
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]
        scope[SCOPE_KEY] = (self, self.raw_headers)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep the spelling: uvicorn puts names into lower case."""
        self.raw_headers.append((name.decode("latin-1"), value.decode("latin-1")))
        super().on_header(name, value)

    def on_url(self, url: bytes) -> None:
        """Keep the target as received."""
        super().on_url(url)
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]
        scope["raw_target"] = self.url

    def reset(self) -> None:
        """Abort the connection with RST."""
        linger_zero(self.transport.get_extra_info("socket"))
        self.transport.abort()

    def close_when_idle(self, seconds: float) -> None:
        """Close after some idle time, unless another request has begun by then."""
        begun = self.requests_begun

        def close() -> None:
            if self.requests_begun == begun:
                self.transport.close()

        self.loop.call_later(seconds, close)
