"""What a tool fixture is, and the helpers that all fixtures share."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mcp import MCPError
from mcp.server.context import ServerRequestContext
from mcp.shared.message import ServerMessageMetadata
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ContentBlock,
    ElicitRequestedSchema,
    ElicitResult,
    InputRequiredResult,
    TextContent,
    Tool,
)

Context = ServerRequestContext[Any, Any]
ToolResult = CallToolResult | InputRequiredResult
ToolHandler = Callable[[Context, CallToolRequestParams], Awaitable[ToolResult]]

NO_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ToolFixture:
    """One tool as the suite wants it: how it is listed, and what a call of it does."""

    tool: Tool
    call: ToolHandler


def fixture(
    name: str, description: str, call: ToolHandler, schema: Mapping[str, Any] = NO_ARGUMENTS
) -> ToolFixture:
    """Make a fixture from its listing and its handler."""
    return ToolFixture(Tool(name=name, description=description, input_schema=dict(schema)), call)


def constant(*content: ContentBlock) -> ToolHandler:
    """Return a handler that answers every call with the same content."""

    async def call(_context: Context, _params: CallToolRequestParams) -> CallToolResult:
        return CallToolResult(content=list(content))

    return call


def text(content: str, *, is_error: bool = False) -> CallToolResult:
    """Return a tool result of one text block."""
    return CallToolResult(content=[TextContent(text=content)], is_error=is_error)


def string_argument(params: CallToolRequestParams, name: str) -> str:
    """Return a required string argument.

    Raises:
        MCPError: -32602, the argument is missing or no string.
    """
    value = (params.arguments or {}).get(name)
    if not isinstance(value, str):
        raise MCPError(INVALID_PARAMS, f"{params.name}: argument {name!r} must be a string")
    return value


async def ask_user(context: Context, message: str, schema: ElicitRequestedSchema) -> ElicitResult:
    """Ask the client's user on the stream of this very request (legacy revisions only)."""
    return await context.session.elicit_form(message, schema, related_request_id=context.request_id)


def on_this_stream(context: Context) -> ServerMessageMetadata:
    """Return the metadata that puts a server-to-client message on the stream of this request."""
    return ServerMessageMetadata(related_request_id=context.request_id)
