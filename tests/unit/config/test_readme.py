"""The README has a row for every key, with the default that the key has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, get_args

import msgspec
import pytest

from shadowcat.config import model
from shadowcat.config.units import Duration, Size

README: Final = Path(__file__).parents[3] / "README.md"
SECTIONS: Final[dict[type[msgspec.Struct], str]] = {
    model.Config: "",
    model.Route: "",
    model.Upstream: "upstreams[]",
    model.Tls: "upstreams[].tls",
    model.Balance: "balance",
    model.Pool: "pool",
    model.Timeouts: "timeouts",
    model.Retry: "retry",
    model.Health: "health",
    model.Breaker: "breaker",
    model.Outlier: "outlier",
    model.Sessions: "sessions",
    model.Auth: "auth",
    model.Issuer: "issuers[]",
    model.Login: "auth.login",
    model.Policy: "policy",
    model.Rule: "rules[]",
    model.Tools: "policy.tools",
    model.ClientCredentials: "client_credentials",
    model.AuthorizationCode: "authorization_code",
    model.TokenExchange: "token_exchange",
    model.Assertion: "assertion",
    model.Limits: "limits",
    model.RouteLimits: "routes[].limits",
    model.Overload: "overload",
    model.Http: "http",
    model.Log: "log",
    model.AccessLog: "access_log",
    model.Audit: "audit",
}
"""What the README calls each section."""
ELSEWHERE: Final = {model.Introspection, model.Credential}
"""Sections whose keys stand in the row, or the list, of something else."""
_CODE: Final = re.compile(r"`([^`]+)`")
_LIST: Final = re.compile(r", (?![^\[{]*[\]}])")


def documented() -> dict[str, str | None]:
    """The key of each row, by its path, and what stands there as its default; None without such a column."""
    found: dict[str, str | None] = {}
    header: list[str] = []
    for line in README.read_text().splitlines():
        if not line.startswith("|"):
            header = []
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not header:
            header = cells
        elif header[0] == "key" or header[0].startswith("key of "):
            keys = _CODE.findall(cells[0])
            defaults: list[str] | list[None] = [None] * len(keys)
            if header[1] == "default":
                values = _LIST.split(cells[1])
                defaults = values if len(values) == len(keys) else [cells[1]] * len(keys)
            for section in _CODE.findall(header[0]) or [""]:
                for key, default in zip(keys, defaults, strict=True):
                    found[f"{section}.{key}".lstrip(".")] = default
        elif header[1].startswith("gets"):  # Strategies have a table of their own, by their names.
            (key,) = _CODE.findall(header[0])
            if cells[0].endswith("(default)"):
                found[key] = _CODE.findall(cells[0])[0]
    return found


ROWS: Final = documented()


def structs(kind: Any) -> set[type]:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return {kind}
    return {each for argument in get_args(kind) for each in structs(argument)}


def keys() -> list[tuple[str, Any]]:
    """The path and the default of every key but sections."""
    found = []
    for section, name in SECTIONS.items():
        for field in msgspec.structs.fields(section):
            if not structs(field.type):
                found.append((f"{name}.{field.encode_name}".lstrip("."), field))
    return found


def row_of(path: str) -> str | None:
    """The default in the row of a key. Those of a route may stand with `routes[].`, or without."""
    spellings = [path, f"routes[].{path}"]
    return next(ROWS[each] for each in spellings if each in ROWS)


def test_every_section_is_looked_at() -> None:
    known: set[type] = set()
    new = {model.Config}
    while new:
        known |= new
        fields = [field for section in new for field in msgspec.structs.fields(section)]
        new = {each for field in fields for each in structs(field.type)} - known
    assert known == SECTIONS.keys() | ELSEWHERE


@pytest.mark.parametrize(("path", "field"), keys(), ids=[path for path, _ in keys()])
def test_a_key_has_its_row_and_its_default(path: str, field: Any) -> None:
    assert path in ROWS or f"routes[].{path}" in ROWS, "no table of the README has it"
    default = field.default
    if default is msgspec.NODEFAULT and field.default_factory is not msgspec.NODEFAULT:
        default = field.default_factory()
    said = row_of(path)
    if said is None or default is None or default is msgspec.NODEFAULT or path == "workers":
        return
    if isinstance(default, Duration):
        assert Duration(said) == default
    elif isinstance(default, Size):
        assert Size(said) == default
    elif isinstance(default, bool):
        assert said == str(default).lower()
    elif isinstance(default, int | float):
        assert float(said) == default
    elif default and isinstance(default, str):
        assert said == default
    elif default:
        assert said == str(default)
