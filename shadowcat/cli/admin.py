"""Talking to the admin listener of a running host."""

from __future__ import annotations

import functools
import http.client
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import click
import orjson

from shadowcat.config.addresses import Address, parse_listen
from shadowcat.config.admin_token import check_admin_token
from shadowcat.supervisor.token_file import directories, file_name, find_token

DEFAULT_ADDRESS: Final = "127.0.0.1:9090"
_TIMEOUT: Final = 5.0
_TOKEN_VARIABLE: Final = "SHADOWCAT_ADMIN_TOKEN"  # noqa: S105

Document = dict[str, Any]
Result = TypeVar("Result")


class Answer(NamedTuple):
    """What the admin listener answered: the HTTP status, its phrase, and the document; {} is none."""

    status: int
    reason: str
    document: Document


class Listener(NamedTuple):
    """An admin listener, as the command line names it."""

    address: Address
    token: str | None
    """What it asks for; None leaves it to the file that a supervisor of this user has written."""

    def __str__(self) -> str:
        return str(self.address)


def admin_option(command: Callable[..., Result]) -> Callable[..., Result]:
    """Give a command `--admin` and `--token-file`; it is called with both as `listener`."""

    @functools.wraps(command)
    def wrapper(*, address: Address, token: str | None, **given: Any) -> Result:
        return command(listener=Listener(address, token), **given)

    decorated: Callable[..., Result] = wrapper
    for option in (_TOKEN_OPTION, _ADMIN_OPTION):
        decorated = option(decorated)
    return decorated


def _parse(_context: click.Context, parameter: click.Parameter, text: str) -> Address:
    try:
        return parse_listen(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param=parameter) from None


def _read_token(_context: click.Context, _parameter: click.Parameter, file: Path | None) -> str | None:
    """The token that the file holds, else that of the environment."""
    origin = _TOKEN_VARIABLE if file is None else str(file)
    try:
        text = os.environ.get(_TOKEN_VARIABLE) if file is None else file.read_text(encoding="utf-8")
        if text is None:
            return None
        token = text.strip()
        check_admin_token(token)
    except OSError as error:
        raise click.BadParameter(f"cannot read it: {error.strerror}", param_hint=origin) from None
    except ValueError as error:
        # A UnicodeDecodeError would repeat what it has read.
        reason = "it is no text" if isinstance(error, UnicodeDecodeError) else str(error)
        raise click.BadParameter(f"no admin token: {reason}", param_hint=origin) from None
    return token


_ADMIN_OPTION: Final = click.option(
    "--admin",
    "address",
    envvar="SHADOWCAT_ADMIN",
    default=DEFAULT_ADDRESS,
    show_default=True,
    show_envvar=True,
    metavar="ADDRESS",
    callback=_parse,
    help="Admin listener: HOST:PORT or unix:/PATH.",
)
_TOKEN_OPTION: Final = click.option(
    "--token-file",
    "token",
    metavar="FILE",
    type=click.Path(path_type=Path),
    callback=_read_token,
    help=f"File with the listener's token (default: ${_TOKEN_VARIABLE}, else your own supervisor's file).",
)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(
    listener: Listener, path: str, member: str, method: str = "GET", body: Document | None = None
) -> Answer:
    """Send one request to the admin listener.

    Args:
        listener: Which one.
        path: The path and query.
        member: What a document of status 200 must have, so that another server's is not taken for ours.
        method: The HTTP method.
        body: A document to send.

    Raises:
        click.ClickException: Nothing answers there, or something else does, or it wants another token.
    """
    address = listener.address
    connection = (
        http.client.HTTPConnection(address.host, address.port, timeout=_TIMEOUT)
        if address.unix_path is None
        else _UnixConnection(address.unix_path)
    )
    try:
        connection.connect()
        peer = connection.sock.getpeername()
        token = listener.token
        if token is None and address.unix_path is None:
            token = find_token(peer, os.environ)
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        if body is None:
            connection.request(method, path, headers=headers)
        else:
            headers["Content-Type"] = "application/json"
            connection.request(method, path, orjson.dumps(body), headers)
        answer = connection.getresponse()
        data = answer.read()
        document: Document = {}
        if answer.getheader("Content-Type", "").startswith("application/json"):
            document = orjson.loads(data)
        if answer.status == 200 and member not in document:
            raise ValueError(f"no {member} in its answer")
    except OSError as error:
        raise click.ClickException(
            f"nothing answers at {address} ({error.strerror or error}): "
            "start shadowcat-supervisor, or name its admin address with --admin or SHADOWCAT_ADMIN"
        ) from None
    except (http.client.HTTPException, ValueError, TypeError) as error:
        raise click.ClickException(
            f"{address} does not speak like Shadowcat's admin listener ({error}): is it the right address?"
        ) from None
    finally:
        connection.close()
    if answer.status == 401:
        raise click.ClickException(_refused(listener, peer, token))
    return Answer(answer.status, answer.reason, document)


def _refused(listener: Listener, peer: Any, token: str | None) -> str:
    """Why the listener has answered 401, and what to do."""
    advice = f"name the right file with --token-file, or set {_TOKEN_VARIABLE}"
    if listener.token is not None:
        return f"{listener} has another token than the one that was given: {advice}"
    if listener.address.unix_path is not None:
        return f"{listener} asks for a token (`admin_token` of its configuration): {advice}"
    if token is not None:
        return f"{listener} has another token than the file of your own supervisor: {advice}"
    places = " or ".join(str(directory / file_name(peer)) for directory in directories(os.environ))
    return (
        f"{listener} asks for a token, and there is none for you in {places}: run this as the user who"
        f" started Shadowcat; or {advice} (the ready line names the file as admin_token_file)"
    )


def get(listener: Listener, path: str, member: str) -> Document:
    """The document at a path; see `ask`.

    Raises:
        click.ClickException: There is none.
    """
    answer = ask(listener, path, member)
    if answer.status != 200:
        raise click.ClickException(
            f"{listener} answered {answer.status} {answer.reason}: is that Shadowcat's admin listener?"
        )
    return answer.document


def change(
    listener: Listener, path: str, method: str, body: Document | None = None, *, member: str = "version"
) -> Document:
    """What has become of a change of the configuration; see `ask`.

    Raises:
        click.ClickException: It was refused, and why.
    """
    answer = ask(listener, path, member, method, body)
    if answer.status != 200:
        raise click.ClickException(
            answer.document.get("detail", f"{listener} answered {answer.status} {answer.reason}")
        )
    return answer.document


def report(document: Document, *, as_json: bool) -> None:
    """Print what has become of a change of the configuration."""
    if as_json:
        click.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2))
        return
    for path in document["changed"]:
        click.echo(f"changed: {path}")
    if not document["changed"]:
        click.echo("nothing changed")
    for path in document["restart_needed"]:
        click.echo(f"needs a restart: {path}", err=True)
