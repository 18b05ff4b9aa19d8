"""Connections of one worker to one upstream: reuse, dialling, and the queue of exchanges that wait."""

from __future__ import annotations

import logging
from collections import deque
from itertools import islice
from math import inf
from typing import TYPE_CHECKING, Final

from shadowcat.auth.held import place
from shadowcat.config import model
from shadowcat.errors import Refusal
from shadowcat.policy.breaker import STATE_MASK
from shadowcat.proxy.sessions.sessions import NANOSECONDS
from shadowcat.proxy.upstreams.dial import OUT_OF_DESCRIPTORS, Dialer, describe_failure
from shadowcat.proxy.upstreams.judged_connection import JudgedConnection
from shadowcat.proxy.upstreams.upstream import UpstreamConnection
from shadowcat.shm.connections import Demand

if TYPE_CHECKING:
    from shadowcat.proxy.clients.admission import Admitted
    from shadowcat.proxy.plane import DataPlane
    from shadowcat.proxy.upstreams.origin import Origin
    from shadowcat.proxy.upstreams.outcomes import Outcomes
    from shadowcat.proxy.upstreams.site import Site
    from shadowcat.proxy.upstreams.upstream import Job

_log: Final = logging.getLogger(__name__)

_QUIET: Final = 5.0
"""Seconds between two log lines about the same upstream that cannot be reached; the metric counts all."""
_HEAD_START: Final = 0.1
"""Seconds by which a request at another worker must have waited longer than all here to get a connection of
this one. Closing one to open it there costs about 10 ms of its time."""
_RETIRED_AT_ONCE: Final = 10
"""A tenth of the connections at most grow too old with one tick, lest those that were opened together are all
replaced together."""


