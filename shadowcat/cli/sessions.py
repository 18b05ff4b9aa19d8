"""`shadowcat sessions`: what lives in the session table of the running host, and ending it."""

from __future__ import annotations

import urllib.parse
from typing import Final

import click
import orjson
from rich.table import Table

from shadowcat.cli.admin import Document, Listener, admin_option, ask, get
from shadowcat.cli.tables import console, span, table

_PATH: Final = "/api/sessions"
_PAGE: Final = 1000
"""What the admin listener gives at a time."""


@click.group()
def sessions() -> None:
    """List the sessions of the host that runs here, or end one."""


@sessions.command("list")
@admin_option
@click.option(
    "--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Most sessions to show."
)
@click.option("--json", "as_json", is_flag=True, help="Print them as a JSON array.")
def list_(listener: Listener, limit: int, as_json: bool) -> None:
    """Show sessions in the order of their table slots."""
    rows, more = _fetch(listener, limit)
    if as_json:
        click.echo(orjson.dumps(rows, option=orjson.OPT_INDENT_2))
        return
    console().print(_render(rows))
    if more:
        click.echo(f"There are more than these {limit}: see --limit.", err=True)


@sessions.command()
@admin_option
@click.argument("handle")
def end(listener: Listener, handle: str) -> None:
    """End the session that HANDLE names in the list, here and at its upstream."""
    answer = ask(listener, f"{_PATH}/{_quoted(handle)}", "handle", "DELETE")
    if answer.status != 204:
        cause = answer.document.get("detail", f"{listener} answered {answer.status} {answer.reason}")
        raise click.ClickException(f"{handle}: {cause}")


def _quoted(handle: str) -> str:
    # Not for handles, which need none, but for what is given instead of one.
    return urllib.parse.quote(handle, safe="") or "-"


def _fetch(listener: Listener, limit: int) -> tuple[list[Document], bool]:
    """Up to `limit` sessions, and whether there are more."""
    rows: list[Document] = []
    cursor = 0
    while len(rows) < limit:
        wanted = min(_PAGE, limit - len(rows))
        page = get(listener, f"{_PATH}?limit={wanted}&cursor={cursor}", "sessions")
        rows += page["sessions"]
        if page["cursor"] is None:
            return rows, False
        cursor = page["cursor"]
    return rows, True


def _render(rows: list[Document]) -> Table:
    shown = table(
        "Sessions", "route", "upstream", "principal", "owner", "version", "state", "age", "idle", "ends in",
        "stream", "recoveries",
    )  # fmt: skip
    for row in rows:
        shown.add_row(
            row["handle"],
            row["route"],
            row["upstream"],
            row["principal"],
            row["owner"],
            row["protocol_version"] or "-",
            row["state"],
            span(row["age_seconds"]),
            span(row["idle_seconds"]),
            span(row["expires_in_seconds"]),
            "-" if row["stream"] is None else f"worker {row['stream']}",
            str(row["recoveries"]),
        )
    return shown
