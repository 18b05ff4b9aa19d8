"""In which order upstreams take turns: a pure function of the turn's number, so that all workers agree.

Nothing is remembered between two turns. Whoever holds the n-th number of a shared sequence computes whose
turn the n-th is, and over any run of as many turns as the weights add up to, each upstream has exactly its
weight of them, in whichever workers they were taken.

A change of the upstreams or weights makes a new order, of which turn n is taken as if it had always been
so. There is nothing to carry over and no common moment of change: from the change on any full cycle is
exact, no turn is taken twice, and the worst is one upstream out of step once. Starting the new cycle from
its beginning would need that moment, and would favour the heaviest upstream at each flap of another.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Container, Sequence
from itertools import accumulate
from math import gcd
from typing import Final

MOST_STEPS: Final = 16_384
"""Up to so many steps an order is worked out in advance, which takes 3 ms at most. That is enough for 12
upstreams of any weights."""
_GOLDEN: Final = 0.618033988749895
_SCRAMBLE: Final = 0x9E3779B97F4A7C15
"""2^64 divided by the golden ratio: multiplying by it spreads numbers that follow each other (Knuth, The Art
of Computer Programming, volume 3, section 6.4)."""
_WORD: Final = 2**64 - 1
_REDRAWS: Final = 4


class Turns:
    """An order of turns by weight.

    Up to MOST_STEPS it is that of smooth weighted round robin, in which no upstream is ever more than about
    one turn ahead or behind. Beyond, the turns walk over the cumulated weights in strides of the golden
    section: as exact per cycle, made in O(upstreams), a few turns ahead or behind within a cycle.
    """

    __slots__ = ("_cycle", "_ends", "_members", "_stride", "_total", "_weights")

    def __init__(self, members: Sequence[int], weights: Sequence[int]) -> None:
        """`members`, which are not empty, are what the turns name, each once; `weights` are 1 or more."""
        divisor = gcd(*weights)
        shares = [weight // divisor for weight in weights]
        self._members = members
        self._weights = weights
        self._total = total = sum(shares)
        self._cycle: tuple[int, ...] | None = None
        self._ends: list[int] = []
        self._stride = 1
        if total == len(members):
            self._cycle = tuple(members)
        elif total * len(members) <= MOST_STEPS:
            self._cycle = tuple(members[position] for position in _smooth(shares, total))
        else:
            self._ends = list(accumulate(shares))
            self._stride = _stride(total)

    def choose(self, number: int) -> int:
        """Whose turn the turn of this number is."""
        if self._cycle is not None:
            return self._cycle[number % self._total]
        position = number * self._stride % self._total
        return self._members[bisect_right(self._ends, position)]

    def choose_other(self, number: int, excluded: Container[int]) -> int | None:
        """Who takes this turn in place of the `excluded`; None if nobody is left.

        By weight, but not in the order: it would give all turns of one that is out to the one after it.
        """
        drawn = redraw(self.choose, number, excluded)
        if drawn is not None:
            return drawn
        rest = [
            (member, weight)
            for member, weight in zip(self._members, self._weights, strict=True)
            if member not in excluded
        ]
        if not rest:
            return None
        ends = list(accumulate(weight for _, weight in rest))
        return rest[bisect_right(ends, scramble(number) % ends[-1])][0]


def scramble(number: int) -> int:
    """Another number, 0 to 2^44, that looks like chance: those of neighbours are far apart."""
    return (number * _SCRAMBLE + 1 & _WORD) >> 20


def redraw(choose: Callable[[int], int], number: int, excluded: Container[int]) -> int | None:
    """Choose by other numbers until one is not excluded; None if that does not happen soon.

    This is as fair as to choose among the rest, and does not look at the rest: as a rule one or two of a
    thousand upstreams are excluded.
    """
    for _ in range(_REDRAWS):
        number = scramble(number)
        chosen = choose(number)
        if chosen not in excluded:
            return chosen
    return None


def _smooth(weights: Sequence[int], total: int) -> list[int]:
    """Smooth weighted round robin, as nginx has it: all gain their weight, the richest pays the total."""
    credits_ = [0] * len(weights)
    order = []
    for _ in range(total):
        credits_ = [credit + weight for credit, weight in zip(credits_, weights, strict=True)]
        richest = credits_.index(max(credits_))
        credits_[richest] -= total
        order.append(richest)
    return order


def _stride(total: int) -> int:
    """The number closest to the golden section of `total` that visits every position."""
    wanted = round(total * _GOLDEN)
    distance = 0
    while True:
        for stride in (wanted - distance, wanted + distance):
            if stride > 0 and gcd(stride, total) == 1:
                return stride
        distance += 1
