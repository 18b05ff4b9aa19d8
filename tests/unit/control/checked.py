"""Upstreams that live in the same loop as the checks of them, and what the checks write to."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from shadowcat.config.model import Config, Health, Route, Sessions, Upstream
from shadowcat.config.units import Duration
from shadowcat.control.upstreams.health import HealthChecker
from shadowcat.mcp.eras import Era
from shadowcat.policy import health as policy
from shadowcat.shm.shared import CONTROL, Shared
from shadowcat.testing.host import cell_of
from shadowcat.testing.listener import close_listener

SOON = Duration(0.1)
# The time-out is longer than a configuration may have it: a machine that stalls fails no check.
HTTP = Health(type="http", interval=SOON, timeout=Duration(60), healthy_after=2, unhealthy_after=3)
# One is enough for a test, and so seldom that there is no second one.
ONCE = msgspec.structs.replace(HTTP, interval=Duration(600))
LEGACY, MODERN, DUAL = frozenset({Era.LEGACY}), frozenset({Era.MODERN}), frozenset(Era)


class Server:
    """Answers everything with one status, or not at all. Each check is a connection."""

    def __init__(self) -> None:
        self.status: int | None = 200
        self.checks = 0
        self.answers: Counter[int] = Counter()
        self.open = 0
        self.most = 0

    async def __aenter__(self) -> Server:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/mcp"
        return self

    async def __aexit__(self, *_: object) -> None:
        await close_listener(self._server)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.checks += 1
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            await reader.readuntil(b"\r\n\r\n")
            if self.status is None:
                await reader.read()
            else:
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % self.status)
                self.answers[self.status] += 1
                await writer.drain()
        except OSError:
            pass
        finally:
            self.open -= 1
            writer.close()


def slow() -> int:
    """Monotonic ns that pass slowly: a test that has to wait for a processor makes no result stale."""
    return time.monotonic_ns() // 20


async def until(condition: Callable[[], Any], what: str = "condition") -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(0.002)


def configured(*urls: str, health: Health | None = HTTP, **upstream: Any) -> Config:
    upstreams = [
        Upstream(name=name, url=url, **upstream) for name, url in zip("abcdefgh", urls, strict=False)
    ]
    return Config(
        workers=1, routes=[Route(upstreams=upstreams, health=health)], sessions=Sessions(capacity=64)
    )


class Host:
    """A checker and what it writes to."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.shared = Shared.create(config)
        self.board = self.shared.board
        self.checker = self.another()

    def another(self, clock: Callable[[], int] = slow) -> HealthChecker:
        """`chance` 0: first checks come at once, others after nine tenths of the interval."""
        return HealthChecker(self.shared, clock, lambda: 0.0)

    def state(self, row: int = 0, section: Health = HTTP) -> policy.Health:
        return policy.health_of(self.board.health(row), section.interval, slow())

    def count(self, family: str, upstream: str = "a") -> int:
        return self.shared.page(CONTROL).cells[cell_of(self.shared, family, "/mcp", upstream)]


Body = Callable[[Host], Awaitable[None]]


def with_servers(count: int, body: Callable[..., Awaitable[None]]) -> None:
    """Run `body` with so many servers."""

    async def run() -> None:
        servers = [Server() for _ in range(count)]
        for server in servers:
            await server.__aenter__()
        try:
            await body(*servers)
        finally:
            for server in servers:
                await server.__aexit__()

    asyncio.run(run())


async def checking(config: Config, body: Body) -> None:
    host = Host(config)
    try:
        host.checker.configure(host.shared.present())
        await body(host)
        await host.checker.stop()
    finally:
        host.shared.close()
