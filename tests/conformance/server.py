"""The conformance server: one Streamable HTTP endpoint that serves both eras.

`python -m conformance.server` binds a free port of 127.0.0.1 and prints one JSON line with its URL once it
serves.
"""

from __future__ import annotations

import json
import socket
import sys
import warnings
from typing import Any

import uvicorn
from mcp import MCPDeprecationWarning, MCPError
from mcp.server.caching import CacheHint
from mcp.server.lowlevel import Server
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    EmptyResult,
    ListToolsResult,
    PaginatedRequestParams,
    SetLevelRequestParams,
)
from starlette.applications import Starlette

from . import documents
from .content_tools import CONTENT_TOOLS
from .events import RecentEvents
from .input_tools import INPUT_TOOLS
from .stream_tools import stream_tools
from .toolbox import Context, ToolResult

NAME = "shadowcat-conformance"
PATH = "/mcp"
# Short, so that the suite's client comes back soon after the server has cut its stream.
RETRY_MS = 100
_LISTS = CacheHint(ttl_ms=60_000, scope="public")


async def _set_level(_context: Context, _params: SetLevelRequestParams) -> EmptyResult:
    return EmptyResult()


def build_server() -> Server[Any]:
    """Return the server with every fixture registered."""
    bus = InMemorySubscriptionBus()
    tools = {one.tool.name: one for one in (*CONTENT_TOOLS, *stream_tools(bus), *INPUT_TOOLS)}

    async def list_tools(_context: Context, _params: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(tools=[one.tool for one in tools.values()])

    async def call_tool(context: Context, params: CallToolRequestParams) -> ToolResult:
        if params.name not in tools:
            raise MCPError(INVALID_PARAMS, f"Unknown tool: {params.name}")
        return await tools[params.name].call(context, params)

    def input_schema(name: str) -> dict[str, Any] | None:
        return tools[name].tool.input_schema if name in tools else None

    server: Server[Any] = Server(
        NAME,
        version="1.0.0",
        cache_hints={
            "tools/list": _LISTS,
            "prompts/list": _LISTS,
            "resources/list": _LISTS,
            "resources/templates/list": _LISTS,
            "resources/read": CacheHint(ttl_ms=1_000, scope="private"),
        },
        get_tool_input_schema=input_schema,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=documents.list_resources,
        on_list_resource_templates=documents.list_templates,
        on_read_resource=documents.read_resource,
        on_subscribe_resource=documents.subscribe,
        on_unsubscribe_resource=documents.unsubscribe,
        on_subscriptions_listen=ListenHandler(bus),
        on_list_prompts=documents.list_prompts,
        on_get_prompt=documents.get_prompt,
        on_completion=documents.complete,
    )
    # Not through the constructor: the SDK warns there that this legacy method is deprecated.
    server.add_request_handler("logging/setLevel", SetLevelRequestParams, _set_level)
    # Seals requestState, so that the tampered state of the suite is refused before a tool sees it.
    server.middleware.append(RequestStateBoundary(RequestStateSecurity.ephemeral(), default_audience=NAME))
    return server


def build_app() -> Starlette:
    """Return the ASGI application: DNS rebinding protection on, legacy streams resumable."""
    return build_server().streamable_http_app(
        streamable_http_path=PATH, event_store=RecentEvents(), retry_interval=RETRY_MS, host="127.0.0.1"
    )


class _AnnouncingServer(uvicorn.Server):
    """Prints the ready line once requests are accepted."""

    def __init__(self, config: uvicorn.Config, url: str) -> None:
        super().__init__(config)
        self._url = url

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        sys.stdout.write(json.dumps({"event": "ready", "url": self._url}) + "\n")
        sys.stdout.flush()


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    # Legacy revisions need the logging that 2026-07-28 deprecates.
    warnings.filterwarnings("ignore", category=MCPDeprecationWarning)
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}{PATH}"
    # The suite sends blanks around a field value (RFC 9110 5.5): h11 trims both ends, httptools one.
    config = uvicorn.Config(build_app(), http="h11", log_level="warning", timeout_graceful_shutdown=1)
    _AnnouncingServer(config, url).run(sockets=[listener])


if __name__ == "__main__":
    main()
