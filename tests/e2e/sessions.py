"""Sessions of the legacy era in raw HTTP: each request over a connection of its own, and load in sessions."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, Self

from shadowcat.testing.raw_client import RawClient, Response
from tests.e2e.harness import Shadowcat
from tests.e2e.traffic import (
    JSON_AND_SSE,
    LEGACY_VERSION,
    Address,
    Answer,
    Clients,
    Connection,
    legacy,
    opening,
    request,
    tool,
)

# The routes of `upstreams.routes_to`: answers come as one JSON object, or as a stream.
PATH, SSE_PATH = "/mcp", "/sse"
# Two requests of a session at a time need ids of their own.
_IDS = itertools.count(1)


def exchange(address: Address, data: bytes, method: str = "POST") -> Response:
    """One request over a fresh connection."""
    with RawClient(address[1], timeout=30) as client:
        client.send(data)
        return client.read_response(method)


def initialize(
    address: Address,
    path: str = PATH,
    capabilities: Mapping[str, Any] | None = None,
    version: str = LEGACY_VERSION,
) -> Response:
    """Ask for a session; the answer as it came."""
    return exchange(address, legacy("initialize", opening(capabilities, version)).wire(path))


class Session:
    """An open session. Whatever it asks for goes over a fresh connection, to whichever worker takes it."""

    def __init__(self, address: Address, path: str, session_id: str) -> None:
        self.address = address
        self.path = path
        self.id = session_id

    @classmethod
    def open(
        cls,
        address: Address,
        path: str = PATH,
        capabilities: Mapping[str, Any] | None = None,
        version: str = LEGACY_VERSION,
    ) -> Self:
        """Initialize one, the way clients do."""
        answer = initialize(address, path, capabilities, version)
        assert answer.status == 200, (answer.status, answer.body)
        session_id = answer.header("mcp-session-id")
        assert session_id, answer.head
        session = cls(address, path, session_id)
        accepted = session.notify("notifications/initialized")
        assert accepted.status == 202, (accepted.status, accepted.body)
        return session

    def send(self, method: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Response:
        """A request of this HTTP method with the fields of the session, and further ones or other ones."""
        return exchange(self.address, request(self.path, self.headers | dict(headers or {}), body, method))

    def ask(self, method: str, params: Mapping[str, Any] | None = None, rpc_id: Any = None) -> Response:
        """A JSON-RPC request."""
        data = legacy(method, params or {}, self.id, rpc_id or next(_IDS)).wire(self.path)
        return exchange(self.address, data)

    def notify(self, method: str) -> Response:
        return exchange(self.address, legacy(method, {}, self.id, None).wire(self.path))

    def call(self, name: str, **arguments: Any) -> Response:
        """A tool call."""
        return exchange(self.address, self.calling(name, **arguments))

    def calling(self, name: str, **arguments: Any) -> bytes:
        """The bytes of a tool call, which asks for progress."""
        number = next(_IDS)
        params = {"name": name, "arguments": arguments, "_meta": {"progressToken": number}}
        return legacy("tools/call", params, self.id, number).wire(self.path)

    def whoami(self) -> dict[str, str]:
        """Who serves this session: the server's name, its pid, and the session id that it was given."""
        return whoami_in(self.call("whoami"))

    def delete(self) -> Response:
        return self.send("DELETE")

    def stream(self, last_event_id: str | None = None) -> Stream:
        """Open a GET stream."""
        resume = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
        return Stream(self.address, request(self.path, self.headers | resume, method="GET"))

    @property
    def headers(self) -> dict[str, str]:
        return {**JSON_AND_SSE, "MCP-Protocol-Version": LEGACY_VERSION, "Mcp-Session-Id": self.id}


def whoami_in(answer: Response | Answer) -> dict[str, str]:
    """What the tool `whoami` said, in one JSON object or in a stream."""
    assert answer.status == 200, (answer.status, answer.body)
    (line,) = [line for line in answer.body.splitlines() if b'"result"' in line]
    who: dict[str, str] = json.loads(line.removeprefix(b"data: "))["result"]["structuredContent"]
    return who


class Event(NamedTuple):
    """An event of a stream."""

    id: str | None
    message: dict[str, Any]


