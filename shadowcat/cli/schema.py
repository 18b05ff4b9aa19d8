"""``shadowcat schema``: the JSON Schema of the configuration."""

from __future__ import annotations

import click
import orjson

from shadowcat.config.schema import json_schema


@click.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    click.echo(orjson.dumps(json_schema(), option=orjson.OPT_INDENT_2))
