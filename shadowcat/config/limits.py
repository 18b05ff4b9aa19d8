"""What a route's `limits` section must say. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from shadowcat.config.access import authenticates

if TYPE_CHECKING:
    from shadowcat.config.model import Route


def limit_problems(path: str, route: Route) -> Iterator[str]:
    """Every problem of a route's `limits` section, as ``path: what is wrong``."""
    limits = route.limits
    assert limits is not None
    if limits.per_user is not None and not authenticates(route):
        yield (
            f"{path}.per_user: this route does not know its users: give it an auth section of mode resource,"
            " or limit addresses with the top-level limits.per_ip"
        )
    if "" in limits.per_tool:
        yield f'{path}.per_tool: no tool has an empty name: write a pattern such as "delete_*"'
