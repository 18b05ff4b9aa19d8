"""The choice among a route's upstreams, as a worker makes it: numbers to choose by, loads to compare.

One group per purpose: new sessions, requests of either era that belong to none, and `server/discover`. A
route with one upstream that takes everything has no use for any of this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum, auto
from math import inf
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from shadowcat.config import model
from shadowcat.config.seats import Phase, Seat
from shadowcat.config.urls import upstream_name
from shadowcat.mcp.envelope import Envelope
from shadowcat.mcp.eras import Era
from shadowcat.mcp.methods import DISCOVER
from shadowcat.policy import outlier
from shadowcat.policy.balance import SOURCES, Measures, Source
from shadowcat.policy.group import NEVER, Group, Member
from shadowcat.policy.health import Health, health_of
from shadowcat.policy.loads import Latency, Loads
from shadowcat.policy.ring import Ring, hash_key
from shadowcat.proxy.upstreams.hash_source import KeyOf, key_source
from shadowcat.shm.board import Board
from shadowcat.shm.cursors import Cursors
from shadowcat.shm.ejections import barred_until

if TYPE_CHECKING:
    from shadowcat.proxy.clients.downstream import ClientConnection
    from shadowcat.proxy.exchanges.exchange import Exchange
    from shadowcat.proxy.upstreams.pool import Pool

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
_MOST_PASSED_BY: Final = 16
"""Upstreams with half-open breakers that a request asks in vain, at most: each takes a few calls deep."""
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


_Cells: TypeAlias = Sequence[tuple[Sequence[int], Sequence[int]]]
"""Per upstream the cells that add to its load, and those that take off it."""
_NANOSECONDS: Final = 1_000_000_000

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
        cells: _Cells,
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
        return None if index is None else self._begin(index)

    def _begin(self, index: int) -> Pool:
        self._index = index
        self._tried.append(index)
        self._began = self._clock()
        return self._desk.pool(index)

    def other(self) -> Pool | None:
        """An upstream that was not tried yet, for the breaker of the present one keeps the request away."""
        self.end()
        if len(self._tried) >= _MOST_PASSED_BY:
            return None
        index = self._desk.choose(self._number, self._tried)
        return None if index is None else self._begin(index)

    @property
    def retry_after(self) -> int | None:
        """Whole seconds after which an upstream may be chosen again; None if it is no matter of time."""
        group = self._desk.group
        return group.retry_after(int(self._clock() * _NANOSECONDS)) if group.until < NEVER else None

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


class _Busy(Sequence[int]):
    """Requests at each upstream, looked up only for those of which some are too many."""

    __slots__ = ("_pools",)

    def __init__(self, pools: Sequence[Pool]) -> None:
        self._pools = pools

    def __len__(self) -> int:
        return len(self._pools)

    def __getitem__(self, index: Any) -> Any:
        return self._pools[index].host_busy()


class Balancer:
    """Of one route, in one worker."""

    __slots__ = (
        "_board",
        "_busy",
        "_desks",
        "_expires",
        "_host",
        "_key_of",
        "_latencies",
        "_members",
        "_number",
        "_pinned",
        "_pools",
        "_ring",
        "_seats",
        "_section",
        "_source",
        "_turn",
        "only",
    )

    _desks: dict[Purpose, Desk]

    def __init__(
        self,
        section: model.Route,
        number: int,
        seats: Sequence[Seat],
        pools: Sequence[Pool],
        host: Host,
        board: Board,
    ) -> None:
        """Balance by a section of the configuration; `look` comes before the first choice.

        Args:
            section: The route's.
            number: Of the route.
            seats: Of its upstreams, in the order of the section.
            pools: Of the same.
            host: What the workers have in common.
            board: What is known about upstreams.
        """
        name = section.balance.strategy
        self._section = section
        self._number = number
        self._seats = seats
        self._pools = pools
        self._host = host
        self._board = board
        self._source = SOURCES[name]
        self._key_of: KeyOf = key_source(section.balance.hash_on)
        self._turn = host.process
        """This worker's last turn: workers begin apart, lest their first requests all go to one."""
        upstreams = section.upstreams
        self._ring = None
        if self._source is Source.KEY:
            self._ring = Ring([upstream_name(one) for one in upstreams], [one.weight for one in upstreams])
        self._latencies = [Latency() for _ in upstreams] if name == "power_of_two" else []
        meters = [pool.meters for pool in pools]
        self._pinned: _Cells = [
            ((each.sessions_created, each.opening), (each.sessions_ended,)) for each in meters
        ]
        self._busy: _Cells = [((each.active, each.queue), ()) for each in meters]
        self._members: list[Member] = []
        self._expires = inf
        """When an upstream may be chosen again although nobody says so, by the host's clock."""
        self.only: Pool | None = None
        """Of the one upstream that gets everything; None where there is a choice to make."""

    def look(self) -> None:
        """Something may have happened to the upstreams, or it is time for one to come back."""
        now_ns = int(self._host.clock() * _NANOSECONDS)
        members = [
            self._member(upstream, seat)
            for upstream, seat in zip(self._section.upstreams, self._seats, strict=True)
        ]
        if members == self._members and self._expires == inf:
            return
        self._members = members
        first = members[0]
        is_only = (
            len(members) == 1 and first.enabled and first.eras == ERAS["dual"] and not first.barred_until
        )
        self.only = self._pools[0] if is_only else None
        self._desks = {
            Purpose.SESSION: self._desk(Era.LEGACY, self._pinned, now_ns),
            Purpose.LEGACY: self._desk(Era.LEGACY, self._busy, now_ns),
            Purpose.MODERN: self._desk(Era.MODERN, self._busy, now_ns),
            Purpose.DISCOVER: self._desk(Era.MODERN, self._busy, now_ns, discover=True),
        }
        until = min(desk.group.until for desk in self._desks.values())
        self._expires = until / _NANOSECONDS if until < NEVER else inf

    def _member(self, upstream: model.Upstream, seat: Seat) -> Member:
        """How an upstream stands."""
        board, row = self._board, seat.row
        eras = ERAS[upstream.era] if upstream.era != "unknown" else board.eras(row)
        until = barred_until(board, self._section, row, is_alone=len(self._seats) == 1)
        if self._section.outlier is not None:
            until = max(until, outlier.barred_until(board.ejection(row)))
        is_open = upstream.enabled and seat.phase is Phase.SERVING
        return Member(upstream.weight, is_open, eras, until, upstream.max_connections or NEVER)

    def _desk(self, era: Era, cells: _Cells, now_ns: int, *, discover: bool = False) -> Desk:
        name = self._section.balance.strategy
        measures = Measures(Loads(len(self._members)), self._latencies, self._ring, self._host.clock)
        busy = _Busy(self._pools)
        group = Group(name, self._members, era, measures, busy, now_ns, discover=discover)
        return Desk(group, self._pools, self._host, measures if name in COMPARES else None, cells)

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
        if self._host.clock() >= self._expires:
            self.look()
        if purpose is _MODERN and envelope is not None and envelope.method == DISCOVER:
            purpose = _DISCOVER
        return Choice(self._desks[purpose], number, self._host.clock)

    def is_down(self, pool: Pool) -> bool:
        """Whether health checks have found an upstream down."""
        section = self._section.health
        if section is None:
            return False
        now_ns = int(self._host.clock() * _NANOSECONDS)
        return health_of(self._board.health(pool.row), section.interval, now_ns) is Health.DOWN

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
        # One that was removed is among them no more.
        tried = [self._pools.index(home)] if home in self._pools else []
        if tried and tried[0] in group.members:
            yield home
        number = self._host.chance()
        while len(tried) < _MOST_SUCCESSORS:
            index = group.choose(number, tried)
            if index is None:
                return
            tried.append(index)
            yield self._pools[index]
