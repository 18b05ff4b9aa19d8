"""The configuration from its sources: command line over environment over file over defaults."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import msgspec

from shadowcat.config.environment import overlay
from shadowcat.config.interpolate import escape, interpolate
from shadowcat.config.mcp_servers import routes_of
from shadowcat.config.model import Config
from shadowcat.config.structure import build
from shadowcat.config.syntax import FORMATS, Format, parse, render
from shadowcat.config.validate import semantic_problems
from shadowcat.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_OFF: Final = "off"


def load_config(path: Path | None, environ: Mapping[str, str], overrides: Mapping[str, Any]) -> Config:
    """Read, merge and validate the configuration.

    Args:
        path: A YAML, TOML or JSON file, told apart by suffix; None for no file.
        environ: Variables for ``${…}`` in the file and for ``SHADOWCAT_…``.
        overrides: What the command line says, nested like the file. Lists replace lists; but a route takes
            only the place of what it says itself: who names upstreams has not switched `auth` off.

    Raises:
        ConfigError: It cannot be used; the message lists every problem with its path.
    """
    source = "configuration" if path is None else str(path)
    problems: list[str] = []
    raw = {} if path is None else interpolate(_read(path), environ, problems)
    if problems:  # without their values, everything else would be guesswork
        raise ConfigError(listing(source, problems))
    raw.pop("$schema", None)  # where editors look for the JSON Schema
    if "mcpServers" in raw:
        routes = routes_of(raw.pop("mcpServers"), problems)
        if isinstance(raw.setdefault("routes", []), list):
            raw["routes"] += routes
    overlay(raw, environ, Config, problems)
    _merge(raw, _with_present_route(raw, overrides, problems))
    # TOML, environment and command line have no null; YAML 1.1 habits make a boolean of it.
    if raw.get("admin") == _OFF or raw.get("admin") is False:
        raw["admin"] = None
    config = build(raw, Config, "", problems)
    if isinstance(config, Config):
        problems += semantic_problems(config)
    if problems:
        raise ConfigError(listing(source, problems))
    assert isinstance(config, Config)
    return config


def dump(config: Config, form: Format) -> bytes:
    """Write a configuration; `load_config` reads an equal one. Keys with their default may be left out."""
    plain = escape(msgspec.to_builtins(config, enc_hook=str))
    if config.admin is None:
        plain["admin"] = _OFF
    return render(plain, form)


def check_files(config: Config) -> None:
    """See that the files which the configuration names can be read by this process.

    Raises:
        ConfigError: Some cannot; the message lists them with their keys.
    """
    problems = []
    for i, route in enumerate(config.routes):
        for j, upstream in enumerate(route.upstreams):
            for key in ("ca", "cert", "key"):
                name = getattr(upstream.tls, key, None)
                if name is not None and (reason := _unreadable(name)):
                    problems.append(
                        f"routes[{i}].upstreams[{j}].tls.{key}: cannot read {_shown(name)}: {reason}"
                    )
            assertion = upstream.credential and upstream.credential.assertion
            name = assertion.key if assertion else None
            if name is not None and (reason := _unreadable(name)):
                where = f"routes[{i}].upstreams[{j}].credential.assertion.key"
                problems.append(f"{where}: cannot read {_shown(name)}: {reason}")
    if problems:
        raise ConfigError(listing("configuration", problems))


def listing(source: str, problems: list[str]) -> str:
    """One message of all problems: one line for one, else a heading and a line for each."""
    if len(problems) == 1:
        return f"{source}: {problems[0]}"
    return f"{source}: {len(problems)} problems" + "".join(f"\n  {problem}" for problem in problems)


def _read(path: Path) -> dict[str, Any]:
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        known = ", ".join(FORMATS)
        raise ConfigError(f"{path}: unknown suffix {path.suffix!r}: name the file with one of {known}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the configuration: {error.strerror}") from None
    return parse(data, form, str(path))


def _with_present_route(
    raw: dict[str, Any], overrides: Mapping[str, Any], problems: list[str]
) -> Mapping[str, Any]:
    """The overrides, with the rest of the route that they are about."""
    present = raw.get("routes")
    if not overrides.get("routes") or not isinstance(present, list) or not present:
        return overrides
    if len(present) > 1:
        problems.append(
            f"routes: the command line names upstreams, and there are {len(present)} routes that they could "
            "be for: name them in the file"
        )
    (given,) = overrides["routes"]
    return {**overrides, "routes": [{**present[0], **given}] if isinstance(present[0], dict) else present}


def _merge(raw: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    for key, value in overrides.items():
        if isinstance(value, dict) and isinstance(raw.get(key), dict):
            _merge(raw[key], value)
        else:
            raw[key] = value


def _shown(name: str) -> str:
    """A file's name, unless somebody has written a key itself in its place."""
    return name if "-----BEGIN" not in name else "a file of that name (it looks like PEM: write a file name)"


def _unreadable(name: str) -> str | None:
    try:
        os.close(os.open(name, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.strerror
    except ValueError:  # a NUL, or what the file system cannot encode
        return "not a file name"
    return None
