"""``SHADOWCAT_HTTP__BODY_LIMIT=1MiB``: environment variables laid over what a file says."""

from __future__ import annotations

import difflib
import re
import typing
from typing import TYPE_CHECKING, Any, Final

from shadowcat.config.interpolate import Untyped
from shadowcat.config.model import Config
from shadowcat.config.structure import fields, is_section, key_paths, members
from shadowcat.config.syntax import parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX: Final = "SHADOWCAT_"

_INDEX: Final = re.compile(r"[0-9]{1,4}")

# Kubernetes tells each pod about the services of its namespace: one named shadowcat yields SHADOWCAT_PORT=tcp://…
# (kubernetes.io, "Accessing the Service", environment variables).
_SERVICE: Final = re.compile(
    r"SHADOWCAT_(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
_SERVICE_PORT: Final = re.compile(r"(?:tcp|udp|sctp)://.*")


def overlay(raw: dict[str, Any], environ: Mapping[str, str], root: Any, problems: list[str]) -> None:
    """Set what the environment says.

    A double underscore goes one level down, a number is the index in a list; in a section of free keys
    (header names) an underscore stands for a hyphen. Lists and sections may also be given whole, as JSON.

    Args:
        raw: What the file holds; changed in place.
        environ: The variables; those without the prefix are not looked at.
        root: The type of the whole configuration.
        problems: Receives a line for each variable that fits no key.
    """
    for name in sorted((name for name in environ if name.startswith(PREFIX)), key=_order):
        if _SERVICE.fullmatch(name) or (name.endswith("_PORT") and _SERVICE_PORT.match(environ[name])):
            continue
        try:
            _set(raw, root, name, name.removeprefix(PREFIX).split("__"), environ[name])
        except ValueError as error:
            problems.append(f"{name}: {error}")


def _order(name: str) -> list[tuple[int, int, str]]:
    """Whole lists before their items, item 2 before item 10."""
    parts = name.removeprefix(PREFIX).split("__")
    return [(1, int(part), "") if _INDEX.fullmatch(part) else (0, 0, part) for part in parts]


def _set(container: Any, kind: Any, name: str, steps: list[str], text: str) -> None:
    """Walk down schema and data together; the last step stores the value."""
    done: list[str] = []
    key: Any
    while True:
        kind, key = _step(container, kind, steps[len(done)], name, done)
        done.append(steps[len(done)])
        if len(done) == len(steps):
            _store(container, key, _value(kind, text, name))
            return
        inner: dict[str, Any] | list[Any] = {} if any(map(_is_keyed, members(kind))) else []
        present = _present(container, key)
        if isinstance(inner, list) and isinstance(present, str):
            inner, present = [present], None  # `listen: one` may be extended like a list of one
        if not isinstance(present, type(inner)):
            _store(container, key, inner)
            present = inner
        container = present


def _step(container: Any, kind: Any, step: str, name: str, done: list[str]) -> tuple[Any, Any]:
    """Type and key of one level further down."""
    for option in members(kind):
        if is_section(option):
            known = fields(option)
            if step.lower() in known:
                return known[step.lower()], step.lower()
            raise ValueError(_unknown(option, step, done, name))
        if typing.get_origin(option) is list:
            if _INDEX.fullmatch(step) is None:
                raise ValueError(
                    f"a list follows {PREFIX}{'__'.join(done)}: go on with __0 for its first entry"
                )
            if int(step) > len(container):
                raise ValueError(
                    f"there is no entry {int(step) - 1} before this one: count from 0 without gaps"
                )
            return typing.get_args(option)[0], int(step)
        if typing.get_origin(option) is dict:
            wanted = step.lower().replace("_", "-")
            key = next((key for key in container if str(key).lower() == wanted), wanted)
            return typing.get_args(option)[1], key
    raise ValueError(f"{PREFIX}{'__'.join(done)} has no keys below it")


def _present(container: Any, key: Any) -> Any:
    if isinstance(container, list):
        return container[key] if key < len(container) else None
    return container.get(key)


def _store(container: Any, key: Any, value: Any) -> None:
    if isinstance(container, list) and key == len(container):
        container.append(value)
    else:
        container[key] = value


def _value(kind: Any, text: str, name: str) -> Any:
    """JSON where the schema wants a list or a section, else text that the schema converts."""
    options = members(kind)
    compound = [option for option in options if _is_keyed(option) or typing.get_origin(option) is list]
    if compound and text.lstrip()[:1] in {"[", "{"}:
        try:
            return parse_json(text)
        except ValueError as error:
            # "[::1]:8080" is an address, no list.
            if len(compound) == len(options):
                raise ValueError(f"not JSON: {error}") from None
    elif len(compound) == len(options):
        raise ValueError(f'write a JSON value such as ["…"] or {{"…": …}}, or one key at a time: {name}__…')
    return Untyped(text, name)


def _is_keyed(kind: Any) -> bool:
    return is_section(kind) or typing.get_origin(kind) is dict


def _unknown(section: Any, step: str, done: list[str], name: str) -> str:
    prefix = PREFIX + "".join(f"{part}__" for part in done)
    known = [key.upper() for key in fields(section)]
    near = difflib.get_close_matches(step.upper(), known, 1)
    if near:
        return f"no such key: did you mean {prefix}{near[0]}?"
    # One underscore for two is the usual slip.
    variables = [
        PREFIX + path.replace("[]", "__0").replace(".", "__").upper() for path in key_paths(Config, "")
    ]
    flat = {variable.replace("__", "_"): variable for variable in variables}
    near = difflib.get_close_matches(name.replace("__", "_").upper(), flat, 1, 0.9)
    if near:
        return f"no such key: did you mean {flat[near[0]]}?"
    return f"no such key: {prefix}… goes on with {', '.join(known)}"