class Pool:
    """Hands connections to exchanges: the most recently used idle one, else one that is dialled.

    Idle connections are a stack, so that hot ones stay hot and surplus ones age out. A dial belongs to the
    pool, not to the exchange that caused it: whatever connection comes free first serves the queue.

    How many there may be is for all workers together (shm/connections.py). A worker that finds no room waits
    in the order of its requests and of those at other workers; one that has connections lets go of some when
    others have waited for longer than its own requests.
    """

    __slots__ = (
        "_closed",
        "_connect_timeout",
        "_connections",
        "_contested",
        "_dialer",
        "_dialling",
        "_dials",
        "_elsewhere",
        "_logged_at",
        "_looked_at",
        "_max_age",
        "_max_queue",
        "_plane",
        "_queue_timeout",
        "_room",
        "_slots",
        "_stale",
        "_waiting",
        "_young",
        "generation",
        "idle",
        "idle_timeout",
        "limit",
        "meters",
        "origin",
        "outcomes",
        "place",
        "pressed",
        "row",
        "upstream",
    )

    idle_timeout: float
    limit: int
    """Most connections of all workers together."""
    place: str
    """By which control knows the upstream."""
    upstream: model.Upstream
    """As it is configured."""
    _max_age: float
    _max_queue: int
    _queue_timeout: float

    def __init__(self, plane: DataPlane, site: Site) -> None:
        """Begin without connections."""
        self._plane = plane
        self._room = plane.room
        self._slots = plane.room.slots
        self.origin = site.origin
        self.meters = site.meters
        self.row = site.row
        self.generation = site.generation
        self.place = place(site.row, site.generation)
        self.idle: list[UpstreamConnection] = []
        """Those that wait for a request, the one used last at the end."""
        self._waiting: deque[Job] = deque()
        self._dials = 0
        self._dialling: set[int] = set()
        """Numbers of the dials under way. A dial ends here when its connection is made, which is before the
        task that dialled goes on: whoever comes in between needs a dial of their own."""
        self._connections: dict[UpstreamConnection, float] = {}
        """Those that are open, and since when."""
        self._young: dict[UpstreamConnection, float] = {}
        """Those among them that may serve further exchanges, the oldest one first."""
        self._stale = 0
        """Connections from dials up to this number are not used."""
        self.pressed = False
        """Whether a connection that comes free may have something else to do than to wait for a request."""
        self._contested = False
        """Whether it may have to be closed, for there are too many, or others wait; not looked at for each
        exchange, as that costs half as much again.
        """
        self._closed = False
        self.outcomes: Outcomes | None = None
        """What becomes of its exchanges; None where nobody asks, as neither breaker nor ejections are on."""
        self._elsewhere = 0
        self._looked_at = -inf
        self._logged_at = -inf
        self._connect_timeout = float(site.section.connect_timeout)
        self._dialer = Dialer(plane.loop, site.origin, self._connect_timeout)
        self._configure(site.section, site.upstream)

    def _configure(self, config: model.Pool, upstream: model.Upstream) -> None:
        self.upstream = upstream
        self.limit = upstream.max_connections or config.max_connections
        self.idle_timeout = float(config.idle_timeout)
        self._queue_timeout = float(config.queue_timeout)
        self._max_age = float(config.max_age)
        self._max_queue = config.max_queue

    # For exchanges.

    def acquire(self, exchange: Job, fresh: bool = False) -> None:
        """Give `exchange` a connection, now or later; `exchange.send` or `exchange.no_connection` follows.

        `fresh` asks for one that has not been idle, and so cannot have been closed meanwhile. It is
        no keyword-only argument: those take CPython 3.11 the slow way, even where none is given.
        """
        outcomes = self.outcomes
        if outcomes is not None and outcomes.word[0] & STATE_MASK and not outcomes.lets_in(exchange):
            return
        if self.idle and not fresh:
            self.meters.reused += 1
            self.idle.pop().begin(exchange)
            return
        if self._closed:
            exchange.no_connection(Refusal.NO_UPSTREAM, self.origin.name)
            return
        self._waiting.append(exchange)
        self.pressed = True
        self._plane.wheel.set(exchange, self._plane.loop.time() + self._queue_timeout)
        self.look_for_room()
        if len(self._waiting) > len(self._dialling) and self._slots.waiting(self.row) > self._max_queue:
            self.forget(exchange)
            self._say_who_waits()
            self._plane.cells[self.meters.queue_overflows] += 1
            exchange.no_connection(Refusal.QUEUE_FULL, self.origin.name)

    def forget(self, exchange: Job) -> None:
        """Take an exchange out of the queue: its client left, or it gives up."""
        self._waiting.remove(exchange)
        if self.outcomes is not None:
            self.outcomes.forget(exchange)

    def line_for(self, admitted: Admitted | None) -> bytes | None:
        """The header field that a client's requests need besides those of the origin; None: it has none."""
        return b""

    def overdue(self, exchange: Job) -> bool:
        """Whether an exchange that has waited for `queue_timeout` has to give up; it is dequeued then.

        One for which a connection is being opened goes on: it gets that one, or hears why there is none.
        """
        if self._waiting.index(exchange) < len(self._dialling):
            self._plane.wheel.set(exchange, self._plane.loop.time() + self._connect_timeout)
            return False
        self.forget(exchange)
        self._plane.cells[self.meters.queue_timeouts] += 1
        return True

    # For connections.

    def opened(self, connection: UpstreamConnection, dial: int) -> bool:
        """The connection that was dialled under this number is there; true if it stays idle."""
        self._dialling.discard(dial)
        if not self._closed:  # Else these cells may be another upstream's by now.
            self._plane.cells[self.meters.dials] += 1
            self._connections[connection] = self._young[connection] = self._plane.loop.time()
        if dial <= self._stale:
            self.idle.append(connection)
            connection.abandon()
            return False
        if self._waiting:
            self.meters.first_uses += 1
            self._serve(connection)
            return False
        self.idle.append(connection)
        return True

    def keeps(self, connection: UpstreamConnection) -> bool:
        """A connection has done its exchange, and may have more to do than to become idle; true if not."""
        if self._yields():
            connection.abandon()
            return False
        if self._waiting:
            self.meters.reused += 1
            self._serve(connection)
            return False
        return True

    def _serve(self, connection: UpstreamConnection) -> None:
        """Give a connection to the first in the queue."""
        exchange = self._waiting.popleft()
        exchange.deadline = inf
        connection.begin(exchange)

    def drop(self, connection: UpstreamConnection, *, idle: bool) -> None:
        """A connection will not be used again: it is closed, or is about to be."""
        opened = self._connections.pop(connection, None)
        if opened is not None:
            self.meters.closed(self._plane.loop.time() - opened)
        self._young.pop(connection, None)
        if idle:
            self.idle.remove(connection)

    def gone(self) -> None:
        """A connection is closed, at the end of this turn of the loop: only then another one may take its
        place, here or at another worker.
        """
        self._plane.loop.call_soon(self._give_back)

    def _give_back(self) -> None:
        self._slots.give(self.row)
        self.look_for_room()

    # For the plane.

    def tick(self, now: float) -> None:
        """Let go of what is too old, and of what others wait for; called ten times a second."""
        young = self._young
        if young and next(iter(young.values())) + self._max_age <= now:
            most = len(self._connections) // _RETIRED_AT_ONCE + 1
            for connection, opened in list(islice(young.items(), most)):
                if opened + self._max_age <= now:
                    self._retire(connection)
        if self.pressed or self._room.others_wait:
            self.make_room()

    def make_room(self) -> None:
        """Close idle connections in place of which others wait to open some, or that are too many."""
        self._contested = self._slots.free(self.row, self.limit) < 0 or self._demand().requests > 0
        while self.idle and self._yields():
            self.idle[0].abandon()
        self.pressed = self._contested or bool(self._waiting)

    def publish(self) -> None:
        """Put the pool's numbers where others can read them."""
        idle = len(self.idle)
        active = len(self._connections) - idle
        queue = len(self._waiting)
        self.meters.publish(idle=idle, active=active, queue=queue)
        self._slots.set_busy(self.row, active + queue)
        if self.outcomes is not None:
            self.outcomes.publish()
            self.turn_away()

    def turn_away(self) -> None:
        """Let nobody wait whom the breaker, as it stands, does not let in."""
        outcomes = self.outcomes
        if self._waiting and outcomes is not None and outcomes.word[0] & STATE_MASK:
            waiting, self._waiting = self._waiting, deque()
            for exchange in waiting:
                if outcomes.lets_in(exchange):
                    self._waiting.append(exchange)
            self._say_who_waits()

    def close_idle(self) -> None:
        """Close what nobody uses."""
        for connection in list(self.idle):
            connection.abandon()

    def host_busy(self) -> int:
        """Requests at the upstream, or waiting for it; those of other workers as of up to 0.2 s ago."""
        now = self._plane.wheel.now
        if now != self._looked_at:
            self._looked_at = now
            self._elsewhere = self._slots.busy_elsewhere(self.row)
        return len(self._connections) - len(self.idle) + len(self._waiting) + self._elsewhere

    # Live changes.

    def change(self, config: model.Pool, upstream: model.Upstream, origin: Origin | None) -> None:
        """Go by another configuration from now on; with another `origin`, over other connections, too."""
        timeout = float(config.connect_timeout)
        if origin is not None or timeout != self._connect_timeout:
            self._connect_timeout = timeout
            self.origin = origin or self.origin
            self._dialer = Dialer(self._plane.loop, self.origin, timeout)
        if origin is not None:
            self.flush()
        self._configure(config, upstream)
        self.pressed = True  # There may be more connections than the new limit allows.

    def watch(self, outcomes: Outcomes | None) -> None:
        """Have what becomes of its exchanges looked at from now on, or no more; by other connections."""
        if outcomes is not self.outcomes:
            self.outcomes = outcomes
            self.flush()

    def flush(self) -> None:
        """No connection that there is serves another exchange: idle ones close now, others when they are
        done, and what is being dialled when it is there.
        """
        self._stale = self._dials
        for connection in list(self._young):
            self._retire(connection)

    def close(self) -> None:
        """The upstream was removed: cut everything off, and take nothing more."""
        self.abort()
        self._closed = True
        self.outcomes = None

    def abort(self) -> None:
        """Cut everything off; nothing of it is tried again here."""
        self._closed = True
        self._stale = self._dials
        waiting, self._waiting = self._waiting, deque()
        self._say_who_waits()
        for exchange in waiting:
            if self.outcomes is not None:
                self.outcomes.forget(exchange)
            exchange.no_connection(Refusal.NO_UPSTREAM, self.origin.name)
        for connection in list(self._connections):
            connection.fail(Refusal.RESET, is_own=True)
        self._closed = False

    def _retire(self, connection: UpstreamConnection) -> None:
        del self._young[connection]
        connection.retire()

    # Room and dials.

    def look_for_room(self) -> None:
        """Dial for those in the queue for whom no dial is under way yet, as far as there is room."""
        dialling, waiting = self._dialling, self._waiting
        while len(dialling) < len(waiting) and self._room.take(self, waiting[len(dialling)].started):
            self._dials += 1
            dialling.add(self._dials)
            self._plane.spawn(self._dial(self._dials))
        self._say_who_waits()
        # Those that want a fresh connection have no use for an idle one.
        for connection in self.idle[: max(0, len(waiting) - len(dialling) - self._closing)]:
            connection.abandon()

    def _say_who_waits(self) -> None:
        first = len(self._dialling)
        count = len(self._waiting) - first
        self._room.wait(self, max(0, count), self._waiting[first].started if count > 0 else 0.0)

    @property
    def _closing(self) -> int:
        """Connections that are taken, and will be given back in a moment."""
        return self._slots.own(self.row) - len(self._connections) - len(self._dialling)

    def _yields(self) -> bool:
        """Whether a connection should be closed, so that another worker can open one."""
        if not self._contested:
            return False
        spare = self._slots.free(self.row, self.limit) + self._closing
        if spare < 0:
            return True
        demand = self._demand()
        if demand.requests <= spare:
            return False
        return not self._waiting or self._waiting[0].started - demand.since / NANOSECONDS > _HEAD_START

    def _demand(self) -> Demand:
        return self._slots.demand(self.row, int(self._plane.loop.time() * NANOSECONDS))

    async def _dial(self, number: int) -> None:
        try:
            await self._dialer.dial(lambda: self._connection(number))
        except OSError as error:
            if self._dial_ended(number):
                if number > self._stale:
                    self._failed(error)
                self.look_for_room()
        finally:
            self._dial_ended(number)

    def _connection(self, number: int) -> UpstreamConnection:
        if self.outcomes is None:
            return UpstreamConnection(self._plane, self, number)
        return JudgedConnection(self._plane, self, number, self.outcomes)

    def _dial_ended(self, number: int) -> bool:
        """A dial is over; true if there is no connection of it."""
        if number not in self._dialling:
            return False
        self._dialling.discard(number)
        self._slots.give(self.row)
        return True

    def _failed(self, error: OSError) -> None:
        """One failed dial answers one exchange: the others have dials of their own."""
        self._plane.cells[self.meters.dial_failures] += 1
        words = describe_failure(error)
        now = self._plane.clock()
        if now - self._logged_at >= _QUIET:
            self._logged_at = now
            _log.warning("upstream %s: connection failed: %s", self.origin.name, words)
        if self._waiting:
            reason = Refusal.CONNECT_TIMEOUT if isinstance(error, TimeoutError) else Refusal.CONNECT_FAILED
            exchange = self._waiting.popleft()
            if error.errno in OUT_OF_DESCRIPTORS:
                # Not the upstream's fault: neither is that one spared, nor a session on it given up.
                reason = Refusal.OUT_OF_DESCRIPTORS
                if self.outcomes is not None:
                    self.outcomes.forget(exchange)
            elif self.outcomes is not None:
                self.outcomes.unreachable(exchange, words)
            exchange.no_connection(reason, f"{self.origin.name}: {words}")
