"""`shadowcat limits`: what is left of the limits of the running host."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlencode

import click
import orjson

from shadowcat.cli.admin import Listener, admin_option, get
from shadowcat.cli.tables import console, table

_PATH: Final = "/api/limits"


@click.command()
@admin_option
@click.option("--address", "client", help="Show what this client address has left, too.")
@click.option("--principal", help='Show what this principal has left, too: "issuer client subject".')
@click.option("--json", "as_json", is_flag=True, help="Print them as a JSON array.")
def limits(listener: Listener, client: str | None, principal: str | None, as_json: bool) -> None:
    """Show what is left of limits. Looking uses up nothing."""
    asked = {"address": client, "principal": principal}
    query = urlencode({key: value for key, value in asked.items() if value is not None})
    rows = get(listener, f"{_PATH}?{query}" if query else _PATH, "limits")["limits"]
    if as_json:
        click.echo(orjson.dumps(rows, option=orjson.OPT_INDENT_2))
        return
    shown = table("Limits", "tier", "tools", "limit", "remaining", "under way")
    for row in rows:
        shown.add_row(
            row["route"] or "host",
            row["tier"],
            row["tools"] or "-",
            row["limit"],
            "-" if row["remaining"] is None else str(row["remaining"]),
            "-" if row["under_way"] is None else str(row["under_way"]),
        )
    console().print(shown)
