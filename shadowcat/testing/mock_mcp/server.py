"""Runs the mock MCP server: on a given socket in this process, or on a thread inside a test."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from shadowcat.errors import StartError
from shadowcat.testing.mock_mcp.capture import Capture
from shadowcat.testing.mock_mcp.faults import Faults
from shadowcat.testing.mock_mcp.options import MockOptions

try:
    from mcp.server.transport_security import TransportSecuritySettings

    from shadowcat.testing.mock_mcp.app import MockApp
    from shadowcat.testing.mock_mcp.control import Control
    from shadowcat.testing.mock_mcp.events import MemoryEventStore
    from shadowcat.testing.mock_mcp.hosting import HttpServer, ServerThread, run_until_signal
    from shadowcat.testing.mock_mcp.tools import Calls, build_server
except ModuleNotFoundError as missing:
    raise StartError(
        f"the mock MCP server needs the package {missing.name!r}, which is not installed: "
        "run pip install 'shadowcat[mock]'"
    ) from missing

_HOSTS = ["127.0.0.1", "localhost", "[::1]"]
_RETRY_MS = 100


class _Assembly:
    """One server: application, endpoints and HTTP server, made from the options."""

    def __init__(self, options: MockOptions) -> None:
        self.capture = Capture()
        self.faults = Faults()
        self.calls = Calls()
        mcp = build_server(options, self.calls)
        security = TransportSecuritySettings(
            allowed_hosts=_HOSTS + [f"{host}:*" for host in _HOSTS],
            allowed_origins=[f"http://{host}:*" for host in _HOSTS],
        )
        self.managers = {}
        for kind in ("json", "sse"):
            mcp.streamable_http_app(
                json_response=kind == "json",
                stateless_http=options.stateless,
                event_store=MemoryEventStore(),
                retry_interval=_RETRY_MS,
                session_idle_timeout=options.session_idle,
                transport_security=security,
            )
            self.managers[kind] = mcp.session_manager
        endpoints: dict[str, Any] = {
            "/mcp": self.managers["json" if options.json else "sse"].asgi_app,
            "/mcp/json": self.managers["json"].asgi_app,
            "/mcp/sse": self.managers["sse"].asgi_app,
        }

        def state() -> dict[str, Any]:
            return {"name": options.name, **asdict(self.calls)}

        control = Control(self.capture, self.faults, state) if options.control else None
        self.server = HttpServer(
            MockApp(endpoints, self.capture, self.faults, control),
            self.capture,
            keep_alive=options.keep_alive,
            grace=options.grace,
        )

    async def run(self, sock: socket.socket) -> None:
        """Serve until `server.should_exit`."""
        async with self.managers["json"].run(), self.managers["sse"].run():
            await self.server.serve(sockets=[sock])


def serve(
    sock: socket.socket, options: MockOptions | None = None, on_ready: Callable[[], None] | None = None
) -> int:
    """Serve on a bound TCP socket until SIGTERM or SIGINT; running requests get `options.grace` seconds.

    Args:
        sock: The socket. If it listens already, connections wait in its queue until the server accepts.
        options: Settings.
        on_ready: Called once SIGTERM is handled and the server is about to accept.

    Returns:
        The process's exit status.
    """
    logging.getLogger("mcp").setLevel(logging.CRITICAL)
    assembly = _Assembly(options or MockOptions())
    run_until_signal(assembly.server, lambda: assembly.run(sock), on_ready)
    return 0


class MockMcpServer(ServerThread):
    """A mock server on a thread of this process; `capture`, `faults` and `calls` can be used directly.

    Args:
        options: Settings; by default with control.
        sock: A bound socket; by default a new one on a free loopback port.
    """

    def __init__(self, options: MockOptions | None = None, sock: socket.socket | None = None) -> None:
        assembly = _Assembly(options or MockOptions(control=True))
        super().__init__(
            "mock MCP server",
            assembly.server,
            assembly.run,
            sock or socket.create_server(("127.0.0.1", 0), backlog=1024),
        )
        self.capture: Capture = assembly.capture
        self.faults: Faults = assembly.faults
        self.calls: Calls = assembly.calls

    @property
    def url(self) -> str:
        """The MCP endpoint."""
        return f"http://127.0.0.1:{self.port}/mcp"
