"""``shadowcat``: all commands but the supervisor, each in a file of its own, loaded when called."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Final

import click

from shadowcat import __version__

COMMANDS: Final = {
    "check": "Validate a configuration file.",
    "schema": "Print the JSON Schema of the configuration.",
    "status": "Show what a running Shadowcat does.",
    "sessions": "List the sessions of a running Shadowcat, or end one.",
    "policy": "Try the rules of a route on a request.",
    "upstream": "List, add, change, drain or remove upstreams of a running Shadowcat.",
    "limits": "Show what is left of the limits of a running Shadowcat.",
    "reload": "Have a running Shadowcat read its configuration again.",
    "mock": "Run stand-in servers to test against.",
    "bench": "Load an MCP server and measure it.",
}
"""Name -> line in the help. A command is the attribute of its name in the module of its name."""


class LazyGroup(click.Group):
    """Imports a command's module only to run it: `check` needs no HTTP server."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands that this installation has."""
        return [name for name in COMMANDS if _installed(name)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS or not _installed(cmd_name):
            return None
        command = getattr(importlib.import_module(f"shadowcat.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name]) for name in self.list_commands(ctx)])


def _installed(name: str) -> bool:
    return importlib.util.find_spec(f"shadowcat.cli.{name}") is not None


@click.group(cls=LazyGroup)
@click.version_option(__version__, prog_name="shadowcat")
def main() -> None:
    """Shadowcat, a proxy for the Model Context Protocol.

    `shadowcat-supervisor` runs it; this has the rest.
    """
