"""What a route's `policy.tools` must say. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from shadowcat.config.model import Tools

_LONGEST: Final = 256
"""Characters of a glob. No tool's name is longer than 128 (MCP 2025-11-25, server/tools "Tool Names")."""


def tools_problems(path: str, tools: Tools) -> Iterator[str]:
    """Every problem of the section, as ``path: what is wrong``."""
    if not tools.deny and not tools.allow:
        yield f"{path}: it hides nothing: add deny or allow with at least one glob, or remove it"
    for key in ("deny", "allow"):
        for i, glob in enumerate(getattr(tools, key)):
            if not 0 < len(glob) <= _LONGEST:
                yield f"{path}.{key}[{i}]: 1 to {_LONGEST} characters are needed: write a name or a glob"
