"""What the admin API needs of whoever puts a changed configuration to work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from shadowcat.config.model import Config

BY_API: Final = "api"
"""Who asks for a change: somebody at the admin API, such as the command line; or a SIGHUP."""
BY_SIGNAL: Final = "signal"


@dataclass(frozen=True, slots=True)
class Applied:
    """What has become of a change."""

    version: int
    """Of the configuration that holds from now on; it goes up by one with each that is put to work."""
    restart_needed: list[str] = field(default_factory=list)
    """Paths of keys whose new value has no effect before a restart."""
    changed: list[str] = field(default_factory=list)
    """Paths of keys whose new value holds from now on."""


class Changes(Protocol):
    """Puts configurations to work, one at a time."""

    def current(self) -> Config:
        """What all workers go by, or are about to."""
        ...

    async def apply(
        self, config: Config, *, drain: Mapping[tuple[str, str], float] = {}, by: str = BY_API
    ) -> Applied:
        """Put a valid configuration to work: all workers go by it from their next request on.

        Args:
            config: What follows `current()`. Nothing is awaited between the two, so none is lost.
            drain: Route path and name of upstreams whose sessions end after so many seconds.
            by: Who asked for it.

        Raises:
            ConfigError: It cannot be put to work; nothing has changed.
        """
        ...

    async def reload(self, *, by: str = BY_API) -> Applied:
        """Read the file again and put it to work; what came in other ways is overwritten.

        Raises:
            ConfigError: It cannot be used, or there is none; nothing has changed.
        """
        ...
