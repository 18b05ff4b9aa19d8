"""Runs an ASGI application of a mock server: in this process until a signal, or on a thread inside a test."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvicorn
import uvloop

from shadowcat.testing.mock_mcp.app import protocol_for
from shadowcat.testing.mock_mcp.capture import Capture


class HttpServer(uvicorn.Server):
    """uvicorn with the capturing protocol, without logs and without its signal handling.

    Its own handling would re-raise SIGTERM after a graceful end.

    Args:
        app: The application.
        capture: Where connections are counted.
        keep_alive: Seconds an idle connection stays open.
        grace: Seconds that running requests get to finish once it is to stop.
        certificate: PEM file with a certificate chain: the server speaks TLS.
        key: PEM file with the certificate's private key.

    Raises:
        ValueError: Certificate and key cannot be used.
    """

    def __init__(
        self,
        app: Any,
        capture: Capture,
        *,
        keep_alive: int,
        grace: int,
        certificate: Path | None = None,
        key: Path | None = None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol_for(capture),
                ws="none",
                lifespan="off",
                log_config=None,
                log_level=logging.CRITICAL,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=keep_alive,
                timeout_graceful_shutdown=grace,
                ssl_certfile=certificate,
                ssl_keyfile=key,
            )
        )
        try:
            # Now, and not when it starts to serve: by then it has been announced.
            self.config.load()
        except OSError as error:
            raise ValueError(f"cannot use certificate {certificate} with key {key}: {error}") from error

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle no signals."""
        yield


def run_until_signal(
    server: HttpServer, run: Callable[[], Awaitable[None]], on_ready: Callable[[], None] | None
) -> None:
    """Run a server until SIGTERM or SIGINT.

    Args:
        server: What the signal stops.
        run: Serves until `server.should_exit`.
        on_ready: Called once the signals are handled and the server is about to accept.
    """

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def stop() -> None:
            server.should_exit = True

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        if on_ready is not None:
            on_ready()
        await run()

    uvloop.run(main())


class ServerThread:
    """A server on a thread of this process: a context manager that serves on entry.

    Args:
        name: What the thread and error messages call it.
        server: The server.
        run: Serves the socket until `server.should_exit`.
        sock: A bound socket.
    """

    def __init__(
        self,
        name: str,
        server: HttpServer,
        run: Callable[[socket.socket], Awaitable[None]],
        sock: socket.socket,
    ) -> None:
        self._name = name
        self._server = server
        self._run = run
        self._sock = sock
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self.port: int = sock.getsockname()[1]

    def __enter__(self) -> Self:
        self._thread.start()
        self.wait_until(lambda: self._server.started, "its start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join()

    def wait_until(self, condition: Callable[[], bool], what: str, timeout: float = 10.0) -> None:
        """Wait until a condition on what the server recorded holds.

        Raises:
            TimeoutError: It did not within `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._name} waited in vain for {what}")
            time.sleep(0.002)

    def _main(self) -> None:
        async def serve() -> None:
            await self._run(self._sock)

        uvloop.run(serve())
