"""The choice among a route's upstreams, as a worker makes it: numbers to choose by, loads to compare.

One group per purpose: new sessions, requests of either era that belong to none, and `server/discover`. A
route with one upstream that takes everything has no use for any of this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from shadowcat.config import model
from shadowcat.config.urls import upstream_name
from shadowcat.mcp.envelope import Envelope
from shadowcat.mcp.eras import Era
from shadowcat.policy.balance import SOURCES, Measures, Source
from shadowcat.policy.group import Group, Member
from shadowcat.policy.loads import Latency, Loads
from shadowcat.policy.ring import Ring, hash_key
from shadowcat.proxy.hash_source import KeyOf, key_source
from shadowcat.shm.cursors import Cursors

if TYPE_CHECKING:
    from shadowcat.proxy.downstream import ClientConnection
    from shadowcat.proxy.exchange import Exchange
    from shadowcat.proxy.pool import Pool

ERAS: Final[dict[str, frozenset[Era]]] = {
    "legacy": frozenset({Era.LEGACY}),
    "modern": frozenset({Era.MODERN}),
    "dual": frozenset(Era),
    "unknown": frozenset(Era),
}
COMPARES: Final[frozenset[model.StrategyName]] = frozenset(
    {"least_connections", "power_of_two", "consistent_hash"}
)
"""The strategies that look at loads."""
_REFRESH: Final = 0.05
"""Seconds for which the sums over the cells of all workers are good."""
_MOST_SUCCESSORS: Final = 8
"""Upstreams that are asked to take a lost session, at most."""


class Purpose(Enum):
    """What an upstream is chosen for."""

    SESSION = auto()
    """To open a session."""
    LEGACY = auto()
    """For a request of the legacy era that belongs to no session."""
    MODERN = auto()
    DISCOVER = auto()
    """For `server/discover`."""


# An Enum member costs three look-ups.
_MODERN: Final = Purpose.MODERN
_DISCOVER: Final = Purpose.DISCOVER


class Host:
    """What the workers of this host have in common, as one of them sees it."""

    __slots__ = ("chance", "clock", "cursors", "pages", "process")

    def __init__(
        self,
        pages: Sequence[memoryview],
        cursors: Cursors,
        process: int,
        clock: Callable[[], float],
        chance: Callable[[], int],
    ) -> None:
        """`pages`: the cells of all processes; `clock`: monotonic seconds; `chance`: 64 random bits."""
        self.pages = pages
        self.cursors = cursors
        self.process = process
        self.clock = clock
        self.chance = chance


class Desk:
    """A group, and the loads that it compares, if it does."""

    __slots__ = ("_cells", "_host", "_latencies", "_loads", "_pools", "_refresh_at", "group")

    def __init__(
        self,
        group: Group,
        pools: Sequence[Pool],
        host: Host,
        measured: Measures | None,
        cells: Sequence[tuple[Sequence[int], Sequence[int]]],
    ) -> None:
        """Describe it.

        Args:
            group: Who can be chosen.
            pools: All upstreams of the route.
            host: What is read.
            measured: What the strategy compares; None if that is nothing.
            cells: Per upstream, those that add to its load, and those that take off it.
        """
        self.group = group
        self._pools = pools
        self._host = host
        self._loads = measured.loads if measured is not None else None
        self._latencies = measured.latencies if measured is not None else ()
        self._cells = cells
        self._refresh_at = float("-inf")

    def choose(self, number: int, tried: Sequence[int]) -> int | None:
        """The index of an upstream, on which the load is from now on; None if there is none."""
        loads = self._loads
        if loads is None:
            return self.group.choose(number, tried)
        now = self._host.clock()
        if now >= self._refresh_at:
            self._refresh_at = now + _REFRESH
            self._refresh(loads)
        index = self.group.choose(number, tried)
        if index is not None:
            loads.begin(index)
            if self._latencies:
                self._latencies[index].pending += 1
        return index

    def take(self, index: int) -> None:
        """Put load on an upstream that was not chosen here."""
        if self._loads is not None:
            self._loads.begin(index)
            if self._latencies:
                self._latencies[index].pending += 1

    def pool(self, index: int) -> Pool:
        """Of the upstream with this index."""
        return self._pools[index]

    def answered(self, index: int, seconds: float) -> None:
        """An answer's head has come, so many seconds after its request."""
        if self._latencies:
            self._latencies[index].observe(seconds, self._host.clock())

    def ended(self, index: int, *, answered: bool) -> None:
        """The load is gone; `answered`: and what there was to learn from it is known."""
        if self._loads is not None:
            self._loads.end(index)
            if self._latencies and not answered:
                self._latencies[index].forget()

    def _refresh(self, loads: Loads) -> None:
        for pool in self._pools:
            pool.publish()
        pages = self._host.pages
        counts = []
        for more, less in self._cells:
            count = 0
            for cells in pages:
                for cell in more:
                    count += cells[cell]
                for cell in less:
                    count -= cells[cell]
            counts.append(count)
        loads.refresh(counts, self.group.members)


