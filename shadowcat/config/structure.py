"""From what a file holds to the schema's objects, with an exact path for everything that does not fit."""

from __future__ import annotations

import difflib
import types
import typing
from typing import Any, Final

import msgspec

from shadowcat.config.interpolate import Untyped
from shadowcat.config.model import Config
from shadowcat.config.units import Duration, Limit, Size

_NAMES: Final = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a section of keys",
    "null": "nothing",
}


def build(raw: Any, kind: Any, path: str, problems: list[str]) -> Any:
    """Turn plain data into a value of the schema.

    Args:
        raw: Dicts, lists and scalars; `Untyped` text is converted to what the key wants.
        kind: The type to build: a Section, list, dict, union or scalar of the schema.
        path: Where `raw` stands, such as ``routes[0].pool``; empty at the top.
        problems: Receives a line for everything that does not fit.

    Returns:
        The value; of no use once there are problems.
    """
    options = members(kind)
    if isinstance(raw, dict):
        for option in options:
            if is_section(option):
                return _section(raw, option, path, problems)
            if typing.get_origin(option) is dict:
                return _mapping(raw, option, path, problems)
    if isinstance(raw, list):
        for option in options:
            if typing.get_origin(option) is list:
                (item,) = typing.get_args(option)
                return [build(value, item, f"{path}[{i}]", problems) for i, value in enumerate(raw)]
    return _scalar(raw, kind, path, problems)


def members(kind: Any) -> tuple[Any, ...]:
    """The types that a type stands for: those of a union without None, else itself."""
    if typing.get_origin(kind) in {typing.Union, types.UnionType}:
        return tuple(option for option in typing.get_args(kind) if option is not types.NoneType)
    return (kind,)


def is_section(kind: Any) -> bool:
    """Whether a type is a section of the schema."""
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def fields(section: Any) -> dict[str, Any]:
    """Key -> type of a section."""
    return {field.encode_name: field.type for field in msgspec.structs.fields(section)}


def unknown_key(key: str, section: Any) -> str:
    """What to tell about a key that a section does not have: the nearest one, here or elsewhere."""
    known = list(fields(section))
    elsewhere = [path for path in key_paths(Config, "") if path.rpartition(".")[2] == key]
    if elsewhere:
        return f"unknown key here: did you mean {elsewhere[0]}?"
    near = difflib.get_close_matches(key.lower().replace("-", "_"), known, 1)
    if near:
        return f"unknown key: did you mean {near[0]}?"
    return f"unknown key: known here are {', '.join(known)}"


def key_paths(section: Any, prefix: str) -> typing.Iterator[str]:
    """All keys of a section and those below it, such as ``routes[].pool.max_connections``."""
    for key, kind in fields(section).items():
        path = f"{prefix}.{key}" if prefix else key
        yield path
        for option in members(kind):
            inner = typing.get_args(option)[0] if typing.get_origin(option) is list else option
            if is_section(inner):
                yield from key_paths(inner, path if inner is option else f"{path}[]")


def _section(raw: dict[Any, Any], section: Any, path: str, problems: list[str]) -> Any:
    known = {field.encode_name: field for field in msgspec.structs.fields(section)}
    values = {}
    before = len(problems)
    for key, value in raw.items():
        where = f"{path}.{key}" if path else str(key)
        if key in known:
            values[known[key].name] = build(value, known[key].type, where, problems)
        else:
            problems.append(f"{where}: {unknown_key(str(key), section)}")
    for key, field in known.items():
        if field.required and key not in raw:
            problems.append(f"{path}.{key}: missing" if path else f"{key}: missing")
    return section(**values) if len(problems) == before else None


def _mapping(raw: dict[Any, Any], kind: Any, path: str, problems: list[str]) -> dict[str, Any]:
    _, item = typing.get_args(kind)
    strange = [key for key in raw if not isinstance(key, str)]
    problems += [f"{path}.{key}: expected text as the key: put it in quotes" for key in strange]
    return {str(key): build(value, item, f"{path}.{key}", problems) for key, value in raw.items()}


def _scalar(raw: Any, kind: Any, path: str, problems: list[str]) -> Any:
    origin = f" (from {raw.origin})" if isinstance(raw, Untyped) else ""
    value = str(raw) if isinstance(raw, str) else raw
    try:
        return msgspec.convert(value, kind, strict=not isinstance(raw, Untyped), dec_hook=_quantity)
    except msgspec.ValidationError as error:
        problems.append(f"{path}{origin}: {_reword(str(error), value, kind)}")
        return None


def _quantity(kind: type, value: Any) -> Any:
    if issubclass(kind, (Duration, Size)):
        return kind.parse(value)
    if kind is Limit:
        return Limit(value)
    raise NotImplementedError(f"the schema has no reader for {kind}")  # What msgspec asks of a dec_hook.


def _reword(message: str, value: Any, kind: Any) -> str:
    """The words of msgspec in a user's terms.

    What was to be text is not repeated: it may be a secret; as may be a text in place of a section, such as
    `credential: ${TOKEN}`.
    """
    if message.startswith("Invalid enum value"):
        choices = next(
            typing.get_args(option) for option in members(kind) if typing.get_origin(option) is typing.Literal
        )
        return f"expected one of {', '.join(map(str, choices))}, got {value!r}"
    if not message.startswith("Expected `"):
        return message
    wanted, _, rest = message.removeprefix("Expected `").partition("`")
    names = " or ".join(_NAMES.get(name, name) for name in wanted.split(" | "))
    bound = rest.partition(", got")[0]
    if isinstance(value, (dict, list)) or value is None:
        got = "nothing" if value is None else "a list" if isinstance(value, list) else "a section of keys"
    elif "str" in wanted.split(" | "):
        got = f"{_NAMES.get(type(value).__name__, type(value).__name__)}: put it in quotes"
    elif isinstance(value, str) and not {"object", "array"}.isdisjoint(wanted.split(" | ")):
        got = "text"
    else:
        got = f"{str(value).lower()}" if isinstance(value, bool) else repr(value)
    return f"expected {names}{bound}, got {got}"
