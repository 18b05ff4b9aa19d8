"""`shadowcat mock`: servers to try the proxy with, and to test it."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import sys
import threading
from urllib.parse import urlsplit

import click
import orjson

from shadowcat.errors import StartError
from shadowcat.testing.mock_mcp.options import MockOptions


@click.group()
def mock() -> None:
    """Run a mock server."""


@mock.command()
@click.option(
    "--bind", default="127.0.0.1:0", show_default=True, help="Loopback HOST:PORT; port 0 picks a free one."
)
@click.option("--name", default="mock", show_default=True, help="Server name, shown by the tool whoami.")
@click.option("--json", "json_answers", is_flag=True, help="Answer on /mcp with JSON instead of SSE.")
@click.option("--stateless", is_flag=True, help="Issue no sessions in the legacy era.")
@click.option("--control", is_flag=True, help="Serve request capture and fault switches under /_control.")
@click.option(
    "--keep-alive",
    type=click.IntRange(1, 3600),
    default=5,
    show_default=True,
    help="Idle seconds per connection.",
)
@click.option(
    "--session-idle",
    type=click.FloatRange(0.1),
    default=1800.0,
    show_default=True,
    help="Idle seconds per session.",
)
@click.option("--until-eof", is_flag=True, help="Stop when standard input ends.")
def mcp(
    bind: str,
    name: str,
    json_answers: bool,
    stateless: bool,
    control: bool,
    keep_alive: int,
    session_idle: float,
    until_eof: bool,
) -> None:
    """Run a real MCP server: both eras, JSON and SSE, with tools that wait, stream, fail and ask back.

    One JSON line on standard output names the address when it is ready. SIGTERM ends it.
    """
    sock = _listen(bind)
    host, port = sock.getsockname()[:2]
    base = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    options = MockOptions(
        name=name,
        json=json_answers,
        stateless=stateless,
        control=control,
        keep_alive=keep_alive,
        session_idle=session_idle,
    )
    try:
        from shadowcat.testing.mock_mcp.server import serve
    except StartError as error:
        sock.close()
        raise click.ClickException(str(error)) from error
    ready = {"event": "ready", "url": f"{base}/mcp", "control": f"{base}/_control" if control else None}

    def announce() -> None:
        sys.stdout.buffer.write(orjson.dumps(ready) + b"\n")
        sys.stdout.buffer.flush()
        if until_eof:
            threading.Thread(target=_stop_at_eof, daemon=True).start()

    sys.exit(serve(sock, options, announce))


def _listen(bind: str) -> socket.socket:
    try:
        parts = urlsplit(f"//{bind}")
        host, port = parts.hostname or "", parts.port
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError as error:
        raise click.BadParameter(f"{bind!r} is not HOST:PORT: {error}", param_hint="--bind") from error
    if port is None:
        raise click.BadParameter(f"{bind!r} has no port; write {bind}:0 for a free one", param_hint="--bind")
    if not address.is_loopback:
        message = f"{host} is not a loopback address; the mock server has no authentication"
        raise click.BadParameter(message, param_hint="--bind")
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        return socket.create_server((str(address), port), family=family, backlog=1024)
    except OSError as error:
        raise click.ClickException(f"cannot listen on {bind}: {error.strerror or error}") from error


def _stop_at_eof() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    mock()
