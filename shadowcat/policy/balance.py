"""Which upstream gets the next session or request. Pure: the caller knows who is to be had and does the I/O.

A strategy is made for the upstreams that can be chosen, and made anew whenever they change. Choosing is a
function of one number, whose source depends on the strategy, and of what has been measured: loads, latencies.
Upstreams are called by their index in the configuration of their route.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from enum import Enum, auto
from math import inf
from typing import Final, NamedTuple, Protocol

from shadowcat.config import model
from shadowcat.policy.loads import Latency, Loads
from shadowcat.policy.ring import ConsistentHash, Ring
from shadowcat.policy.turns import Turns, redraw

COMPARE_ALL: Final = 16
"""Up to so many upstreams least_connections compares them all; of more, the best of four is nearly as good
(Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001), and choosing stays O(1)."""
_SAMPLE: Final = 4


class Source(Enum):
    """Where the number comes from that a strategy chooses by."""

    TURN = auto()
    """A sequence that all workers share: each number is taken once."""
    CHANCE = auto()
    """64 random bits."""
    KEY = auto()
    """`ring.hash_key` of what the configuration hashes on; 64 random bits where the request lacks it."""
    NOTHING = auto()
    """Any number."""


class Strategy(Protocol):
    """A way to choose among upstreams that are known when it is made."""

    def choose(self, number: int) -> int:
        """The index of an upstream. `number`: from 0, less than 2^64, of the strategy's source."""

    def choose_other(self, number: int, excluded: Container[int]) -> int | None:
        """The same without those that were tried before, or have no room; None if nobody is left.

        The number is that of the first choice, so that a second try takes nobody's turn.
        """


class First:
    """healthy_first: the first of the configuration that can be had."""

    __slots__ = ("_members",)

    def __init__(self, members: Sequence[int]) -> None:
        self._members = members

    def choose(self, _number: int) -> int:
        """See `Strategy`."""
        return self._members[0]

    def choose_other(self, _number: int, excluded: Container[int]) -> int | None:
        """See `Strategy`."""
        return next((member for member in self._members if member not in excluded), None)


class LeastConnections:
    """The one with the least load for its weight; where a comparison begins changes, so ties are shared."""

    __slots__ = ("_loads", "_pairs", "_rotations")

    def __init__(self, members: Sequence[int], weights: Sequence[int], loads: Loads) -> None:
        """`members`, which are not empty, are indexes into `loads`."""
        self._loads = loads
        self._pairs = pairs = tuple(zip(members, weights, strict=True))
        self._rotations: tuple[tuple[tuple[int, int], ...], ...] = ()
        if len(pairs) <= COMPARE_ALL:
            self._rotations = tuple(pairs[at:] + pairs[:at] for at in range(len(pairs)))

    def choose(self, number: int) -> int:
        """See `Strategy`."""
        pairs = self._pairs
        size = len(pairs)
        if self._rotations:
            return self._least(self._rotations[number % size])
        sample = []
        for _ in range(_SAMPLE):
            number, at = divmod(number, size)
            sample.append(pairs[at])
        return self._least(sample)

    def choose_other(self, number: int, excluded: Container[int]) -> int | None:
        """See `Strategy`."""
        pairs = self._pairs
        if self._rotations:
            pairs = self._rotations[number % len(pairs)]
        else:
            drawn = redraw(self.choose, number, excluded)
            if drawn is not None:
                return drawn
        rest = [pair for pair in pairs if pair[0] not in excluded]
        return self._least(rest) if rest else None

    def _least(self, pairs: Sequence[tuple[int, int]]) -> int:
        counts = self._loads.counts
        best = -1
        least = inf
        for member, weight in pairs:
            # The new one is counted, so that of idle upstreams the heaviest comes first.
            load = (counts[member] + 1) / weight
            if load < least:
                best, least = member, load
        return best


class PowerOfTwo:
    """Of two drawn at random, the one where latency times load is less, for its weight.

    Where an upstream has not answered yet, load alone decides: a guess of its latency would either keep it
    idle or flood it.
    """

    __slots__ = ("_clock", "_latencies", "_loads", "_pairs")

    def __init__(
        self,
        members: Sequence[int],
        weights: Sequence[int],
        loads: Loads,
        latencies: Sequence[Latency],
        clock: Callable[[], float],
    ) -> None:
        """`members`, which are not empty, are indexes into `loads` and `latencies`; `clock`: monotonic s."""
        self._pairs = tuple(zip(members, weights, strict=True))
        self._loads = loads
        self._latencies = latencies
        self._clock = clock

    def choose(self, number: int) -> int:
        """See `Strategy`."""
        pairs = self._pairs
        size = len(pairs)
        if size == 1:
            return pairs[0][0]
        number, at = divmod(number, size)
        other = number % (size - 1)
        first, first_weight = pairs[at]
        second, second_weight = pairs[other + (other >= at)]
        counts, latencies, now = self._loads.counts, self._latencies, self._clock()
        first_cost = (counts[first] + 1) / first_weight
        second_cost = (counts[second] + 1) / second_weight
        first_latency = latencies[first].value(now)
        second_latency = latencies[second].value(now)
        if first_latency and second_latency:
            first_cost *= first_latency
            second_cost *= second_latency
        return first if first_cost <= second_cost else second

    def choose_other(self, number: int, excluded: Container[int]) -> int | None:
        """See `Strategy`."""
        if len(self._pairs) > COMPARE_ALL:
            drawn = redraw(self.choose, number, excluded)
            if drawn is not None:
                return drawn
        rest = [pair for pair in self._pairs if pair[0] not in excluded]
        if not rest:
            return None
        members, weights = zip(*rest, strict=True)
        return PowerOfTwo(members, weights, self._loads, self._latencies, self._clock).choose(number)


class Measures(NamedTuple):
    """What the strategies of one group compare; those that a strategy does not need may be empty."""

    loads: Loads
    latencies: Sequence[Latency]
    ring: Ring | None
    clock: Callable[[], float]
    """Monotonic seconds."""


SOURCES: Final[dict[model.StrategyName, Source]] = {
    "round_robin": Source.TURN,
    "weighted_round_robin": Source.TURN,
    "least_connections": Source.CHANCE,
    "random": Source.CHANCE,
    "weighted_random": Source.CHANCE,
    "healthy_first": Source.NOTHING,
    "power_of_two": Source.CHANCE,
    "consistent_hash": Source.KEY,
}


def strategy_for(
    name: model.StrategyName, members: Sequence[int], weights: Sequence[int], measures: Measures
) -> Strategy:
    """Make a strategy.

    Args:
        name: As the configuration has it.
        members: Indexes of the upstreams that can be chosen, not empty, in the order of the configuration.
        weights: Theirs; round_robin, random and healthy_first pay no attention to them.
        measures: Of the group.
    """
    match name:
        case "round_robin" | "random":
            return Turns(members, [1] * len(members))
        case "weighted_round_robin" | "weighted_random":
            return Turns(members, weights)
        case "healthy_first":
            return First(members)
        case "least_connections":
            return LeastConnections(members, weights, measures.loads)
        case "power_of_two":
            return PowerOfTwo(members, weights, measures.loads, measures.latencies, measures.clock)
        case "consistent_hash":
            assert measures.ring is not None
            return ConsistentHash(members, weights, measures.loads, measures.ring)