class Stream:
    """An event stream, or a refusal in its place, read as it comes. Use as a context manager."""

    def __init__(self, address: Address, data: bytes, method: str = "GET") -> None:
        self._client = RawClient(address[1], timeout=30)
        self._buffer = b""
        self.port: int = self._client.sock.getsockname()[1]
        try:
            self._client.send(data)
            self.head = self._client.read_head(method)
        except BaseException:
            self._client.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def event(self, timeout: float = 10.0) -> Event:
        """The next event with a message; comments and events that only carry an id are skipped."""
        event = self._next(timeout)
        assert event, f"the stream ended; left over: {self._buffer!r}"
        return event

    def events(self) -> Iterator[Event]:
        """All events with a message, up to the end of the stream or to the answer that it ends with."""
        while event := self._next(10.0):
            yield event
            if "result" in event.message:
                return

    def _next(self, timeout: float) -> Event | None:
        while True:
            while b"\r\n\r\n" not in self._buffer:
                data = self._client.read_chunk(timeout)
                if not data:
                    return None
                self._buffer += data
            block, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            fields = dict(line.split(": ", 1) for line in block.decode().split("\r\n") if line[:1] != ":")
            if fields.get("data"):
                return Event(fields.get("id"), json.loads(fields["data"]))

    def wait_end(self, timeout: float = 10.0) -> None:
        """Wait for the orderly end of the stream; events before it are skipped."""
        deadline = time.monotonic() + timeout
        while self._client.read_chunk(deadline - time.monotonic()):
            pass

    def expect_silence(self, seconds: float) -> None:
        """Fail if anything comes within this time, or the stream ends."""
        self._client.expect_silence(seconds)


class Miss(NamedTuple):
    """A request that did not get the right answer."""

    session: str | None
    method: str
    outcome: str
    began: float
    """On the monotonic clock, when its connection was about to be opened."""
    port: int
    """The client's port; 0 without a connection."""


class SessionTraffic(Clients):
    """Clients in sessions, on a thread of their own, until stopped. Every request takes a fresh connection.

    Some clients share `kept` long sessions, asking in turn for a list (which may be sent to an upstream
    twice) and for a tool (which may not). The others open a session, use it and delete it, again and again.

    Args:
        cat: Whom to ask.
        kept: How many sessions are held throughout.
        clients: How many clients use each of them at a time.
        churning: How many clients open and delete sessions.
        pace: Seconds between two requests of a client: the load that is wanted, not a wait for anything.
    """

    def __init__(
        self,
        cat: Shadowcat,
        path: str = PATH,
        *,
        kept: int = 8,
        clients: int = 1,
        churning: int = 0,
        pace: float = 0.0,
    ) -> None:
        super().__init__()
        self._address = cat.address
        self._path = path
        self._churning = churning
        self._clients = clients
        self._pace = pace
        self.sessions = [Session.open(cat.address, path) for _ in range(kept)]
        self.homes = {session.id: [session.whoami()] for session in self.sessions}
        """What `whoami` said in each session: when it was new, and then whatever else it said."""
        self.answered = Counter[str]()
        """Right answers by JSON-RPC or HTTP method."""
        self.misses: list[Miss] = []

    @property
    def total(self) -> int:
        """How many right answers there were so far."""
        return sum(self.answered.values())

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for session in self.sessions:
                for _ in range(self._clients):
                    group.create_task(self._keep(session.id))
            for _ in range(self._churning):
                group.create_task(self._churn())

    async def _keep(self, session: str) -> None:
        while not self._end:
            await self._ask("tools/list", session)
            who = await self._ask("tools/call", session)
            if who and who not in self.homes[session]:
                self.homes[session].append(who)

    async def _churn(self) -> None:
        while not self._end:
            hello = legacy("initialize", opening()).wire(self._path)
            answer = await self._right(None, "initialize", hello, 200)
            if answer is None:
                continue
            session = answer.headers["mcp-session-id"]
            initialized = legacy("notifications/initialized", {}, session, None)
            await self._right(session, "notifications/initialized", initialized.wire(self._path), 202)
            await self._ask("tools/call", session)
            fields = {**JSON_AND_SSE, "Mcp-Session-Id": session}
            await self._right(session, "DELETE", request(self._path, fields, method="DELETE"), 200)

    async def _ask(self, method: str, session: str) -> dict[str, str] | None:
        if method == "tools/call":
            data = tool("whoami", {}, next(_IDS), session).wire(self._path)
            answer = await self._right(session, method, data, 200, lambda answer: bool(whoami_in(answer)))
            return whoami_in(answer) if answer is not None else None
        data = legacy(method, {}, session, next(_IDS)).wire(self._path)
        await self._right(session, method, data, 200, lambda answer: "result" in answer.json)
        return None

    async def _right(
        self,
        session: str | None,
        method: str,
        data: bytes,
        status: int,
        check: Callable[[Answer], bool] = lambda _: True,
    ) -> Answer | None:
        """Make a request and take account of it; None if the answer is not what it should be."""
        await asyncio.sleep(self._pace)
        began = time.monotonic()
        outcome, port = "", 0
        try:
            async with asyncio.timeout(20), await Connection.open(self._address) as connection:
                port = connection.port
                answer = await connection.exchange(data)
            if answer.status == status:
                with suppress(AssertionError, KeyError, ValueError):
                    if check(answer):
                        self.answered[method] += 1
                        return answer
            outcome = f"{answer.status} {answer.body[:200]!r}"
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            outcome = f"lost: {error!r}"
        self.misses.append(Miss(session, method, outcome, began, port))
        return None
