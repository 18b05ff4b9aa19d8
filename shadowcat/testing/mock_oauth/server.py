"""Runs the mock OAuth server: on a given socket in this process, or on a thread inside a test."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import Any

from shadowcat.errors import StartError
from shadowcat.testing.mock_mcp.capture import Capture
from shadowcat.testing.mock_mcp.faults import Faults
from shadowcat.testing.mock_oauth.options import OAuthOptions

try:
    from shadowcat.testing.mock_mcp.app import MockApp
    from shadowcat.testing.mock_mcp.hosting import HttpServer, ServerThread, run_until_signal
    from shadowcat.testing.mock_oauth.app import OAuthApp
    from shadowcat.testing.mock_oauth.control import OAuthControl
    from shadowcat.testing.mock_oauth.core import Core
    from shadowcat.testing.mock_oauth.lies import Lies
except ModuleNotFoundError as missing:
    raise StartError(
        f"the mock OAuth server needs the package {missing.name!r}, which is not installed: "
        "run pip install 'shadowcat[mock]'"
    ) from missing


class OAuthServer:
    """One server: state, application and HTTP server, made from the options.

    Args:
        options: Settings.
        sock: The bound socket it will serve: the issuer's URL names its port.

    Raises:
        ValueError: A setting is wrong.
    """

    def __init__(self, options: OAuthOptions, sock: socket.socket) -> None:
        if (options.certificate is None) != (options.key is None):
            raise ValueError("a certificate and its key go together")
        self.capture = Capture()
        self.faults = Faults()
        self.lies = Lies()
        host, port = sock.getsockname()[:2]
        scheme = "http" if options.certificate is None else "https"
        self.base = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
        self.core = Core(options, self.base)
        app = OAuthApp(self.core, self.lies)
        control = OAuthControl(self.core, self.capture, self.faults, self.lies) if options.control else None
        self.http = HttpServer(
            MockApp(dict.fromkeys(app.paths, app), self.capture, self.faults, control),
            self.capture,
            keep_alive=options.keep_alive,
            grace=options.grace,
            certificate=options.certificate,
            key=options.key,
        )

    async def run(self, sock: socket.socket) -> None:
        """Serve until `http.should_exit`."""
        await self.http.serve(sockets=[sock])


def serve(
    sock: socket.socket, options: OAuthOptions, on_ready: Callable[[OAuthServer], None] | None = None
) -> int:
    """Serve on a bound TCP socket until SIGTERM or SIGINT; running requests get `options.grace` seconds.

    Args:
        sock: The socket.
        options: Settings.
        on_ready: Called once SIGTERM is handled and the server is about to accept.

    Returns:
        The process's exit status.

    Raises:
        ValueError: A setting is wrong.
    """
    server = OAuthServer(options, sock)
    announce = None if on_ready is None else lambda: on_ready(server)
    run_until_signal(server.http, lambda: server.run(sock), announce)
    return 0


class MockOAuthServer(ServerThread):
    """A mock server on a thread of this process; all of it can be used directly.

    Args:
        options: Settings; by default with control.
        sock: A bound socket; by default a new one on a free loopback port.

    Raises:
        ValueError: A setting is wrong.

    Attributes:
        issuer: The issuer's URL.
        base: The URL of the server itself; the control page is at /_control.
        capture: What was received, secrets included.
        faults: Rules that spoil HTTP.
        lies: Rules that spoil OAuth.
        core: State: `ring`, `clock`, `clients`, `users`, `store`, `mint`.
    """

    def __init__(self, options: OAuthOptions | None = None, sock: socket.socket | None = None) -> None:
        sock = sock or socket.create_server(("127.0.0.1", 0), backlog=1024)
        try:
            server = OAuthServer(options or OAuthOptions(control=True), sock)
        except ValueError:
            sock.close()
            raise
        super().__init__("mock OAuth server", server.http, server.run, sock)
        self.capture: Capture = server.capture
        self.faults: Faults = server.faults
        self.lies: Lies = server.lies
        self.core: Core = server.core
        self.issuer: str = server.core.issuer
        self.base: str = server.base

    def mint(self, claims: Mapping[str, Any] | None = None, **how: Any) -> str:
        """Sign a token; see `Mint.mint`."""
        return self.core.mint.mint(claims, **how)
