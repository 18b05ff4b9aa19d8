"""The data plane of one worker: what all of its connections share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Any, Final

from shadowcat.config.model import Config
from shadowcat.policy.forwarded import TrustedProxies
from shadowcat.policy.guard import Guard
from shadowcat.proxy.checks.chosen import checks_of
from shadowcat.proxy.clients.admission import Admission
from shadowcat.proxy.clients.arrival import Arrival
from shadowcat.proxy.clients.counted_connection import CountedConnection
from shadowcat.proxy.clients.downstream import ClientConnection
from shadowcat.proxy.clients.pages import Pages
from shadowcat.proxy.clients.request_heads import RequestHeads
from shadowcat.proxy.exchanges.affinity import Affinity
from shadowcat.proxy.exchanges.exchange import Exchange
from shadowcat.proxy.exchanges.kinds import Kinds
from shadowcat.proxy.limits.entrance import Entrance
from shadowcat.proxy.limits.limits import Limits
from shadowcat.proxy.meters import WorkerMeters
from shadowcat.proxy.observers.observe import Observation, Observer
from shadowcat.proxy.overload.doors import Doors
from shadowcat.proxy.overload.places import Places
from shadowcat.proxy.overload.stock import Stock
from shadowcat.proxy.route import Route, RouteTable
from shadowcat.proxy.sessions.recovery import Recoveries
from shadowcat.proxy.sessions.sessions import NANOSECONDS, Sessions
from shadowcat.proxy.sessions.streams import Streams
from shadowcat.proxy.upstreams.credentials import Credentials, documents
from shadowcat.proxy.upstreams.response_heads import ResponseHeads
from shadowcat.proxy.upstreams.room import Room
from shadowcat.proxy.wheel import TICK, Wheel
from shadowcat.shm.shared import Shared

if TYPE_CHECKING:
    from shadowcat.proxy.observers.audit import Audit
    from shadowcat.proxy.roster import Roster
    from shadowcat.proxy.upstreams.pool import Pool

MOST_DETACHED: Final = 256
"""Exchanges of one worker that may go on without a client; beyond it the oldest is given up."""
_FORGET_EVERY: Final = 60.0
"""Seconds after which heads that were not used are forgotten: they contain tokens."""


class DataPlane:
    """Connections, exchanges and pools of a worker, and what they need: limits, cells, time."""

    def __init__(
        self,
        config: Config,
        shared: Shared,
        process: int,
        loop: asyncio.AbstractEventLoop,
        wall: Callable[[], float],
        clock_ns: Callable[[], int],
        descriptors: int,
    ) -> None:
        """Made by `assembly.assemble` alone, which also adds the routes.

        `wall` tells seconds since 1970; `descriptors` is how many this process may have.
        """
        self.loop = loop
        self.clock = loop.time
        self.cells = shared.page(process).cells
        self.meters = WorkerMeters(shared.layout, self.cells)
        self.wheel = Wheel(loop.time())
        self.epoch = shared.board.epoch
        """One word: another value than `known` means that something has changed; see `refresh`."""
        self.known = self.epoch[0]
        self._heads: dict[tuple[bool, bool], RequestHeads] = {}
        self.response_heads = ResponseHeads()
        self.roster: Roster
        self.routes: Sequence[Route] = ()
        self.pools: Sequence[Pool] = ()
        """Of all upstreams, those included that were removed and still have sessions."""
        self.observers: tuple[Observer, ...] = ()
        self.audit: Audit | None = None
        """One of the observers, which is told of more than requests."""
        self.kinds = Kinds()
        self.sessions = Sessions(self, config.sessions, shared.sessions_for(process), shared.board)
        self.admission = Admission(self, shared, process, wall)
        self.pages = Pages(self, shared, process)
        self.credentials = Credentials(shared, process, loop.time, wall)
        self.limits = Limits(self, shared, process, clock_ns)
        self.entrance = Entrance(self.limits, self.admission, loop, self.cells)
        self.affinity = Affinity(self, shared.affinity)
        slots = shared.slots_for(process, self.sessions.table.locks)
        self.room = Room(loop, slots, shared.mail, process)
        self.streams = Streams(self, shared.mail, process, shared.processes)
        self.recoveries = Recoveries(self, config.sessions, shared, process)
        self._touch_at = loop.time()
        self._untouched: list[ClientConnection] = []
        """Clients still to be looked at in this round."""
        self._share = 0
        """How many of them with each tick."""
        self.draining = False
        self._second = loop.time()
        self._forget_at = loop.time() + _FORGET_EVERY
        self.crowd = shared.crowd_for(process)
        self._arrivals: set[Arrival] = set()
        """Connections that have not said yet for whom they come."""
        self._clients: set[ClientConnection] = set()
        self.pressure = shared.pressure_for(process)
        self.places = Places(self, self.pressure)
        self.stock = Stock(self.pressure)
        levels = self.meters.levels(shared)
        counters = self.meters.turned_away, self.meters.closed_idle
        self.doors = Doors(self._clients, levels, descriptors, self.clock, self.cells, counters)
        self._detached: dict[Exchange, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    # The configuration.

    def take_up(self, config: Config, routes: list[Route], pools: dict[int, Pool]) -> None:
        """Go by these from now on; connections keep the limits that they began with."""
        self.http = config.http
        self.trusted_proxies = TrustedProxies(config.trusted_proxies)
        limit = config.http.max_connections_per_ip
        self.new_client: Callable[[], ClientConnection] = (
            partial(ClientConnection, self) if limit is None else partial(CountedConnection, self, limit)
        )
        self._newcomer: Callable[[], asyncio.Protocol] = (
            partial(Arrival, self) if config.proxy_protocol else self.new_client
        )
        self._guards = {
            loopback: Guard(
                config.public_url, config.allowed_hosts, config.allowed_origins, loopback=loopback
            )
            for loopback in (False, True)
        }
        self.routes = routes
        self.admission.take_up(config, routes)
        queues = self.places.take_up(config)
        self.stock.take_up(config)
        self.doors.take_up(config)
        self.entrance.take_up(is_limited=self.limits.take_up(config, routes))
        for route, section in zip(routes, config.routes, strict=True):
            route.checks = checks_of(self, route, section)
            route.queues = queues
        self.pages.configure(config)
        self.pools = tuple(pools.values())
        self.route_table = RouteTable(routes, documents(self.pools))
        self.credentials.take_up(self.pools)
        self.sessions.pools = pools
        self.sessions.configure(config.sessions)
        self.recoveries.configure(config.sessions, pools.values())
        self._touch_every = min(1.0, config.sessions.idle_timeout / 4)
        for (loopback, trusted), heads in self._heads.items():
            believed = self.trusted_proxies if trusted else None
            heads.configure(self.http, self.route_table, self._guards[loopback], believed)
        for client in self._clients:
            client.forget_verdict()

    def refresh(self) -> None:
        """Something has changed."""
        self.known = self.epoch[0]
        self.roster.refresh()
        self.admission.refresh()
        self.credentials.refresh()

    # For the worker.

    def client_protocol(self) -> asyncio.Protocol:
        """A protocol for a connection that was accepted."""
        if self.epoch[0] != self.known:
            self.refresh()
        self.meters.accepted()
        return self._newcomer()

    @property
    def open_connections(self) -> int:
        """Clients connected, and exchanges going on without one; 0 when drained."""
        return len(self._arrivals) + len(self._clients) + len(self._detached)

    def start(self) -> None:
        """Start the clock."""
        self.sessions.tick()
        self._timer = self.loop.call_later(TICK, self._tick)

    def begin_drain(self) -> None:
        """From now on every answer is the last of its connection."""
        self.draining = True
        for arrival in self._arrivals:
            arrival.drain()
        for client in list(self._clients):
            client.drain()
        self._close_idle()

    def abort(self) -> None:
        """Cut everything off."""
        for arrival in list(self._arrivals):
            arrival.abort()
        for client in list(self._clients):
            client.abort()
        for exchange in list(self._detached):
            exchange.abandon_detached()
        self.recoveries.abort()
        self.sessions.abort()

    def stop(self) -> None:
        """Stop the clock, and close what is idle."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.room.stop()
        self.places.stop()
        for task in self._tasks:
            task.cancel()
        self._publish()
        self._close_idle()
        for observer in self.observers:
            observer.close()
        self.sessions.close()

    def end_session(self, argument: int) -> None:
        """Mail END_SESSION has come."""
        self.sessions.end_session(argument)

    def end_stream(self, slot: int) -> None:
        """Mail END_STREAM has come."""
        self.streams.end_stream(slot)

    def wake(self, slot: int) -> None:
        """Mail WAKE has come."""
        self.streams.wake(slot)
        self.recoveries.woken(slot)

    def answered(self) -> None:
        """Mail ANSWERED has come."""
        self.admission.look_for_answers()
        self.pages.look_for_answers()

    def make_room(self, row: int) -> None:
        """Mail MAKE_ROOM has come."""
        pool = self.roster.pools.get(row)
        if pool is not None:
            pool.make_room()

    def reopen_logs(self) -> None:
        """Log files were renamed: open them anew."""
        for observer in self.observers:
            observer.reopen()

    # For the connections.

    def heads_for(self, *, loopback: bool, trusted: bool) -> RequestHeads:
        """The reading of heads for connections to a loopback listener, and from a trusted proxy, or not."""
        heads = self._heads.get((loopback, trusted))
        if heads is None:
            guard = self._guards[loopback]
            believed = self.trusted_proxies if trusted else None
            heads = RequestHeads(self.http, self.route_table, guard, self.kinds, self.pages, believed)
            self._heads[loopback, trusted] = heads
        return heads

    def observe(self, observation: Observation) -> None:
        """Tell the observers. Callers check first that there are any."""
        for observer in self.observers:
            observer.observe(observation)

    def arrived(self, arrival: Arrival) -> None:
        """Somebody connected who has to say first for whom."""
        self._arrivals.add(arrival)
        self._count()

    def departed(self, arrival: Arrival) -> None:
        """It is known now for whom, or it is gone."""
        self._arrivals.discard(arrival)
        self._count()

    def connected(self, client: ClientConnection) -> None:
        """A client connected."""
        self._clients.add(client)
        self._count()
        if self.draining:
            client.drain()
        denial = self.doors.objection(client.descriptor, self.wheel.now)
        if denial is not None:
            self.disconnected(client)  # It is none of those that there is work for.
            if self.doors.may_tell(client):
                client.turn_away(denial)
            else:
                client.abort()

    def disconnected(self, client: ClientConnection) -> None:
        """A client is gone."""
        self._clients.discard(client)
        self.entrance.forget(client)
        self._count()

    def _count(self) -> None:
        self.meters.open(len(self._arrivals) + len(self._clients))

    def detach(self, exchange: Exchange) -> None:
        """An exchange goes on without its client."""
        if len(self._detached) >= MOST_DETACHED:
            next(iter(self._detached)).abandon_detached()
        self._detached[exchange] = None
        exchange.body = b""  # It is not sent again for nobody.

    def settle(self, exchange: Exchange) -> None:
        """An exchange without client has ended, however it did."""
        self._detached.pop(exchange, None)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a task of the rare paths, and keep hold of it."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def look_soon(self) -> None:
        """What is open may have to end: have it look at its session with the next tick."""
        self._touch_at = 0.0

    def _touch(self, now: float) -> None:
        """What is open keeps its session alive; looked at here, so that no request does anything for it.

        A round is spread over its ticks: 10,000 streams at once would hold everybody up for 10 ms.
        """
        now_ns = int(now * NANOSECONDS)
        if now >= self._touch_at:
            is_urgent = not self._touch_at
            self._touch_at = now + self._touch_every
            self._untouched = list(self._clients)
            count = len(self._untouched)
            self._share = count if is_urgent else ceil(count * TICK / self._touch_every)
            for exchange in list(self._detached):
                exchange.touch(now_ns)
        rest = self._untouched
        if rest:
            for client in rest[-self._share :]:
                client.touch(now_ns)
            del rest[-self._share :]

    def _close_idle(self) -> None:
        for pool in self.pools:
            pool.close_idle()

    def _publish(self) -> None:
        self.meters.publish(detached=len(self._detached), buffered=self.pressure.buffered)
        self.places.publish()
        for route in self.routes:
            route.meters.publish(route.retries.requests)
        for pool in self.pools:
            pool.publish()

    def _catch_up(self) -> None:
        if self._timer is not None and self.wheel.catch_up(self.loop.time()):
            self.loop.call_soon(self._catch_up)

    def _tick(self) -> None:
        self._timer = self.loop.call_later(TICK, self._tick)
        now = self.loop.time()
        if self.epoch[0] != self.known:
            self.refresh()
        self.admission.tick()
        self.pages.look_for_answers()
        if self.wheel.tick(now):
            self.loop.call_soon(self._catch_up)
        self.room.tick(now)
        self.stock.tick()
        self.doors.tick()
        for pool in self.pools:
            pool.tick(now)
        self._publish()
        for observer in self.observers:
            observer.tick()
        if now >= self._second:
            self._second = now + 1.0
            for route in self.routes:
                route.retries.tick()
            self.sessions.tick()
        self._touch(now)
        if now >= self._forget_at:
            self._forget_at = now + _FORGET_EVERY
            for heads in self._heads.values():
                heads.rotate()
            self.response_heads.rotate()
            for client in self._clients:
                client.forget_head()
