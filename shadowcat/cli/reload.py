"""`shadowcat reload`: the running host reads its configuration again."""

from __future__ import annotations

import click

from shadowcat.cli.admin import Listener, admin_option, change, report


@click.command()
@admin_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def reload(listener: Listener, as_json: bool) -> None:
    """Have the running host read its configuration file again, as SIGHUP does.

    A file that cannot be used changes nothing. What needs a restart is named on standard error, and the rest
    takes effect. Changes made by `shadowcat upstream` are overwritten.
    """
    report(change(listener, "/api/reload", "POST"), as_json=as_json)
