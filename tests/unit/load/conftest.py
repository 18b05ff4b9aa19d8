"""A small MCP-like server whose every answer a test decides."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from shadowcat.testing.listener import close_listener


@dataclass
class Request:
    method: str
    headers: dict[str, str]
    message: dict[str, Any]
    connection: int


def json_answer(message: dict[str, Any], status: str = "200 OK", extra: str = "") -> bytes:
    body = json.dumps(message).encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{extra}Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def result(request: Request) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request.message.get("id"), "result": {"content": []}}


Answer = Callable[[Request, asyncio.StreamWriter], Awaitable[bytes | None]]


async def well(request: Request, writer: asyncio.StreamWriter) -> bytes | None:
    if request.message.get("method") == "initialize":
        return json_answer(result(request), extra=f"Mcp-Session-Id: s{request.connection}\r\n")
    if "id" not in request.message:
        return b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
    return json_answer(result(request))


@dataclass
class Stub:
    answer: Answer = well
    port: int = 0
    requests: list[Request] = field(default_factory=list)
    connections: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def calls(self) -> list[Request]:
        return [request for request in self.requests if request.message.get("method") == "tools/call"]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                first, *lines = head.strip().split("\r\n")
                headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                request = Request(first.split(" ")[0], headers, json.loads(body) if body else {}, number)
                self.requests.append(request)
                answer = await self.answer(request, writer)
                if answer is None:
                    break
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


@pytest.fixture
def stub() -> Iterator[Stub]:
    """The server, in a thread with a loop of its own; assign `answer` to change how it behaves."""
    server = Stub()
    started = threading.Event()
    ended: list[Callable[[], None]] = []

    async def serve() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        ended.append(lambda: loop.call_soon_threadsafe(stop.set))
        listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        server.port = listener.sockets[0].getsockname()[1]
        started.set()
        await stop.wait()
        await close_listener(listener)
        # Handlers that a test has left hanging.
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(10)
    yield server
    ended[0]()
    thread.join(10)
    assert not thread.is_alive()