class Choice:
    """The way of one request among the upstreams of its route."""

    __slots__ = ("_began", "_clock", "_desk", "_index", "_is_answered", "_number", "_tried")

    def __init__(self, desk: Desk, number: int, clock: Callable[[], float]) -> None:
        self._desk = desk
        self._number = number
        self._clock = clock
        self._tried: list[int] = []
        self._index: int | None = None
        self._is_answered = False
        self._began = 0.0

    def next(self) -> Pool | None:
        """The upstream to try now: another than before, as long as there is one."""
        self.end()
        index = self._desk.choose(self._number, self._tried)
        if index is None and self._tried:
            self._tried.clear()
            index = self._desk.choose(self._number, ())
        if index is None:
            return None
        self._index = index
        self._tried.append(index)
        self._began = self._clock()
        return self._desk.pool(index)

    def take(self, index: int) -> None:
        """Go to this upstream, whoever else there is."""
        self._desk.take(index)
        self._index = index
        self._began = self._clock()

    def answered(self) -> None:
        """The head of the answer has come."""
        if self._index is not None and not self._is_answered:
            self._is_answered = True
            self._desk.answered(self._index, self._clock() - self._began)

    def end(self) -> None:
        """It is over, or goes on elsewhere."""
        index, self._index = self._index, None
        if index is not None:
            self._desk.ended(index, answered=self._is_answered)

    def keep(self) -> None:
        """A session has come of it: the load stays, and is counted elsewhere from now on."""
        self.answered()
        self._index = None


class Balancer:
    """Of one route, in one worker."""

    __slots__ = (
        "_desks",
        "_host",
        "_key_of",
        "_number",
        "_pools",
        "_source",
        "_turn",
    )

    def __init__(self, section: model.Route, number: int, pools: Sequence[Pool], host: Host) -> None:
        """`number` is the route's place in the configuration."""
        name = section.balance.strategy
        members = [Member(one.weight, one.enabled, ERAS[one.era]) for one in section.upstreams]
        self._pools = pools
        self._host = host
        self._number = number
        self._source = SOURCES[name]
        self._key_of: KeyOf = key_source(section.balance.hash_on)
        self._turn = host.process
        """This worker's last turn: workers begin apart, lest their first requests all go to one."""
        compares = name in COMPARES
        ring = None
        if self._source is Source.KEY:
            ring = Ring([upstream_name(one) for one in section.upstreams], [one.weight for one in members])
        latencies = [Latency() for _ in members] if name == "power_of_two" else []
        pinned = [
            ((meters.sessions_created, meters.opening), (meters.sessions_ended,))
            for meters in (pool.meters for pool in pools)
        ]
        busy: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
            ((pool.meters.active, pool.meters.queue), ()) for pool in pools
        ]

        def desk(
            era: Era,
            cells: Sequence[tuple[Sequence[int], Sequence[int]]],
            *,
            discover: bool = False,
        ) -> Desk:
            measures = Measures(Loads(len(members)), latencies, ring, host.clock)
            group = Group(name, members, era, measures, [0] * len(members), 0, discover=discover)
            return Desk(group, pools, host, measures if compares else None, cells)

        self._desks = {
            Purpose.SESSION: desk(Era.LEGACY, pinned),
            Purpose.LEGACY: desk(Era.LEGACY, busy),
            Purpose.MODERN: desk(Era.MODERN, busy),
            Purpose.DISCOVER: desk(Era.MODERN, busy, discover=True),
        }

    def number(self, exchange: Exchange, client: ClientConnection | None) -> int:
        """What to choose by, for a request that belongs to no session."""
        source = self._source
        if source is Source.TURN:
            self._turn = turn = self._turn + 1
            return turn
        if source is Source.CHANCE:
            return self._host.chance()
        if source is Source.KEY:
            key = self._key_of(exchange, client)
            return self._host.chance() if key is None else hash_key(key)
        return 0

    def session_number(self, exchange: Exchange, client: ClientConnection | None) -> int:
        """What to choose by, for a new session: turns are the host's, not this worker's.

        Raises:
            LockBusyError: Another worker takes its turn at this moment.
        """
        if self._source is Source.TURN:
            return self._host.cursors.take(self._number)
        return self.number(exchange, client)

    def choice(self, purpose: Purpose, envelope: Envelope | None, number: int) -> Choice:
        """Begin to choose."""
        if purpose is _MODERN and envelope is not None and envelope.method == "server/discover":
            purpose = _DISCOVER
        return Choice(self._desks[purpose], number, self._host.clock)

    def return_to(self, home: Pool) -> Choice:
        """The way of a modern request that only `home` can serve, whether or not that can be chosen now."""
        choice = Choice(self._desks[_MODERN], 0, self._host.clock)
        if home in self._pools:  # One that is about to be removed is compared with none.
            choice.take(self._pools.index(home))
        return choice

    def members(self, purpose: Purpose) -> tuple[Pool, ...]:
        """Who can be chosen."""
        return tuple(self._pools[index] for index in self._desks[purpose].group.members)

    def successors(self, home: Pool) -> Iterator[Pool]:
        """Who may have a session that `home` has lost: that one, if it is back, then others."""
        group = self._desks[Purpose.SESSION].group
        tried = [self._pools.index(home)]
        if tried[0] in group.members:
            yield home
        number = self._host.chance()
        while len(tried) < _MOST_SUCCESSORS:
            index = group.choose(number, tried)
            if index is None:
                return
            tried.append(index)
            yield self._pools[index]
