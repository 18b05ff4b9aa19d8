"""Who of a route's upstreams can be chosen, worked out once per change, and the choice among them."""

from __future__ import annotations

from collections.abc import Collection, Container, Sequence
from typing import Final, NamedTuple

from shadowcat.config import model
from shadowcat.mcp.eras import Era
from shadowcat.policy.balance import Measures, Strategy, strategy_for

NEVER: Final = 2**63
"""A time that does not come, in ns."""
LONGEST_WAIT: Final = 30
"""Seconds. A failed health check bars for long, but the next one may lift the bar."""
_LEGACY_ONLY: Final = frozenset({Era.LEGACY})


class Member(NamedTuple):
    """An upstream as it stands."""

    weight: int = 1
    """1 to 100."""
    enabled: bool = True
    """False while an operator has disabled or is draining it: its sessions go on, and it gets no new ones."""
    eras: frozenset[Era] = frozenset(Era)
    """Which it speaks, or, as long as that is not known, may speak."""
    barred_until: int = 0
    """Until when an open breaker, an ejection or a failed health check keeps it out, monotonic ns: the last
    of these to pass."""
    max_connections: int = NEVER
    """Most requests in flight there before others are preferred; for the whole host."""


class Group:
    """The upstreams of a route for one purpose: new sessions, requests of one era, or `server/discover`.

    It is as of the moment it was made. The caller makes a new one when the board's epoch has changed, or
    `until` has come.
    """

    __slots__ = ("_busy", "_limits", "_strategy", "members", "until")

    def __init__(
        self,
        name: model.StrategyName,
        members: Sequence[Member],
        era: Era,
        measures: Measures,
        busy: Sequence[int],
        now: int,
        *,
        discover: bool = False,
    ) -> None:
        """Find out who can be chosen.

        Args:
            name: The strategy.
            members: All upstreams of the route, in the order of the configuration.
            era: Of what is to be sent; an upstream that does not speak it cannot answer.
            measures: What the strategy compares, by index in `members`.
            busy: Requests in flight by index in `members`, kept up to date by the caller.
            now: Monotonic ns.
            discover: Whether this is for `server/discover`. Where all are known to be legacy, one of them is
                asked all the same: its own refusal tells the client to fall back.
        """
        enabled = [index for index, member in enumerate(members) if member.enabled]
        any_era = discover and all(members[index].eras == _LEGACY_ONLY for index in enabled)
        speaking = [index for index in enabled if any_era or era in members[index].eras]
        self.members = tuple(index for index in speaking if members[index].barred_until <= now)
        """Indexes of those that can be chosen."""
        self.until = min(
            (members[index].barred_until for index in speaking if members[index].barred_until > now),
            default=NEVER,
        )
        """When the next one can be chosen by the mere passing of time, monotonic ns."""
        self._strategy: Strategy | None = None
        if self.members:
            weights = [members[index].weight for index in self.members]
            self._strategy = strategy_for(name, self.members, weights, measures)
        self._busy = busy
        limits = [member.max_connections for member in members]
        self._limits = limits if min(limits, default=NEVER) < NEVER else None

    def choose(self, number: int, tried: Collection[int] = ()) -> int | None:
        """Choose an upstream.

        One that has as many requests as it may is passed over, unless all have: then it is as good as any,
        and the request waits in its queue.

        Args:
            number: From the strategy's source; for another try of the same request the same number.
            tried: Those that failed it.

        Returns:
            Its index; None if nobody is left.
        """
        strategy = self._strategy
        if strategy is None:
            return None
        chosen = strategy.choose_other(number, tried) if tried else strategy.choose(number)
        limits = self._limits
        if limits is None or chosen is None or self._busy[chosen] < limits[chosen]:
            return chosen
        other = strategy.choose_other(number, _TriedOrFull(tried, self._busy, limits))
        return chosen if other is None else other

    def retry_after(self, now: int) -> int:
        """Whole seconds after which it makes sense to ask again when nobody could be chosen."""
        return min(LONGEST_WAIT, max(1, -(-(self.until - now) // 1_000_000_000)))


class _TriedOrFull(Container[int]):
    """Who has failed the request, or has as many as it may."""

    __slots__ = ("_busy", "_limits", "_tried")

    def __init__(self, tried: Collection[int], busy: Sequence[int], limits: Sequence[int]) -> None:
        self._tried = tried
        self._busy = busy
        self._limits = limits

    def __contains__(self, index: object) -> bool:
        assert isinstance(index, int)
        return index in self._tried or self._busy[index] >= self._limits[index]
