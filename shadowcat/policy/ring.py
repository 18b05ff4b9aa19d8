"""Consistent hashing with bounded loads: one key goes to one upstream, and a change moves few keys.

Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads" (2016): whoever has more than its
fair share times BOUND is passed over, so a key that is much in demand cannot overload its upstream.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Sequence
from hashlib import blake2b
from struct import Struct
from typing import Final

from shadowcat.policy.loads import Loads

POINTS: Final = 160
"""Points on the ring per unit of weight, as in ketama: shares are within about 8 %."""
MOST_POINTS: Final = 32_768
"""Where weights ask for more points on a ring, all upstreams get a half, a quarter, ... of theirs."""
BOUND: Final = 1.25
FREE: Final = 16
"""So few are no overload, whatever the others have: on a quiet host the bound would scatter every key."""
_KEY_SIZE: Final = 8
_BLOCK: Final = Struct(">8Q")
_OWNER_BITS: Final = 16
_OWNER: Final = (1 << _OWNER_BITS) - 1


def hash_key(key: bytes) -> int:
    """Where a key is on every ring: 64 bits, the same in all processes and after every start."""
    return int.from_bytes(blake2b(key, digest_size=_KEY_SIZE).digest(), "big")


class Ring:
    """The points of all upstreams of a group, whether they can be had or not: health changes no ring."""

    __slots__ = ("points",)

    def __init__(self, names: Sequence[str], weights: Sequence[int]) -> None:
        """The points of an upstream follow from its name and its weight, and from nobody else's.

        (Except where there would be more than MOST_POINTS: those left are still a subset.)
        """
        halvings = 0
        while sum(weights) * POINTS >> halvings > MOST_POINTS:
            halvings += 1
        self.points = sorted(
            point & ~_OWNER | owner
            for owner, (name, weight) in enumerate(zip(names, weights, strict=True))
            for point in _points(name, max(1, weight * POINTS >> halvings))
        )
        """Each with its owner in the low bits: integers sort four times as fast as pairs."""


def _points(name: str, count: int) -> list[int]:
    points: list[int] = []
    block = 0
    while len(points) < count:
        # A name cannot hold a zero byte, so no two upstreams hash the same text.
        points += _BLOCK.unpack(blake2b(b"%b\0%d" % (name.encode(), block)).digest())
        block += 1
    return points[:count]


class ConsistentHash:
    """Chooses by key. The number is `hash_key` of the principal, header or argument that counts."""

    __slots__ = ("_loads", "_ring", "_total", "_weights")

    def __init__(self, members: Sequence[int], weights: Sequence[int], loads: Loads, ring: Ring) -> None:
        """`members`, which are not empty, are indexes of upstreams, as in `ring` and `loads`."""
        self._weights = dict(zip(members, weights, strict=True))
        self._total = sum(weights)
        self._loads = loads
        self._ring = ring

    def choose(self, number: int) -> int:
        """The first from the key's place on that has room."""
        return self._walk(number, ())

    def choose_other(self, number: int, excluded: Container[int]) -> int | None:
        """The next on the ring that is not excluded; None if nobody is left."""
        if all(member in excluded for member in self._weights):
            return None
        return self._walk(number, excluded)

    def _walk(self, number: int, excluded: Container[int]) -> int:
        counts, weights = self._loads.counts, self._weights
        room = BOUND * (self._loads.total + 1) / self._total
        points = self._ring.points
        start = bisect_right(points, number)
        nearest = None
        for at in range(start - len(points), start):  # Negative indexes make the list a ring.
            owner = points[at] & _OWNER
            weight = weights.get(owner)
            if weight is None or owner in excluded:
                continue
            count = counts[owner]
            if count < FREE or count < room * weight:
                return owner
            if nearest is None:
                nearest = owner
        # The total lags behind the counts: nobody seems to have room.
        assert nearest is not None  # Every upstream is on the ring.
        return nearest
