"""What the `overload` section must say, and what routes say about it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from shadowcat.config.model import Config

_OF_THE_QUEUE: Final = ("queue", "queue_timeout")


def overload_problems(config: Config) -> Iterator[str]:
    """Every problem, as ``path: what is wrong``."""
    section = config.overload
    if section.max_buffered < config.http.body_limit:
        yield (
            f"overload.max_buffered: {section.max_buffered} is less than http.body_limit"
            f" ({config.http.body_limit}): such a body would never be read"
        )
    if section.max_in_flight is not None:
        if section.max_in_flight < config.workers:
            yield (
                f"overload.max_in_flight: {section.max_in_flight} is less than one for each of the"
                f" {config.workers} workers: write more, or start fewer of them"
            )
        return
    for key in _OF_THE_QUEUE:
        if getattr(section, key) != getattr(type(section)(), key):
            yield f"overload.{key}: nobody waits without a bound: add overload.max_in_flight, or remove it"
    for i, route in enumerate(config.routes):
        if route.priority != "normal":
            yield (
                f"routes[{i}].priority: it tells who waits, and nobody does: add overload.max_in_flight, or"
                " remove it"
            )
