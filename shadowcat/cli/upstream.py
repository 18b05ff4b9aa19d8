"""`shadowcat upstream`: the upstreams of the running host, and changing them while it runs."""

from __future__ import annotations

import typing
import urllib.parse
from collections.abc import Callable
from typing import Any, Final

import click
import orjson
from rich.table import Table

from shadowcat.cli.admin import Document, Listener, admin_option, change, get, report
from shadowcat.cli.options import routes_for
from shadowcat.cli.tables import console, table
from shadowcat.config.syntax import parse_json

_PATH: Final = "/api/upstreams"


@click.group()
def upstream() -> None:
    """List the upstreams of the host that runs here, or change them.

    Changes take effect at each worker's next request, and last until the configuration is reloaded or
    Shadowcat is restarted: what shall stay belongs into the file, too.
    """


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """What every change has in common."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
        click.option(
            "--route", metavar="PATH", help="Route of the upstream; needed only where its name is on several."
        ),
        admin_option,
    ):
        command = option(command)
    return command


@upstream.command("list")
@admin_option
@click.option("--route", metavar="PATH", help="Show only those of this route.")
@click.option("--json", "as_json", is_flag=True, help="Print them as a JSON array.")
def list_(listener: Listener, route: str | None, as_json: bool) -> None:
    """Show upstreams as they are configured now. `shadowcat status` shows what they do."""
    rows = get(listener, _PATH, "upstreams")["upstreams"]
    known = dict.fromkeys(row["route"] for row in rows)
    if route is not None and route not in known:
        raise click.ClickException(f"no route {route}: known are {', '.join(known)}")
    rows = [row for row in rows if route in (None, row["route"])]
    if as_json:
        click.echo(orjson.dumps(rows, option=orjson.OPT_INDENT_2))
    else:
        console().print(_render(rows))


@upstream.command()
@_options
@click.argument("name")
def enable(listener: Listener, route: str | None, name: str, as_json: bool) -> None:
    """Let upstream NAME have new sessions and requests again."""
    _patch(listener, route, name, {"enabled": True}, as_json=as_json)


@upstream.command()
@_options
@click.argument("name")
def disable(listener: Listener, route: str | None, name: str, as_json: bool) -> None:
    """Give upstream NAME nothing new; the sessions that it has go on."""
    _patch(listener, route, name, {"enabled": False}, as_json=as_json)


@upstream.command()
@_options
@click.argument("name")
def login(listener: Listener, route: str | None, name: str, as_json: bool) -> None:
    """Print where to log in for upstream NAME, whose credential is `authorization_code`."""
    found = change(listener, f"{_PATH}/login{_query(route, name)}", "POST", member="url")
    if as_json:
        report(found, as_json=True)
    else:
        click.echo(f"Open this address in a browser within 10 minutes:\n\n{found['url']}")


@upstream.command()
@_options
@click.option(
    "--deadline",
    metavar="DURATION",
    help="Such as 30s; default: upstream_drain_timeout of the configuration.",
)
@click.argument("name")
def drain(listener: Listener, route: str | None, name: str, deadline: str | None, as_json: bool) -> None:
    """Give upstream NAME nothing new, and end the sessions that it has at the deadline."""
    body = None if deadline is None else {"deadline": deadline}
    path = f"{_PATH}/drain{_query(route, name)}"
    report(change(listener, path, "POST", body), as_json=as_json)


@upstream.command()
@_options
@click.argument("name")
@click.argument("weight", type=click.IntRange(1, 100))
def weight(listener: Listener, route: str | None, name: str, weight: int, as_json: bool) -> None:
    """Give upstream NAME a share of WEIGHT, 1 to 100, compared with the others of its route."""
    _patch(listener, route, name, {"weight": weight}, as_json=as_json)


@upstream.command()
@_options
@click.option("--era", metavar="legacy|modern|dual|unknown", help="What it speaks (default: unknown).")
@click.option("--disabled", is_flag=True, help="Add it without giving it anything yet.")
@click.option(
    "--keys",
    "more",
    metavar="FILE",
    type=click.File("rb"),
    help='Further keys as JSON, such as {"credential": {"headers": {...}}}; - reads standard input.',
)
@click.argument("server", metavar="[NAME=]URL[,weight=N]")
def add(
    listener: Listener,
    route: str | None,
    server: str,
    era: str | None,
    disabled: bool,
    more: typing.BinaryIO | None,
    as_json: bool,
) -> None:
    """Add an upstream to a route."""
    (section,) = routes_for([server])
    entry: Document = (_keys(more) if more else {}) | section["upstreams"][0]
    if era is not None:
        entry["era"] = era
    if disabled:
        entry["enabled"] = False
    report(change(listener, f"{_PATH}{_query(route)}", "POST", entry), as_json=as_json)


@upstream.command()
@_options
@click.argument("name")
def remove(listener: Listener, route: str | None, name: str, as_json: bool) -> None:
    """Take upstream NAME out: nothing new; what it has goes on for at most `upstream_drain_timeout`."""
    report(change(listener, f"{_PATH}{_query(route, name)}", "DELETE"), as_json=as_json)


def _patch(listener: Listener, route: str | None, name: str, body: Document, *, as_json: bool) -> None:
    report(change(listener, f"{_PATH}{_query(route, name)}", "PATCH", body), as_json=as_json)


def _query(route: str | None, name: str | None = None) -> str:
    stated = {key: value for key, value in (("route", route), ("upstream", name)) if value is not None}
    return f"?{urllib.parse.urlencode(stated)}" if stated else ""


def _keys(file: typing.BinaryIO) -> Document:
    try:
        value: Any = parse_json(file.read().decode())
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint="--keys") from None
    if not isinstance(value, dict):
        raise click.BadParameter("not a JSON object", param_hint="--keys")
    return value


def _render(rows: list[Document]) -> Table:
    shown = table("Upstreams", "route", "weight", "state", "era", "credential", "url")
    for row in rows:
        shown.add_row(
            row["name"],
            row["route"],
            str(row["weight"]),
            "enabled" if row["enabled"] else "disabled",
            row["era"],
            ", ".join([*row["credential_headers"], *_login(row)]) or "-",
            row["url"],
        )
    return shown


def _login(row: Document) -> list[str]:
    """What is left to do for its credential."""
    return ["login needed"] if row.get("login") == "needed" else []
