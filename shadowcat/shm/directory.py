"""Cells by the labels that metrics have: what the numbers in shared memory stand for at present."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shadowcat.config.seats import Snapshot
from shadowcat.config.urls import upstream_name
from shadowcat.errors import Refusal
from shadowcat.shm.counters import Family, Layout, reason_number, tier_number
from shadowcat.shm.limiter import TIERS

Labels = tuple[str, ...]


class Directory:
    """The members of all families, as of one snapshot."""

    __slots__ = ("_layout", "_members", "version")

    def __init__(self, layout: Layout, snapshot: Snapshot) -> None:
        self._layout = layout
        self.version = snapshot.version
        """Of the snapshot."""
        upstreams: dict[Labels, list[int]] = {}
        routes: dict[Labels, list[int]] = {}
        for number, route, _ in snapshot.routes():
            routes[(route.path,)] = [number]
        for path, _, upstream, seat in snapshot.upstreams():
            # One that leaves may have the name of one that has come: to whoever looks they are one.
            upstreams.setdefault((path, upstream_name(upstream)), []).append(seat.row)
        self._members: dict[Labels, dict[Labels, list[int]]] = {
            (): {(): [0]},
            ("reason",): {(reason.name.lower(),): [reason_number(reason)] for reason in Refusal},
            ("route",): routes,
            ("route", "upstream"): upstreams,
            ("route", "tier"): {
                (*labels, tier): [tier_number(number, place) for number in numbers]
                for labels, numbers in routes.items()
                for place, tier in enumerate(TIERS)
            },
        }

    def members(self, family: Family) -> Iterator[tuple[Labels, Sequence[int]]]:
        """The values of the labels of each member, and its first cells: several where a name is shared."""
        for labels, numbers in self._members[family.labels].items():
            yield labels, [self._layout.cell(family.name, number) for number in numbers]

    def cells(self, family: Family, *labels: str) -> Sequence[int]:
        """The first cells of one member, such as those of `pool_idle` of "/mcp" and "a".

        Raises:
            KeyError: There is no such route, upstream or reason.
        """
        return [self._layout.cell(family.name, number) for number in self._members[family.labels][labels]]

    def rows(self, route: str, upstream: str) -> Sequence[int]:
        """The rows of an upstream."""
        return self._members["route", "upstream"][route, upstream]

    def upstreams(self) -> Iterator[Labels]:
        """Route and name of each upstream, those included that leave."""
        return iter(self._members["route", "upstream"])
