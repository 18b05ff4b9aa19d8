"""MCP requests as bytes, an HTTP client for many at once, and load with an account of every request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import psutil

Address = tuple[str, int]
JSON_AND_SSE = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
LEGACY_VERSION, MODERN_VERSION = "2025-11-25", "2026-07-28"
# A process's CPU time begins anew with the process.
OF_ONE_PROCESS = "shadowcat_process_cpu_seconds_total"


class Message(NamedTuple):
    """A POST: its fields and its body."""

    headers: dict[str, str]
    body: bytes

    def wire(self, path: str) -> bytes:
        """The whole request."""
        return request(path, self.headers, self.body)


class Answer(NamedTuple):
    """A response whose body came whole."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def request(path: str, headers: Mapping[str, str], body: bytes = b"", method: str = "POST") -> bytes:
    """A request with its body, if its method has one."""
    fields = {"Host": "localhost", **headers}
    if method == "POST":
        fields["Content-Length"] = str(len(body))
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


def modern(method: str, params: Mapping[str, Any], rpc_id: Any = 1) -> Message:
    """A request of the stateless era."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN_VERSION,
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    document = {"jsonrpc": "2.0", "id": rpc_id, "method": method, "params": {**params, "_meta": meta}}
    headers = {**JSON_AND_SSE, "MCP-Protocol-Version": MODERN_VERSION, "Mcp-Method": method}
    if "name" in params:
        headers["Mcp-Name"] = params["name"]
    return Message(headers, json.dumps(document).encode())


def legacy(method: str, params: Mapping[str, Any], session: str | None = None, rpc_id: Any = 1) -> Message:
    """A request, or with `rpc_id` None a notification, of the era of sessions."""
    document = {"jsonrpc": "2.0", "method": method, "params": params}
    if rpc_id is not None:
        document["id"] = rpc_id
    headers = dict(JSON_AND_SSE)
    if session is not None:
        headers |= {"MCP-Protocol-Version": LEGACY_VERSION, "Mcp-Session-Id": session}
    return Message(headers, json.dumps(document).encode())


def opening(capabilities: Mapping[str, Any] | None = None, version: str = LEGACY_VERSION) -> dict[str, Any]:
    """The parameters of `initialize`."""
    return {
        "protocolVersion": version,
        "capabilities": dict(capabilities or {}),
        "clientInfo": {"name": "test", "version": "1"},
    }


def initialize(rpc_id: Any = 1) -> Message:
    """The first request of a session."""
    return legacy("initialize", opening(), rpc_id=rpc_id)


def tool(name: str, arguments: Mapping[str, Any], rpc_id: Any = 1, session: str | None = None) -> Message:
    """A tools/call: with a session in the legacy era, without one in the modern era."""
    params = {"name": name, "arguments": arguments}
    if session is None:
        return modern("tools/call", params, rpc_id)
    return legacy("tools/call", params, session, rpc_id)


class Connection:
    """One keep-alive connection. `async with await Connection.open(address) as connection: ...`"""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.port: int = writer.get_extra_info("sockname")[1]
        """The client's own port: how others name this connection."""

    @classmethod
    async def open(cls, address: Address) -> Connection:
        return cls(*await asyncio.open_connection(*address))

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def exchange(self, data: bytes) -> Answer:
        """Send a whole request and read its answer.

        Raises:
            OSError, asyncio.IncompleteReadError: The connection ended before the answer did.
        """
        await self.send(data)
        return await self.answer()

    async def answer(self) -> Answer:
        """Read one whole answer with Content-Length or chunks."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while piece := await self._chunk():
                body += piece
        else:
            body = await self._reader.readexactly(int(headers["content-length"]))
        return Answer(int(first.split(" ")[1]), headers, body)

    async def _chunk(self) -> bytes:
        size = int(await self._reader.readuntil(b"\r\n"), 16)
        return (await self._reader.readexactly(size + 2))[:-2]


class Clients(ABC):
    """Clients on a thread of their own, until stopped. A context manager."""

    def __init__(self) -> None:
        self._end = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end = True
        self._thread.join()

    @abstractmethod
    async def _run(self) -> None:
        """Be all of them until `_end` is set."""


class Failure(NamedTuple):
    """A request that got no answer, or a wrong one, and the client's port of its connection."""

    outcome: str
    port: int


class Traffic(Clients):
    """Clients over kept connections and over fresh ones, until stopped or refused.

    The upstream must echo bodies. Every request has the same JSON-RPC id and a text of its own.
    """

    def __init__(self, address: Address, path: str = "/mcp", *, kept: int = 12, fresh: int = 4) -> None:
        super().__init__()
        self._address = address
        self._path = path
        self._clients = [True] * kept + [False] * fresh
        self._sent = 0
        self.outcomes: Counter[str] = Counter()
        """"answered", "refused" (the connection), "lost" and "wrong" by number."""
        self.failures: list[Failure] = []

    @property
    def answered(self) -> int:
        return self.outcomes["answered"]

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for kept in self._clients:
                group.create_task(self._client(kept))

    async def _client(self, kept: bool) -> None:
        while not self._end:
            try:
                connection = await Connection.open(self._address)
            except OSError as error:
                self.outcomes["refused" if isinstance(error, ConnectionRefusedError) else "lost"] += 1
                return
            async with connection:
                while await self._one(connection) and kept and not self._end:
                    pass

    async def _one(self, connection: Connection) -> bool:
        """One request; whether the connection can take another one."""
        self._sent += 1
        message = tool("echo", {"text": f"text {self._sent}"})
        try:
            async with asyncio.timeout(20):
                answer = await connection.exchange(message.wire(self._path))
        except (OSError, asyncio.IncompleteReadError):
            return self._fail("lost", connection)
        if (answer.status, answer.body) != (200, message.body):
            return self._fail(f"wrong: {answer}", connection)
        self.outcomes["answered"] += 1
        return answer.headers.get("connection") != "close"

    def _fail(self, outcome: str, connection: Connection) -> bool:
        self.outcomes[outcome.partition(":")[0]] += 1
        self.failures.append(Failure(outcome, connection.port))
        return False


def samples(exposition: bytes) -> dict[str, float]:
    """The samples of a metrics page, by name and labels as written."""
    lines = (line for line in exposition.decode().splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def totals(exposition: bytes) -> dict[str, float]:
    """Those samples of a metrics page that never fall, whichever process dies."""
    counters = ("_total", "_count", "_sum", "_bucket")
    return {
        name: value
        for name, value in samples(exposition).items()
        if name.partition("{")[0].endswith(counters) and not name.startswith(OF_ONE_PROCESS)
    }


def client_ports(worker: psutil.Process, port: int) -> set[int]:
    """The clients' ports of the connections to `port` that a worker holds."""
    return {
        connection.raddr.port
        for connection in worker.net_connections("tcp")
        if connection.raddr and connection.laddr.port == port
    }


def ended(process: psutil.Process) -> bool:
    """Whether a process runs no more. An orphan stays visible until init has fetched its exit status."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
