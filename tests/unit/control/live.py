"""The admin application in this process, over a real socket, with a double of what puts changes to work."""

from __future__ import annotations

import asyncio
import http.client
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import orjson
from aiohttp import web

from shadowcat.config.changes import differences
from shadowcat.config.model import Config
from shadowcat.control.admin.changes import BY_API, Applied
from shadowcat.control.admin.server import Admin
from shadowcat.errors import ConfigError

DEADLINE = 10.0
TOKEN = "correct-horse-battery-staple"
"""Of the admin listener."""


class Changes:
    """Keeps what it is given."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.file = config
        self.version = 1
        self.drains: list[dict[tuple[str, str], float]] = []
        """Of each change."""
        self.refusal: str | None = None
        """Why the next one cannot be put to work."""
        self.restart_needed: list[str] = []
        self.pause = 0.0
        """Seconds that putting one to work takes."""

    def current(self) -> Config:
        return self.config

    async def apply(
        self, config: Config, *, drain: Mapping[tuple[str, str], float] = {}, by: str = BY_API
    ) -> Applied:
        await asyncio.sleep(self.pause)
        if self.refusal is not None:
            raise ConfigError(self.refusal)
        changed = differences(self.config, config)
        self.config = config
        self.version += 1
        self.drains.append(dict(drain))
        return Applied(self.version, changed=changed, restart_needed=self.restart_needed)

    async def reload(self, *, by: str = BY_API) -> Applied:
        return await self.apply(self.file)


class Answer:
    """What came back."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status = answer.status
        self.headers = answer.headers
        self.body = answer.read()

    @property
    def document(self) -> dict[str, Any]:
        assert self.headers["Content-Type"] == "application/json"
        assert self.headers["Cache-Control"] == "no-store"
        document = orjson.loads(self.body)
        if self.status >= 400:
            assert document.keys() == {"status", "title", "detail"}
            assert document["status"] == self.status
        return document

    @property
    def detail(self) -> str:
        return self.document["detail"]


class Host:
    """A running admin listener."""

    def __init__(self, port: int, changes: Changes) -> None:
        self.address = f"127.0.0.1:{port}"
        self.changes = changes

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        """One request; a body that is no bytes goes as JSON."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None and not isinstance(body, bytes):
            body = orjson.dumps(body)
        fields.setdefault("Authorization", f"Bearer {TOKEN}")
        if body is not None:
            fields.setdefault("Content-Type", "application/json")
        connection = http.client.HTTPConnection(self.address, timeout=DEADLINE)
        try:
            connection.request(method, path, body, fields)
            return Answer(connection.getresponse())
        finally:
            connection.close()


@contextmanager
def serving(admin: Admin, changes: Changes) -> Iterator[Host]:
    """Serve on a free port, on a thread with a loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    runner = web.AppRunner(admin.application(), access_log=None, handle_signals=False, shutdown_timeout=1)

    async def start() -> int:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return runner.addresses[0][1]

    try:
        port = asyncio.run_coroutine_threadsafe(start(), loop).result(DEADLINE)
        yield Host(port, changes)
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(DEADLINE)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
