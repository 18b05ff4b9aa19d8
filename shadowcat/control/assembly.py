"""What the control process does, put together: the admin listener, and all that goes on beside it."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Final

from aiohttp import web

from shadowcat.config.model import Config
from shadowcat.config.seats import Snapshot
from shadowcat.control import essential
from shadowcat.control.admin.limits import LimitsApi
from shadowcat.control.admin.server import Admin
from shadowcat.control.closer import Closer
from shadowcat.control.oauth.office import Office
from shadowcat.control.policies import PolicyNotices
from shadowcat.control.present import Present
from shadowcat.control.publisher import Publisher
from shadowcat.control.recounter import Recounter
from shadowcat.control.reloads import Reloads
from shadowcat.control.retirement import Retirement
from shadowcat.control.sweeper import Sweeper
from shadowcat.control.upstreams.health import HealthChecker
from shadowcat.control.upstreams.outliers import Outliers
from shadowcat.shm.shared import CONTROL, Shared

_FAREWELL: Final = 1.0
"""Seconds an answer in progress may take once the process is told to end."""


class Control:
    """The parts of the control process. The only place that knows them all."""

    def __init__(
        self,
        shared: Shared,
        source: Callable[[], Config] | None,
        token: str | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Put it together, in the process itself; `begin` begins. The arguments are those of `main.run`.

        Raises:
            OSError: No descriptor is to be had.
            SnapshotError: What is in memory is spoilt.
        """
        self._loop = loop
        trail = shared.trail_for(CONTROL)
        self._present = present = Present(shared)
        self._table = table = shared.sessions_for(CONTROL)
        locks = table.locks
        closer = Closer(shared, table, trail)
        self._sweeper = Sweeper(table, closer, Recounter(shared.sessions_for(CONTROL), loop).start)
        self._health = HealthChecker(shared)
        self._outliers = Outliers(shared, shared.ejections_with(locks, CONTROL))
        self._office = Office(shared, present, trail)
        self._notices = PolicyNotices()
        breakers = shared.breakers_with(locks, CONTROL)
        publisher = Publisher(shared, present, breakers, source, [self._configure], trail)
        self._reloads = Reloads(shared, publisher)
        self._retirement = Retirement(shared, present, table, closer, publisher)
        limits = LimitsApi(present, shared.limiter_with(locks), shared.concurrency_with(locks, CONTROL))
        consents = self._office.consents
        admin = Admin(present, shared, table, closer, self._health, publisher, limits, consents, token=token)
        self._runner = web.AppRunner(
            admin.application(), access_log=None, handle_signals=False, shutdown_timeout=_FAREWELL
        )
        self._servers: list[asyncio.AbstractServer] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def begin(self, sockets: Sequence[socket.socket]) -> None:
        """Serve the admin listener, and do all that is due.

        Raises:
            OSError: A socket cannot be served.
        """
        await self._runner.setup()
        protocol = self._runner.server
        assert protocol is not None  # setup() made it
        self._servers = [await self._listen(protocol, listener) for listener in sockets]
        self._sweeper.start(self._loop)
        self._configure(self._present.snapshot)
        self._loop.add_signal_handler(signal.SIGHUP, self._reloads.wake)
        work = self._retirement.run(), self._reloads.run(), self._outliers.run(), self._office.run()
        self._tasks = [essential.begin(self._loop, each) for each in work]

    async def end(self) -> None:
        """Take no more on, and finish what is being answered."""
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(self._runner.cleanup(), self._health.stop(), self._office.stop())
        await self._office.close()
        self._sweeper.stop()

    def _configure(self, snapshot: Snapshot) -> None:
        """Go by this snapshot from now on."""
        self._health.configure(snapshot)
        self._outliers.configure(snapshot)
        self._table.configure(snapshot.config.sessions)
        self._notices.configure(snapshot)
        self._office.configure(snapshot)

    async def _listen(self, protocol: web.Server, listener: socket.socket) -> asyncio.AbstractServer:
        if listener.family == socket.AF_UNIX:
            return await self._loop.create_unix_server(protocol, sock=listener)
        return await self._loop.create_server(protocol, sock=listener)
