"""One data plane on a uvloop of its own thread, seen from outside through its port."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeVar, cast

import uvloop
from msgspec.structs import replace

from shadowcat.config.model import Config, Http, Pool, Route, Timeouts, Upstream
from shadowcat.config.urls import upstream_name
from shadowcat.proxy.assembly import assemble
from shadowcat.shm.shared import Shared, worker_number
from shadowcat.testing.host import cell_of
from shadowcat.testing.raw_client import RawClient

_T = TypeVar("_T")
_PATIENCE: Final = 8.0
_STEP: Final = 0.5
"""Seconds: after a longer one the wheel would wait for another round, as after a stall."""
LookUp = Callable[..., Coroutine[Any, Any, list[tuple[Any, ...]]]]
_POOL_GAUGES: Final = ("pool_idle", "pool_active", "pool_queue")


def build_config(
    *urls: str,
    http: dict[str, Any] | None = None,
    pool: dict[str, Any] | None = None,
    timeouts: dict[str, Any] | None = None,
    upstreams: Sequence[Upstream] = (),
    routes: Sequence[Route] = (),
) -> Config:
    """A configuration of one worker with one route, /mcp, unless `routes` are given."""
    group = [*(Upstream(url=url) for url in urls), *upstreams]
    route = Route(upstreams=group, pool=Pool(**pool or {}), timeouts=Timeouts(**timeouts or {}))
    return Config(workers=1, admin=None, routes=list(routes) or [route], http=Http(**http or {}))


class _LoopWithNames:
    """The loop with another resolver: uvloop's own cannot be replaced."""

    def __init__(self, loop: asyncio.AbstractEventLoop, look_up: LookUp) -> None:
        self._loop = loop
        self.getaddrinfo = look_up

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


class _LoopWithClock:
    """The loop with a clock that can be put forward."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.ahead = 0.0

    def time(self) -> float:
        return self._loop.time() + self.ahead

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


class PlaneRunner:
    """Serves a configuration on 127.0.0.1:`port` until `stop`."""

    def __init__(self, config: Config) -> None:
        self.config = config
        config = replace(config, max_upstreams=32, max_routes=8)
        self._shared = Shared.create(config)
        self._page = self._shared.page(worker_number(0))
        self._loop = uvloop.new_event_loop()
        self._loop.set_exception_handler(self._note_error)
        self._clock = _LoopWithClock(self._loop)
        self.errors: list[str] = []
        try:
            loop = cast("asyncio.AbstractEventLoop", self._clock)
            self.plane = assemble(config, self._shared, worker_number(0), loop)
        except BaseException:
            self._loop.close()
            self._shared.close()
            raise
        self._thread = threading.Thread(target=self._loop.run_forever, name="data-plane", daemon=True)
        self._thread.start()
        self._server = self._run(self._listen())
        self.port: int = self._server.sockets[0].getsockname()[1]

    def client(self, **options: Any) -> RawClient:
        """A connection to the proxy."""
        return RawClient(self.port, **options)

    def call(self, function: Callable[[], _T]) -> _T:
        """Run a function in the loop."""

        async def work() -> _T:
            return function()

        return self._run(work())

    def advance(self, seconds: float) -> None:
        """Let so much time pass at once, for all deadlines but those of dials.

        Limits can so be longer than any stall of the machine: only this makes them pass.
        """
        self.call(partial(self._put_forward, seconds))

    def resolve_with(self, look_up: LookUp) -> None:
        """Use this in place of the system's resolver."""
        for route in self.plane.routes:
            for pool in route.pools:
                pool._dialer._loop = _LoopWithNames(self._loop, look_up)  # type: ignore[assignment]

    def metric(self, family: str, *labels: str) -> int:
        """The value of one counter or gauge; gauges are published every 0.1 s."""
        return int(self._page.cells[cell_of(self._shared, family, *labels)])

    def pool_metric(self, family: str) -> int:
        """A metric of pools, all upstreams together."""
        return sum(
            self.metric(family, route.path, upstream_name(upstream))
            for route in self.config.routes
            for upstream in route.upstreams
        )

    def statuses(self, status: int, route: str = "/mcp") -> int:
        """How many answers had this status."""
        return int(self._page.cells[cell_of(self._shared, "requests_total", route) + status])

    def pooled(self) -> int:
        """Connections to upstreams, in use or idle, at this moment."""
        return self.call(self._count_pooled)

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until a condition holds that a metric or a double will show."""
        deadline = time.monotonic() + _PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain for {what}"
            time.sleep(0.002)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the loop still: what is sent meanwhile is all there when it goes on."""
        entered, release = threading.Event(), threading.Event()

        def hold() -> None:
            entered.set()
            release.wait(_PATIENCE)

        self._loop.call_soon_threadsafe(hold)
        assert entered.wait(_PATIENCE)
        try:
            yield
        finally:
            release.set()

    def take_errors(self) -> list[str]:
        """What the loop has complained of since the last call."""
        errors, self.errors = self.errors, []
        return errors

    def stop(self) -> None:
        """Cut everything off, and check that nothing is left behind, in fact and in the gauges."""
        self._run(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE)
        self._loop.close()
        left = {name: self.pool_metric(name) for name in _POOL_GAUGES}
        left |= {name: self.metric(name) for name in ("connections", "detached_exchanges")}
        left |= {route.path: self.metric("requests_in_flight", route.path) for route in self.config.routes}
        self._shared.close()
        assert not any(left.values()), left
        assert self.errors == []

    def _put_forward(self, seconds: float) -> None:
        end = self._clock.ahead + seconds
        while self._clock.ahead < end:
            self._clock.ahead = min(self._clock.ahead + _STEP, end)
            is_more = self.plane.wheel.tick(self._clock.time())
            while is_more:
                is_more = self.plane.wheel.catch_up(self._clock.time())

    async def _listen(self) -> asyncio.AbstractServer:
        self.plane.start()
        return await self._loop.create_server(self.plane.client_protocol, "127.0.0.1", 0, backlog=1024)

    async def _shut(self) -> None:
        self._server.close()
        deadline = self._loop.time() + _PATIENCE
        while self.plane.open_connections or self._count_pooled():
            self.plane.abort()
            for route in self.plane.routes:
                for pool in route.pools:
                    pool.close_idle()
            assert self._loop.time() < deadline, "connections are left after abort()"
            await asyncio.sleep(0.002)
        self.plane.stop()
        # Cancelled dials and closing transports end in the next turns of the loop.
        while len(asyncio.all_tasks(self._loop)) > 1:
            assert self._loop.time() < deadline, "tasks are left after stop()"
            await asyncio.sleep(0.002)
        await asyncio.sleep(0.002)
        await self._loop.shutdown_default_executor()

    def _count_pooled(self) -> int:
        return sum(len(pool._connections) for route in self.plane.routes for pool in route.pools)

    def _note_error(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.errors.append(f"{context.get('message')}: {context.get('exception')!r}")

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(2 * _PATIENCE)
