"""Tools that speak while they work: logs, progress, requests to the client, a stream cut on purpose."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from mcp import MCPError
from mcp.server.subscriptions import PromptsListChanged, ServerEvent, SubscriptionBus, ToolsListChanged
from mcp_types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CallToolRequestParams,
    CallToolResult,
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequestedSchema,
    ElicitResult,
    SamplingMessage,
    TextContent,
)

from .toolbox import (
    Context,
    ToolFixture,
    ToolHandler,
    ask_user,
    fixture,
    on_this_stream,
    string_argument,
    text,
)

# The suite's own figure: long enough that each message leaves in a write of its own.
STEP_SECONDS = 0.05

DEFAULTS_SCHEMA: ElicitRequestedSchema = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    },
}

_OPTIONS = ["option1", "option2", "option3"]
ENUMS_SCHEMA: ElicitRequestedSchema = {
    "type": "object",
    "properties": {
        "untitledSingle": {"type": "string", "enum": _OPTIONS},
        "titledSingle": {
            "type": "string",
            "oneOf": [
                {"const": "value1", "title": "First Option"},
                {"const": "value2", "title": "Second Option"},
                {"const": "value3", "title": "Third Option"},
            ],
        },
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": _OPTIONS}},
        "titledMulti": {
            "type": "array",
            "items": {
                "anyOf": [
                    {"const": "value1", "title": "First Choice"},
                    {"const": "value2", "title": "Second Choice"},
                    {"const": "value3", "title": "Third Choice"},
                ]
            },
        },
    },
}

CONTACT_SCHEMA: ElicitRequestedSchema = {
    "type": "object",
    "properties": {
        "username": {"type": "string", "description": "User's response"},
        "email": {"type": "string", "description": "User's email address"},
    },
    "required": ["username", "email"],
}


def _one_string(name: str, description: str) -> Mapping[str, Any]:
    return {
        "type": "object",
        "properties": {name: {"type": "string", "description": description}},
        "required": [name],
    }


async def _log_three_times(context: Context, _params: CallToolRequestParams) -> CallToolResult:
    for step, message in enumerate(
        ("Tool execution started", "Tool processing data", "Tool execution completed")
    ):
        if step:
            await asyncio.sleep(STEP_SECONDS)
        # Modern revisions: the SDK sends it only if this request's _meta asked for a log level.
        await context.session.send_log_message("info", message, related_request_id=context.request_id)
    return text("Three log messages were offered.")


async def _report_progress(context: Context, _params: CallToolRequestParams) -> CallToolResult:
    for progress in (0, 50, 100):
        if progress:
            await asyncio.sleep(STEP_SECONDS)
        await context.session.report_progress(progress, 100)
    return text("Progress was reported.")


async def _sample(context: Context, params: CallToolRequestParams) -> CallToolResult:
    prompt = string_argument(params, "prompt")
    capabilities = context.session.client_capabilities
    if capabilities is None or capabilities.sampling is None:
        return text("The client does not support sampling", is_error=True)
    answer = await context.session.send_request(
        CreateMessageRequest(
            params=CreateMessageRequestParams(
                messages=[SamplingMessage(role="user", content=TextContent(text=prompt))], max_tokens=100
            )
        ),
        CreateMessageResult,
        metadata=on_this_stream(context),
    )
    said = answer.content.text if isinstance(answer.content, TextContent) else answer.content.type
    return text(f"LLM response: {said}")


def _outcome(result: ElicitResult) -> str:
    return f"action={result.action}, content={json.dumps(result.content)}"


async def _elicit(
    context: Context, message: str, schema: ElicitRequestedSchema, opening: str
) -> CallToolResult:
    capabilities = context.session.client_capabilities
    if capabilities is None or capabilities.elicitation is None:
        return text("The client does not support elicitation", is_error=True)
    return text(opening + _outcome(await ask_user(context, message, schema)))


async def _elicit_contact(context: Context, params: CallToolRequestParams) -> CallToolResult:
    return await _elicit(context, string_argument(params, "message"), CONTACT_SCHEMA, "User response: ")


async def _elicit_defaults(context: Context, _params: CallToolRequestParams) -> CallToolResult:
    return await _elicit(context, "Please review the values", DEFAULTS_SCHEMA, "Elicitation completed: ")


async def _elicit_enums(context: Context, _params: CallToolRequestParams) -> CallToolResult:
    return await _elicit(context, "Please choose", ENUMS_SCHEMA, "Elicitation completed: ")


async def _cut_own_stream(context: Context, _params: CallToolRequestParams) -> CallToolResult:
    # SEP-1699: the answer goes to the event store, and the client fetches it with Last-Event-ID.
    if context.close_sse_stream is not None:
        await context.close_sse_stream()
        await asyncio.sleep(2 * STEP_SECONDS)
    return text("This answer was sent after the stream had been closed.")


async def _require_sampling(context: Context, _params: CallToolRequestParams) -> CallToolResult:
    capabilities = context.session.client_capabilities
    if capabilities is None or capabilities.sampling is None:
        raise MCPError(
            MISSING_REQUIRED_CLIENT_CAPABILITY,
            "This tool needs the client capability 'sampling'",
            data={"requiredCapabilities": {"sampling": {}}},
        )
    return text("The client can sample.")


def _publish(bus: SubscriptionBus, event: ServerEvent, what: str) -> ToolHandler:
    async def call(_context: Context, _params: CallToolRequestParams) -> CallToolResult:
        await bus.publish(event)
        return text(f"Subscribers were told that the {what} changed.")

    return call


def stream_tools(bus: SubscriptionBus) -> tuple[ToolFixture, ...]:
    """Return the tools of this file; those that change a list tell `bus`."""
    return (
        fixture("test_tool_with_logging", "Logs three times while it works", _log_three_times),
        fixture("test_logging_tool", "Logs only for requests that ask for it", _log_three_times),
        fixture("test_tool_with_progress", "Reports 0, 50 and 100 of 100", _report_progress),
        fixture(
            "test_sampling",
            "Asks the client's model",
            _sample,
            _one_string("prompt", "What the model is asked"),
        ),
        fixture(
            "test_elicitation",
            "Asks the user for name and address",
            _elicit_contact,
            _one_string("message", "What the user is shown"),
        ),
        fixture("test_elicitation_sep1034_defaults", "Asks with default values", _elicit_defaults),
        fixture("test_elicitation_sep1330_enums", "Asks with all five kinds of choice", _elicit_enums),
        fixture("test_reconnection", "Closes its stream before it answers", _cut_own_stream),
        fixture("test_missing_capability", "Needs a client that can sample", _require_sampling),
        fixture(
            "test_trigger_tool_change",
            "Announces a change of the tool list",
            _publish(bus, ToolsListChanged(), "tools"),
        ),
        fixture(
            "test_trigger_prompt_change",
            "Announces a change of the prompt list",
            _publish(bus, PromptsListChanged(), "prompts"),
        ),
    )
