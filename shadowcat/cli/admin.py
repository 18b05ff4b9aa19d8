"""Talking to the admin listener of a running host."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

import click
import orjson

from shadowcat.config.addresses import Address, parse_listen

DEFAULT_ADDRESS: Final = "127.0.0.1:9090"
_TIMEOUT: Final = 5.0

Document = dict[str, Any]
Command = TypeVar("Command", bound=Callable[..., None])


class Answer(NamedTuple):
    """What the admin listener answered: the HTTP status, its phrase, and the document; {} is none."""

    status: int
    reason: str
    document: Document


def admin_option(command: Command) -> Command:
    """Give a command `--admin`; it is called with the parsed `address`."""
    return click.option(
        "--admin",
        "address",
        envvar="SHADOWCAT_ADMIN",
        default=DEFAULT_ADDRESS,
        show_default=True,
        show_envvar=True,
        metavar="ADDRESS",
        callback=_parse,
        help="Admin listener: HOST:PORT or unix:/PATH.",
    )(command)


def _parse(_context: click.Context, parameter: click.Parameter, text: str) -> Address:
    try:
        return parse_listen(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param=parameter) from None


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
    address: Address, path: str, member: str, method: str = "GET", body: Document | None = None
) -> Answer:
    """Send one request to the admin listener.

    Args:
        address: Where it listens.
        path: The path and query.
        member: What a document of status 200 must have, so that another server's is not taken for ours.
        method: The HTTP method.
        body: A document to send.

    Raises:
        click.ClickException: Nothing answers there, or something else does.
    """
    connection = (
        http.client.HTTPConnection(address.host, address.port, timeout=_TIMEOUT)
        if address.unix_path is None
        else _UnixConnection(address.unix_path)
    )
    try:
        if body is None:
            connection.request(method, path)
        else:
            connection.request(method, path, orjson.dumps(body), {"Content-Type": "application/json"})
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
    return Answer(answer.status, answer.reason, document)


def get(address: Address, path: str, member: str) -> Document:
    """The document at a path; see `ask`.

    Raises:
        click.ClickException: There is none.
    """
    answer = ask(address, path, member)
    if answer.status != 200:
        raise click.ClickException(
            f"{address} answered {answer.status} {answer.reason}: is that Shadowcat's admin listener?"
        )
    return answer.document


def change(
    address: Address, path: str, method: str, body: Document | None = None, *, member: str = "version"
) -> Document:
    """What has become of a change of the configuration; see `ask`.

    Raises:
        click.ClickException: It was refused, and why.
    """
    answer = ask(address, path, member, method, body)
    if answer.status != 200:
        raise click.ClickException(
            answer.document.get("detail", f"{address} answered {answer.status} {answer.reason}")
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
