"""Runs the mock MCP server: on a given socket in this process, or on a thread inside a test."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

from shadowcat.errors import StartError
from shadowcat.testing.mock_mcp.capture import Capture
from shadowcat.testing.mock_mcp.faults import Faults
from shadowcat.testing.mock_mcp.options import MockOptions

try:
    import uvicorn
    import uvloop
    from mcp.server.transport_security import TransportSecuritySettings

    from shadowcat.testing.mock_mcp.app import MockApp, protocol_for
    from shadowcat.testing.mock_mcp.control import Control
    from shadowcat.testing.mock_mcp.events import MemoryEventStore
    from shadowcat.testing.mock_mcp.tools import Calls, build_server
except ModuleNotFoundError as missing:
    raise StartError(
        f"the mock MCP server needs the package {missing.name!r}, which is not installed: "
        "run pip install 'shadowcat[mock]'"
    ) from missing

_HOSTS = ["127.0.0.1", "localhost", "[::1]"]
_RETRY_MS = 100


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handling, which would re-raise SIGTERM after a graceful end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Assembly:
    """One server: application, endpoints and uvicorn, made from the options."""

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
        control = Control(options, self.capture, self.faults, self.calls) if options.control else None
        self.uvicorn = _Server(
            uvicorn.Config(
                MockApp(endpoints, self.capture, self.faults, control),
                http=protocol_for(self.capture),
                ws="none",
                lifespan="off",
                log_config=None,
                log_level=logging.CRITICAL,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=options.keep_alive,
                timeout_graceful_shutdown=options.grace,
            )
        )

    async def run(self, sock: socket.socket) -> None:
        """Serve until `uvicorn.should_exit`."""
        async with self.managers["json"].run(), self.managers["sse"].run():
            await self.uvicorn.serve(sockets=[sock])


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

    async def main() -> None:
        assembly = _Assembly(options or MockOptions())
        loop = asyncio.get_running_loop()

        def stop() -> None:
            assembly.uvicorn.should_exit = True

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        if on_ready is not None:
            on_ready()
        await assembly.run(sock)

    logging.getLogger("mcp").setLevel(logging.CRITICAL)
    uvloop.run(main())
    return 0


class MockMcpServer:
    """A mock server on a thread of this process; `capture`, `faults` and `calls` can be used directly.

    Args:
        options: Settings; by default with control.
        sock: A bound socket; by default a new one on a free loopback port.
    """

    def __init__(self, options: MockOptions | None = None, sock: socket.socket | None = None) -> None:
        self._assembly = _Assembly(options or MockOptions(control=True))
        self._sock = sock or socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self._sock.getsockname()[1]
        self.capture: Capture = self._assembly.capture
        self.faults: Faults = self._assembly.faults
        self.calls: Calls = self._assembly.calls
        self._thread = threading.Thread(target=self._run, name="mock-mcp", daemon=True)

    @property
    def url(self) -> str:
        """The MCP endpoint."""
        return f"http://127.0.0.1:{self.port}/mcp"

    def __enter__(self) -> Self:
        self._thread.start()
        self.wait_until(lambda: self._assembly.uvicorn.started, "its start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._assembly.uvicorn.should_exit = True
        self._thread.join()

    def wait_until(self, condition: Callable[[], bool], what: str, timeout: float = 10.0) -> None:
        """Wait until a condition on the capture or the calls holds.

        Raises:
            TimeoutError: It did not within `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"mock MCP server waited in vain for {what}")
            time.sleep(0.002)

    def _run(self) -> None:
        uvloop.run(self._assembly.run(self._sock))
