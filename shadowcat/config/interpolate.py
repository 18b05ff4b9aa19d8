"""``${NAME}`` and ``${NAME:-default}`` in the strings of a configuration file; ``$${`` is a plain ``${``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_TOKEN: Final = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_REFERENCE: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)
_DEEPEST: Final = 64


class Untyped(str):
    """Text from the environment. It has no type of its own: the key it is for decides what "8" means."""

    __slots__ = ("origin",)
    origin: str
    """What to name in an error, such as ``SHADOWCAT_WORKERS`` or ``${WORKERS}``."""

    def __new__(cls, text: str, origin: str) -> Untyped:
        """Mark text with where it is from."""
        self = super().__new__(cls, text)
        self.origin = origin
        return self


def interpolate(
    value: Any, environ: Mapping[str, str], problems: list[str], path: str = "", depth: int = 0
) -> Any:
    """Replace the references in all strings below a value; keys are left alone.

    Args:
        value: What a file holds: dicts, lists and scalars.
        environ: The variables.
        problems: Receives a line for every reference that cannot be resolved.
        path: Where the value stands, for these lines.
        depth: How many levels are above it.

    Returns:
        The same tree; a string that had a reference has become `Untyped`.
    """
    if depth > _DEEPEST:
        problems.append(f"{path.partition('[')[0]}: nested deeper than {_DEEPEST} levels")
        return None
    if isinstance(value, dict):
        return {
            key: interpolate(item, environ, problems, f"{path}.{key}" if path else str(key), depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [interpolate(v, environ, problems, f"{path}[{i}]", depth + 1) for i, v in enumerate(value)]
    if isinstance(value, str) and "${" in value:
        return _expand(value, environ, problems, path)
    return value


def escape(value: Any) -> Any:
    """Write the strings below a value so that `interpolate` gives them back as they are."""
    if isinstance(value, dict):
        return {key: escape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [escape(item) for item in value]
    return value.replace("${", "$${") if isinstance(value, str) else value


def _expand(text: str, environ: Mapping[str, str], problems: list[str], path: str) -> str:
    names: list[str] = []

    def resolve(token: re.Match[str]) -> str:
        if token[0] == "$${":
            return "${"
        reference = _REFERENCE.fullmatch(token[1])
        if reference is None or not token[2]:
            problems.append(
                f"{path}: {token[0]!r} is no reference: write ${{NAME}} or ${{NAME:-default}},"
                " and a plain ${ as $${"
            )
            return ""
        name, default = reference[1], reference[2]
        names.append(name)
        # As in the shell, `:-` also replaces an empty value; a plain reference only asks that it be set.
        found = environ.get(name) or default if default is not None else environ.get(name)
        if found is None:
            problems.append(f"{path}: the environment has no {name}: set it, or write ${{{name}:-default}}")
            return ""
        return found

    expanded = _TOKEN.sub(resolve, text)
    return Untyped(expanded, ", ".join(f"${{{name}}}" for name in names)) if names else expanded
