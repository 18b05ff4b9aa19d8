"""Who of a route's upstreams can be chosen, worked out once per change, and the choice among them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from shadowcat.config import model
from shadowcat.mcp.eras import Era
from shadowcat.policy.balance import Measures, Strategy, strategy_for

_LEGACY_ONLY: Final = frozenset({Era.LEGACY})


class Member(NamedTuple):
    """An upstream as it stands."""

    weight: int = 1
    """1 to 100."""
    enabled: bool = True
    """False while an operator has disabled it: its sessions go on, and it gets no new ones."""
    eras: frozenset[Era] = frozenset(Era)
    """Which it speaks, or, as long as that is not known, may speak."""


class Group:
    """The upstreams of a route for one purpose: new sessions, requests of one era, or `server/discover`.

    It is as of the moment it was made.
    """

    __slots__ = ("_strategy", "members")

    def __init__(
        self,
        name: model.StrategyName,
        members: Sequence[Member],
        era: Era,
        measures: Measures,
        *,
        discover: bool = False,
    ) -> None:
        """Find out who can be chosen.

        Args:
            name: The strategy.
            members: All upstreams of the route, in the order of the configuration.
            era: Of what is to be sent; an upstream that does not speak it cannot answer.
            measures: What the strategy compares, by index in `members`.
            discover: Whether this is for `server/discover`. Where all are known to be legacy, one of them is
                asked all the same: its own refusal tells the client to fall back.
        """
        enabled = [index for index, member in enumerate(members) if member.enabled]
        any_era = discover and all(members[index].eras == _LEGACY_ONLY for index in enabled)
        self.members = tuple(index for index in enabled if any_era or era in members[index].eras)
        """Indexes of those that can be chosen."""
        self._strategy: Strategy | None = None
        if self.members:
            weights = [members[index].weight for index in self.members]
            self._strategy = strategy_for(name, self.members, weights, measures)

    def choose(self, number: int, tried: Collection[int] = ()) -> int | None:
        """Choose an upstream.

        Args:
            number: From the strategy's source; for another try of the same request the same number.
            tried: Those that failed it.

        Returns:
            Its index; None if nobody is left.
        """
        strategy = self._strategy
        if strategy is None:
            return None
        return strategy.choose_other(number, tried) if tried else strategy.choose(number)
