"""The command group: what it lists and loads."""

import importlib.util

import click
import pytest
from click.testing import CliRunner

from shadowcat.cli import main as module
from shadowcat.cli.main import COMMANDS, main


def test_lists_the_commands_that_are_there():
    listed = main.list_commands(click.Context(main))
    assert listed == [name for name in COMMANDS if importlib.util.find_spec(f"shadowcat.cli.{name}")]
    assert {"check", "schema"} <= set(listed)
    output = CliRunner().invoke(main, ["--help"]).output
    for name in listed:
        assert COMMANDS[name] in output


def test_an_absent_command_is_neither_listed_nor_run(monkeypatch):
    monkeypatch.setattr(module, "COMMANDS", {**COMMANDS, "absent": "Not there."})
    result = CliRunner().invoke(main, ["--help"])
    assert "absent" not in result.output
    result = CliRunner().invoke(main, ["absent"])
    assert result.exit_code == 2
    assert "No such command" in result.output


@pytest.mark.parametrize("name", ["check", "schema"])
def test_each_has_help(name):
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert f"main {name}" in result.output


def test_version():
    assert CliRunner().invoke(main, ["--version"]).output == "shadowcat, version 0.1.0\n"
