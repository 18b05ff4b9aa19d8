"""`shadowcat mock`: servers to try the proxy with, and to test it."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import msgspec
import orjson

from shadowcat.errors import StartError
from shadowcat.testing.mock_mcp.options import MockOptions
from shadowcat.testing.mock_oauth.options import OAuthOptions
from shadowcat.testing.mock_oauth.records import Client


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
    sys.exit(serve(sock, options, lambda: _announce(base, f"{base}/mcp", control, until_eof)))


class _ClientType(click.ParamType[Client]):
    """A client as a JSON object of registration metadata (RFC 7591) with client_id and client_secret."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Client:
        try:
            return msgspec.json.decode(value, type=Client)
        except msgspec.DecodeError as error:
            self.fail(f"{error}; write it as in the registration of RFC 7591", param, ctx)


@mock.command()
@click.option(
    "--bind", default="127.0.0.1:0", show_default=True, help="Loopback HOST:PORT; port 0 picks a free one."
)
@click.option(
    "--issuer",
    default="",
    help="Issuer: a URL at which clients reach the server, or only its path. Default: the bound address.",
)
@click.option(
    "--algorithm",
    "algorithms",
    multiple=True,
    help="Make a key for it; repeatable, the first one signs. Default: RS256 ES256 EdDSA PS256.",
)
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    help="What can be asked for; repeatable, the first is the default. "
    "Default: mcp:read mcp:write mcp:admin openid.",
)
@click.option(
    "--resource", "resources", multiple=True, help="Issue tokens only for it (RFC 8707); repeatable."
)
@click.option("--subject", default="alice", show_default=True, help="The user who approves.")
@click.option(
    "--client",
    "clients",
    multiple=True,
    type=_ClientType(),
    help="A client known from the start, as JSON registration metadata; repeatable.",
)
@click.option("--no-registration", is_flag=True, help="Let no client register itself.")
@click.option("--opaque", is_flag=True, help="Issue access tokens that only introspection explains.")
@click.option(
    "--access-lifetime",
    type=click.IntRange(1),
    default=300,
    show_default=True,
    help="Seconds an access token is good.",
)
@click.option(
    "--code-lifetime", type=click.IntRange(1, 600), default=60, show_default=True, help="The same for codes."
)
@click.option(
    "--refresh-lifetime",
    type=click.IntRange(1),
    default=86400,
    show_default=True,
    help="The same for refresh tokens.",
)
@click.option(
    "--certificate",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="PEM file with a certificate chain: speak TLS.",
)
@click.option(
    "--key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="PEM file with its private key.",
)
@click.option("--control", is_flag=True, help="Serve request capture, faults, lies and keys under /_control.")
@click.option(
    "--keep-alive",
    type=click.IntRange(1, 3600),
    default=5,
    show_default=True,
    help="Idle seconds per connection.",
)
@click.option("--until-eof", is_flag=True, help="Stop when standard input ends.")
def oauth(
    bind: str,
    issuer: str,
    algorithms: tuple[str, ...],
    scopes: tuple[str, ...],
    no_registration: bool,
    control: bool,
    until_eof: bool,
    **settings: Any,
) -> None:
    """Run a real OAuth 2.1 authorization server whose users approve everything at once.

    One JSON line on standard output names the issuer when it is ready. SIGTERM ends it.
    """
    if algorithms:
        settings["algorithms"] = algorithms
    if scopes:
        settings.update(scopes=scopes, default_scope=scopes[0])
    sock = _listen(bind)
    try:
        from shadowcat.testing.mock_oauth.server import serve

        options = OAuthOptions(issuer=issuer, registration=not no_registration, control=control, **settings)
        status = serve(
            sock, options, lambda server: _announce(server.base, server.core.issuer, control, until_eof)
        )
    except (StartError, ValueError) as error:
        sock.close()
        raise click.ClickException(str(error)) from error
    sys.exit(status)


def _announce(base: str, url: str, control: bool, until_eof: bool) -> None:
    ready = {"event": "ready", "url": url, "control": f"{base}/_control" if control else None}
    sys.stdout.buffer.write(orjson.dumps(ready) + b"\n")
    sys.stdout.buffer.flush()
    if until_eof:
        threading.Thread(target=_stop_at_eof, daemon=True).start()


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
