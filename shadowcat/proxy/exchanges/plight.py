"""State that only a request in trouble has, kept apart from what every request pays for."""

from __future__ import annotations

from math import inf


class Plight:
    """What few requests of a session go through."""

    __slots__ = ("awaited", "is_resent", "refused_at", "was_reset")

    def __init__(self) -> None:
        self.refused_at = inf
        """When the upstream first refused a connection."""
        self.was_reset = False
        """Whether its retry was reset, too."""
        self.is_resent = False
        """Whether the session was brought back for it."""
        self.awaited: list[int] = []
        """Digests of the answers in it, which were awaited and are not noted as such any more."""
