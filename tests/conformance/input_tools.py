"""Tools of revision 2026-07-28 that answer with what they still need to know (SEP-2322)."""

from __future__ import annotations

from mcp import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequest,
    InputRequiredResult,
    InputResponses,
    ListRootsRequest,
    ListRootsResult,
    SamplingMessage,
    TextContent,
)

from .toolbox import Context, ToolFixture, ToolResult, fixture, text


def form(message: str, field: str, field_type: str = "string") -> ElicitRequest:
    """Return an elicitation with one required field."""
    return ElicitRequest(
        params=ElicitRequestFormParams(
            message=message,
            requested_schema={
                "type": "object",
                "properties": {field: {"type": field_type}},
                "required": [field],
            },
        )
    )


def _sampling(prompt: str, max_tokens: int) -> CreateMessageRequest:
    message = SamplingMessage(role="user", content=TextContent(text=prompt))
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=[message], max_tokens=max_tokens))


def accepted_field(responses: InputResponses | None, key: str, field: str) -> object | None:
    """Return the field of an accepted form, or None if the client has not answered that form properly."""
    answer = (responses or {}).get(key)
    if not isinstance(answer, ElicitResult) or answer.action != "accept":
        return None
    return (answer.content or {}).get(field)


async def _ask_name(_context: Context, params: CallToolRequestParams) -> ToolResult:
    name = accepted_field(params.input_responses, "user_name", "name")
    if name is None:
        return InputRequiredResult(input_requests={"user_name": form("What is your name?", "name")})
    return text(f"Hello, {name}!")


async def _ask_model(_context: Context, params: CallToolRequestParams) -> ToolResult:
    answer = (params.input_responses or {}).get("capital_question")
    if not isinstance(answer, CreateMessageResult):
        question = _sampling("What is the capital of France?", 100)
        return InputRequiredResult(input_requests={"capital_question": question})
    return text(f"The model said: {answer.content.text if isinstance(answer.content, TextContent) else '?'}")


async def _ask_roots(_context: Context, params: CallToolRequestParams) -> ToolResult:
    answer = (params.input_responses or {}).get("client_roots")
    if not isinstance(answer, ListRootsResult):
        return InputRequiredResult(input_requests={"client_roots": ListRootsRequest()})
    return text("Roots: " + ", ".join(str(root.uri) for root in answer.roots))


async def _confirm_with_state(_context: Context, params: CallToolRequestParams) -> ToolResult:
    confirmed = accepted_field(params.input_responses, "confirm", "ok")
    if confirmed is None:
        return InputRequiredResult(
            input_requests={"confirm": form("Please confirm", "ok", "boolean")},
            request_state="awaiting-confirm",
        )
    if params.request_state != "awaiting-confirm":
        raise MCPError(INVALID_PARAMS, "requestState does not belong to this question")
    return text("state-ok")


async def _ask_three_ways(_context: Context, params: CallToolRequestParams) -> ToolResult:
    wanted: dict[str, InputRequest] = {
        "user_name": form("What is your name?", "name"),
        "greeting": _sampling("Generate a greeting", 50),
        "client_roots": ListRootsRequest(),
    }
    if set(wanted) - set(params.input_responses or {}):
        return InputRequiredResult(input_requests=wanted, request_state="awaiting-three")
    return text("All three answers arrived.")


async def _ask_twice(_context: Context, params: CallToolRequestParams) -> ToolResult:
    # The state, not the keys of the answers, says which round this is.
    if params.request_state is None:
        return InputRequiredResult(
            input_requests={"step1": form("Step 1: What is your name?", "name")}, request_state="round-1"
        )
    if params.request_state == "round-1":
        name = accepted_field(params.input_responses, "step1", "name")
        return InputRequiredResult(
            input_requests={"step2": form("Step 2: What is your favorite color?", "color")},
            request_state=f"round-2:{name}",
        )
    name = params.request_state.partition(":")[2]
    return text(f"{name} likes {accepted_field(params.input_responses, 'step2', 'color')}.")


async def _ask_what_client_can(context: Context, params: CallToolRequestParams) -> ToolResult:
    if params.input_responses:
        return text("Thank you.")
    capabilities = context.session.client_capabilities
    wanted: dict[str, InputRequest] = {}
    if capabilities is not None and capabilities.sampling is not None:
        wanted["greeting"] = _sampling("Generate a greeting", 50)
    if capabilities is not None and capabilities.elicitation is not None:
        wanted["user_name"] = form("What is your name?", "name")
    if not wanted:
        return text("The client can answer nothing.")
    return InputRequiredResult(input_requests=wanted)


async def _progress_then_ask(context: Context, params: CallToolRequestParams) -> ToolResult:
    await context.session.report_progress(0, 1)
    return await _ask_name(context, params)


INPUT_TOOLS: tuple[ToolFixture, ...] = (
    fixture("test_input_required_result_elicitation", "Needs the user's name", _ask_name),
    fixture("test_input_required_result_sampling", "Needs an answer of the client's model", _ask_model),
    fixture("test_input_required_result_list_roots", "Needs the client's roots", _ask_roots),
    fixture(
        "test_input_required_result_request_state", "Needs a confirmation, with state", _confirm_with_state
    ),
    fixture("test_input_required_result_tampered_state", "The same, for tampered state", _confirm_with_state),
    fixture("test_input_required_result_multiple_inputs", "Needs three answers at once", _ask_three_ways),
    fixture("test_input_required_result_multi_round", "Asks in two rounds", _ask_twice),
    fixture(
        "test_input_required_result_capabilities", "Asks only what the client can do", _ask_what_client_can
    ),
    fixture("test_streaming_elicitation", "Reports progress, then needs an answer", _progress_then_ask),
)
