"""Every way to start the proxy, for one and the same configuration."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import tomli_w
import yaml

from tests.e2e.harness import COMMAND, Shadowcat

# Keys become objects by the constructors that a program would call.
_BUILT: Final = """
import json, sys, types, typing
import msgspec
import shadowcat

def built(kind, value):
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    for option in typing.get_args(kind) if union else (kind,):
        origin, inner = typing.get_origin(option), typing.get_args(option)
        if isinstance(value, list) and origin is list:
            return [built(inner[0], each) for each in value]
        if isinstance(value, dict) and origin is dict:
            return {name: built(inner[1], each) for name, each in value.items()}
        if isinstance(value, dict) and isinstance(option, type) and issubclass(option, msgspec.Struct):
            kinds = typing.get_type_hints(option)
            return option(**{name: built(kinds[name], each) for name, each in value.items()})
        if isinstance(value, str) and option in (shadowcat.Size, shadowcat.Duration, shadowcat.Limit):
            return option(value)
    return value

config = built(shadowcat.Config, json.loads(sys.argv[1]))
sys.exit(shadowcat.run(config))
"""


class Started(Shadowcat):
    """A supervisor started by a command of the test's own."""

    def __init__(self, *command: str, environ: Mapping[str, str] | None = None) -> None:
        super().__init__({}, environ=environ)
        self._command = list(command)


def _file(suffix: str, write: Callable[[Any], str]) -> Callable[[dict[str, Any], Path], Shadowcat]:
    def start(config: dict[str, Any], folder: Path) -> Shadowcat:
        file = folder / f"shadowcat.{suffix}"
        file.write_text(write(config))
        return Started(str(COMMAND), "--config", str(file))

    return start


def _environment(config: dict[str, Any], _: Path) -> Shadowcat:
    return Started(str(COMMAND), environ=_variables(config))


def _program(config: dict[str, Any], _: Path) -> Shadowcat:
    return Started(sys.executable, "-c", _BUILT, json.dumps(config))


def _in_process(config: dict[str, Any], _: Path) -> Shadowcat:
    return Shadowcat(config, timing={})


def _options(*more: str) -> Callable[[dict[str, Any], Path], Shadowcat]:
    """By options wherever there is one for it; the environment says the rest."""

    def start(config: dict[str, Any], _: Path) -> Shadowcat:
        rest = dict(config)
        command = [str(COMMAND)]
        for key, option in (("listen", "--bind"), ("admin", "--admin"), ("workers", "--workers")):
            command += [option, str(rest.pop(key))]
        (route,) = rest.pop("routes")
        (upstream,) = route["upstreams"]
        given = more or ("--upstream", f"{upstream['name']}={upstream['url']}")
        keys = {name: value for name, value in route.items() if name != "upstreams"}
        variables = _variables(rest) | _variables(keys, "SHADOWCAT_ROUTES__0__")
        return Started(*command, *given, environ=variables)

    return start


def _variables(keys: Mapping[str, Any], prefix: str = "SHADOWCAT_") -> dict[str, str]:
    return {
        f"{prefix}{name.upper()}": value if isinstance(value, str) else json.dumps(value)
        for name, value in keys.items()
    }


Start = Callable[[dict[str, Any], Path], Shadowcat]

STARTS: Final[dict[str, Start]] = {
    "yaml": _file("yaml", yaml.safe_dump),
    "toml": _file("toml", tomli_w.dumps),
    "json": _file("json", json.dumps),
    "environment": _environment,
    "run": _program,
    "supervise": _in_process,
}
"""With a configuration of any size."""
STARTS_OF_ONE_ROUTE: Final[dict[str, Start]] = {
    "options": _options(),
    "demo": _options("--demo"),
}
"""With one route, which is at /mcp, and one upstream; the demo brings its own."""
