"""The file formats: YAML, TOML and JSON to plain dicts, lists and scalars, and back."""

from __future__ import annotations

import json
import re
import tomllib
from typing import TYPE_CHECKING, Any, Final, Literal

import orjson
import tomli_w
import yaml

from shadowcat.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

Format = Literal["yaml", "toml", "json"]

FORMATS: Final[dict[str, Format]] = {".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json"}
"""Suffix of a file -> what is in it."""

# YAML 1.2 (10.3.2, core schema) instead of PyYAML's 1.1: there `off` is a boolean, 2026-07-28 a date and
# 1:30 the number 90. Hexadecimal and octal numbers are left out, no key needs them.
_SCALARS: Final = (
    ("tag:yaml.org,2002:null", re.compile(r"~|null|Null|NULL|", re.ASCII), ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", re.compile(r"true|True|TRUE|false|False|FALSE", re.ASCII), list("tTfF")),
    ("tag:yaml.org,2002:int", re.compile(r"[-+]?(?:0|[1-9][0-9]*)", re.ASCII), list("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        re.compile(
            r"[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)", re.ASCII
        ),
        list("-+.0123456789"),
    ),
    ("tag:yaml.org,2002:merge", re.compile(r"<<"), ["<"]),
)


def parse(data: bytes, form: Format, source: str) -> dict[str, Any]:
    """Read a configuration file's content.

    Args:
        data: The file's bytes, UTF-8 with or without a byte order mark.
        form: What they are.
        source: The file's name, for errors.

    Raises:
        ConfigError: Not of this format, a key twice in one section, or not a section at the top.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source}: not UTF-8 at byte {error.start}: save the file as UTF-8") from None
    try:
        value = _PARSERS[form](text)
    except (yaml.YAMLError, tomllib.TOMLDecodeError, ValueError) as error:
        raise ConfigError(f"{source}: {_describe(error)}") from None
    except RecursionError:
        raise ConfigError(f"{source}: nested too deeply") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{source}: expected keys and values at the top, such as `listen: 127.0.0.1:8080`")
    return value


def parse_json(text: str) -> Any:
    """Read JSON, refusing what parsers disagree on: a key twice (RFC 8259 section 4), NaN, Infinity.

    Raises:
        ValueError: It is not such JSON; the message says where.
    """
    return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)


def render(value: dict[str, Any], form: Format) -> bytes:
    """Write plain dicts, lists and scalars so that `parse` gives them back. TOML has no null."""
    if form == "yaml":
        text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
        return text.encode()
    if form == "toml":
        return tomli_w.dumps(value).encode()
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2 and without duplicate keys."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's protocol

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a section whose keys are all different."""
        # Before the base class flattens merge keys: overriding a merged key is what merging is for.
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key.value!r} stands twice in one section: keep one", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes exactly what `_Loader` would not read as text."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's protocol

    def ignore_aliases(self, data: Any) -> bool:
        return True  # a written file has no anchors


for _tag, _pattern, _first in _SCALARS:
    _anchored = re.compile(rf"(?:{_pattern.pattern})\Z", re.ASCII)
    _Loader.add_implicit_resolver(_tag, _anchored, _first)
    _Dumper.add_implicit_resolver(_tag, _anchored, _first)


def _parse_yaml(text: str) -> Any:
    # A SafeLoader: nothing but plain data is constructed.
    return yaml.load(text, Loader=_Loader)  # noqa: S506


_PARSERS: Final[dict[Format, Callable[[str], Any]]] = {
    "yaml": _parse_yaml,
    "toml": tomllib.loads,
    "json": parse_json,
}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice!r} stands twice in one section: keep one")
    return result


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def _describe(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    if isinstance(error, json.JSONDecodeError):
        return f"line {error.lineno}, column {error.colno}: {error.msg}"
    return str(error)
