"""The data plane of one worker: what all of its connections share."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

from shadowcat.config.model import Config
from shadowcat.errors import Refusal
from shadowcat.http1.request import HeadLimits, parse_request_head
from shadowcat.mcp.eras import era_of
from shadowcat.proxy.downstream import ClientConnection
from shadowcat.proxy.exchange import Exchange
from shadowcat.proxy.meters import WorkerMeters
from shadowcat.proxy.route import RouteTable
from shadowcat.proxy.template import RequestTemplate
from shadowcat.proxy.wheel import TICK, Wheel
from shadowcat.shm.shared import Shared

MOST_DETACHED: Final = 256
"""Exchanges of one worker that may go on without a client; beyond it the oldest is given up."""
_METHODS: Final = frozenset({b"GET", b"POST", b"DELETE", b"OPTIONS"})


class DataPlane:
    """Connections, exchanges and pools of a worker, and what they need: limits, cells, time."""

    def __init__(self, config: Config, shared: Shared, process: int, loop: asyncio.AbstractEventLoop) -> None:
        """Made by `assembly.assemble` alone, which also adds the routes."""
        self.loop = loop
        self.http = config.http
        self.limits = HeadLimits(config.http.head_limit, config.http.target_limit, config.http.max_fields)
        self.cells = shared.page(process).cells
        self.meters = WorkerMeters(shared.layout)
        self.wheel = Wheel(loop.time())
        self.routes: RouteTable
        self.pools: tuple[Any, ...] = ()
        self.draining = False
        self._clients: set[ClientConnection] = set()
        self._detached: dict[Exchange, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    # For the worker.

    def client_protocol(self) -> ClientConnection:
        """A protocol for a connection that was accepted."""
        return ClientConnection(self)

    @property
    def open_connections(self) -> int:
        """Clients connected, and exchanges going on without one; 0 when drained."""
        return len(self._clients) + len(self._detached)

    def start(self) -> None:
        """Start the clock."""
        self._timer = self.loop.call_later(TICK, self._tick)

    def begin_drain(self) -> None:
        """From now on every answer is the last of its connection."""
        self.draining = True
        for client in list(self._clients):
            client.drain()
        for pool in self.pools:
            pool.close_idle()

    def abort(self) -> None:
        """Cut everything off."""
        for client in list(self._clients):
            client.abort()
        for exchange in list(self._detached):
            exchange.abandon_detached()

    def stop(self) -> None:
        """Stop the clock, and close what is idle."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for task in self._tasks:
            task.cancel()
        for pool in self.pools:
            pool.close_idle()

    # For the connections.

    def read_head(self, raw: bytes) -> tuple[RequestTemplate | Refusal, int]:
        """Read and route a request head; the second value is its Content-Length."""
        parsed = parse_request_head(raw, self.limits)
        if isinstance(parsed, Refusal):
            return parsed, 0
        head, length = parsed
        versions = head.values(b"mcp-protocol-version")
        era = era_of(head.method, versions[0] if versions else None)
        found = self.routes.match(head.target.path)
        if found is None:
            return RequestTemplate(head, era, None, b"", Refusal.NO_ROUTE), length
        route, suffix = found
        if head.method not in _METHODS:
            return RequestTemplate(head, era, route, b"", Refusal.METHOD), length
        return RequestTemplate(head, era, route, suffix + head.target.query, None), length

    def connected(self, client: ClientConnection) -> None:
        """A client connected."""
        self._clients.add(client)
        self.cells[self.meters.accepted] += 1
        self.cells[self.meters.connections] += 1
        if self.draining:
            client.drain()

    def disconnected(self, client: ClientConnection) -> None:
        """A client is gone."""
        self._clients.discard(client)
        self.cells[self.meters.connections] -= 1

    def detach(self, exchange: Exchange) -> None:
        """An exchange goes on without its client."""
        if len(self._detached) >= MOST_DETACHED:
            next(iter(self._detached)).abandon_detached()
        self._detached[exchange] = None
        self.cells[self.meters.detached] += 1

    def settle(self, exchange: Exchange) -> None:
        """An exchange without client has ended, however it did."""
        if exchange in self._detached:
            del self._detached[exchange]
            self.cells[self.meters.detached] -= 1

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a task of the rare paths, and keep hold of it."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _tick(self) -> None:
        self._timer = self.loop.call_later(TICK, self._tick)
        self.wheel.tick(self.loop.time())
