"""``shadowcat check FILE``: is this configuration good?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shadowcat.config.addresses import listen_addresses
from shadowcat.config.load import check_files, load_config
from shadowcat.config.urls import upstream_name
from shadowcat.errors import ConfigError

if TYPE_CHECKING:
    from shadowcat.config.model import Config


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> None:
    """Validate a configuration FILE, together with the environment.

    Exits with 0 when it can be used, with 1 when not.
    """
    try:
        config = load_config(file, os.environ, {})
        check_files(config)
    except ConfigError as error:
        click.echo(str(error), err=True)
        raise click.exceptions.Exit(1) from None
    click.echo(f"{file}: OK")
    for line in summary(config):
        click.echo(f"  {line}")


def summary(config: Config) -> list[str]:
    """What the configuration does, in a few lines."""
    addresses = ", ".join(str(address) for address in listen_addresses(config))
    return [
        f"listen   {addresses}",
        f"admin    {config.admin or 'off'}",
        f"workers  {config.workers}",
        *(
            f"route    {route.path} -> {', '.join(upstream_name(upstream) for upstream in route.upstreams)}"
            for route in config.routes
        ),
    ]
