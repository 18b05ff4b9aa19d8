"""How much clients may ask for."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from shadowcat.config.sections.base import Section
from shadowcat.config.units import Limit


class Limits(Section, frozen=True, kw_only=True):
    """What the whole host admits before it looks at tokens. Each message counts as it comes, and nothing is
    given back for what is refused later.
    """

    global_: Limit | None = field(name="global", default=None)
    """Of all clients together."""
    per_ip: Limit | None = None
    """Of each client address; of IPv6 the /64 network."""
    capacity: Annotated[int, Meta(ge=1024, le=2**22)] = 65_536
    """How many addresses are remembered at a time, how many users, sessions, and users' tools; each takes 16
    bytes, allocated at the start. Of all kinds together so many may have something under way, which takes 8
    bytes, and 8 for each worker. Where there are more, a new one starts with what another had left."""


class RouteLimits(Section, frozen=True, kw_only=True):
    """What a route admits, once it is known who asks. What one of these refuses is charged to none."""

    route: Limit | None = None
    """Of all clients together."""
    per_user: Limit | None = None
    """Of each principal; only on a route that authenticates."""
    per_session: Limit | None = None
    """Of each session of the legacy era."""
    per_tool: dict[str, Limit] = {}
    """Calls of tools whose names match a pattern, such as {"delete_*": 5/min}, of each principal; of each
    client address where nobody authenticates. All patterns that match count, each for all its tools."""
