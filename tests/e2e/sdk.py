"""The official SDK as client and as upstream server."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import uvicorn
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import MCPServer
from mcp_types import CreateMessageResult, ElicitResult, ListRootsResult, Root, TextContent

from tests.e2e.harness import eventually

LEGACY, MODERN = "legacy", "2026-07-28"
ERAS = (LEGACY, MODERN)
KINDS = ("json", "sse")


def run(url: str, mode: str, use: Callable[[Client], Awaitable[None]], **options: Any) -> None:
    """Connect one SDK client, use it, and close it."""
    asyncio.run(session(url, mode, use, **options))


async def session(
    url: str,
    mode: str,
    use: Callable[[Client], Awaitable[None]],
    *,
    timeout: float = 20,  # noqa: ASYNC109 - how long a test may take
    http_client: httpx2.AsyncClient | None = None,
    **options: Any,
) -> None:
    """The same inside a loop that runs already."""
    transport = streamable_http_client(url, max_sse_event_size=None, http_client=http_client)
    # Without a cache every list is a request.
    async with asyncio.timeout(timeout), Client(transport, mode=mode, cache=None, **options) as client:
        await use(client)


def without_keep_alive() -> httpx2.AsyncClient:
    """An HTTP client for `session` that opens a connection for every request."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx2.AsyncClient(limits=limits, timeout=60)


def text_of(result: Any) -> str:
    """The text of a tool result with one content."""
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


async def _elicit(context: Any, params: Any) -> ElicitResult:
    return ElicitResult(action="accept", content={"answer": f"re: {params.message}"})


async def _sample(context: Any, params: Any) -> CreateMessageResult:
    content = TextContent(type="text", text=f"model on {params.messages[0].content.text}")
    return CreateMessageResult(role="assistant", content=content, model="m")


async def _roots(context: Any) -> ListRootsResult:
    return ListRootsResult(roots=[Root(uri="file:///a"), Root(uri="file:///b")])


CALLBACKS = {
    "elicitation_callback": _elicit,
    "sampling_callback": _sample,
    "list_roots_callback": _roots,
}


class PlainServer:
    """An SDK server as its documentation shows it, on a thread: nothing of ours between uvicorn and it."""

    def __init__(self) -> None:
        server: MCPServer[Any] = MCPServer("plain", log_level="ERROR")

        @server.tool()
        def shout(text: str) -> str:
            """Return the text in capitals."""
            return text.upper()

        self._socket = socket.create_server(("127.0.0.1", 0))
        self._server = uvicorn.Server(uvicorn.Config(server.streamable_http_app(), log_level="error"))
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/mcp"

    def __enter__(self) -> PlainServer:
        self._thread.start()
        eventually(lambda: self._server.started, what="start of the SDK server")
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        # Streams of clients that are still there would be waited for.
        self._server.force_exit = True
        self._thread.join()
        self._socket.close()
