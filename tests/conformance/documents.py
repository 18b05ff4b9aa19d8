"""Resources, prompts and completions that the suite reads."""

from __future__ import annotations

import base64
import json
import re

from mcp import MCPError
from mcp_types import (
    INVALID_PARAMS,
    BlobResourceContents,
    CompleteRequestParams,
    CompleteResult,
    Completion,
    ContentBlock,
    EmbeddedResource,
    EmptyResult,
    GetPromptRequestParams,
    GetPromptResult,
    ImageContent,
    InputRequiredResult,
    ListPromptsResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    PaginatedRequestParams,
    Prompt,
    PromptArgument,
    PromptMessage,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    SubscribeRequestParams,
    TextContent,
    TextResourceContents,
    UnsubscribeRequestParams,
)

from .input_tools import accepted_field, form
from .media import PNG, PNG_BASE64
from .toolbox import Context

STATIC_TEXT = "test://static-text"
STATIC_BINARY = "test://static-binary"
WATCHED = "test://watched-resource"
TEMPLATE = "test://template/{id}/data"
_TEMPLATE_URI = re.compile(r"test://template/([^/]+)/data")

RESOURCES = [
    Resource(
        uri=STATIC_TEXT, name="static-text", description="A text that never changes", mime_type="text/plain"
    ),
    Resource(
        uri=STATIC_BINARY, name="static-binary", description="A PNG of one pixel", mime_type="image/png"
    ),
    Resource(
        uri=WATCHED, name="watched-resource", description="Can be subscribed to", mime_type="text/plain"
    ),
]
TEMPLATES = [
    ResourceTemplate(
        uri_template=TEMPLATE, name="template", description="Data of one id", mime_type="application/json"
    )
]


def _prompt(name: str, description: str, **arguments: str) -> Prompt:
    listed = [PromptArgument(name=key, description=about, required=True) for key, about in arguments.items()]
    return Prompt(name=name, description=description, arguments=listed or None)


PROMPTS = [
    _prompt("test_simple_prompt", "A prompt without arguments"),
    _prompt("test_prompt_with_arguments", "A prompt of two", arg1="First argument", arg2="Second argument"),
    _prompt("test_prompt_with_embedded_resource", "A prompt with a resource", resourceUri="What to embed"),
    _prompt("test_prompt_with_image", "A prompt with a picture"),
    _prompt("test_input_required_result_prompt", "A prompt that first needs an answer (2026-07-28)"),
]

COMPLETIONS = ("paris", "park", "party", "test", "testing")


async def list_resources(_context: Context, _params: PaginatedRequestParams | None) -> ListResourcesResult:
    """Serve resources/list."""
    return ListResourcesResult(resources=RESOURCES)


async def list_templates(
    _context: Context, _params: PaginatedRequestParams | None
) -> ListResourceTemplatesResult:
    """Serve resources/templates/list."""
    return ListResourceTemplatesResult(resource_templates=TEMPLATES)


async def read_resource(_context: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
    """Serve resources/read; an unknown resource is -32602 with its URI in the data (SEP-2164)."""
    uri = params.uri
    if uri == STATIC_BINARY:
        blob = base64.b64encode(PNG).decode("ascii")
        return ReadResourceResult(contents=[BlobResourceContents(uri=uri, mime_type="image/png", blob=blob)])
    if uri == STATIC_TEXT:
        return _text_resource(uri, "text/plain", "This is the content of the static text resource.")
    if uri == WATCHED:
        return _text_resource(uri, "text/plain", "Nobody has changed this resource.")
    if (match := _TEMPLATE_URI.fullmatch(uri)) is not None:
        data = {"id": match[1], "templateTest": True, "data": f"Data for ID: {match[1]}"}
        return _text_resource(uri, "application/json", json.dumps(data))
    raise MCPError(INVALID_PARAMS, "Resource not found", data={"uri": uri})


def _text_resource(uri: str, mime_type: str, content: str) -> ReadResourceResult:
    return ReadResourceResult(contents=[TextResourceContents(uri=uri, mime_type=mime_type, text=content)])


async def subscribe(_context: Context, params: SubscribeRequestParams) -> EmptyResult:
    """Serve resources/subscribe: nothing here ever changes, so there is nothing to remember."""
    _known(params.uri)
    return EmptyResult()


async def unsubscribe(_context: Context, params: UnsubscribeRequestParams) -> EmptyResult:
    """Serve resources/unsubscribe."""
    _known(params.uri)
    return EmptyResult()


def _known(uri: str) -> None:
    if all(resource.uri != uri for resource in RESOURCES):
        raise MCPError(INVALID_PARAMS, "Resource not found", data={"uri": uri})


async def list_prompts(_context: Context, _params: PaginatedRequestParams | None) -> ListPromptsResult:
    """Serve prompts/list."""
    return ListPromptsResult(prompts=PROMPTS)


async def get_prompt(
    _context: Context, params: GetPromptRequestParams
) -> GetPromptResult | InputRequiredResult:
    """Serve prompts/get."""
    arguments = params.arguments or {}
    prompt = next((one for one in PROMPTS if one.name == params.name), None)
    if prompt is None:
        raise MCPError(INVALID_PARAMS, f"Unknown prompt: {params.name}")
    missing = [one.name for one in prompt.arguments or () if one.name not in arguments]
    if missing:
        raise MCPError(INVALID_PARAMS, f"{params.name}: missing argument {', '.join(missing)}")
    match params.name:
        case "test_simple_prompt":
            return _said(TextContent(text="This is a simple prompt for testing."))
        case "test_prompt_with_arguments":
            spoken = f"Prompt with arguments: arg1='{arguments['arg1']}', arg2='{arguments['arg2']}'"
            return _said(TextContent(text=spoken))
        case "test_prompt_with_embedded_resource":
            embedded = TextResourceContents(
                uri=arguments["resourceUri"],
                mime_type="text/plain",
                text="Embedded resource content for testing.",
            )
            closing = TextContent(text="Please process the embedded resource above.")
            return _said(EmbeddedResource(resource=embedded), closing)
        case "test_prompt_with_image":
            picture = ImageContent(data=PNG_BASE64, mime_type="image/png")
            return _said(picture, TextContent(text="Please analyze the image above."))
        case _:
            answer = accepted_field(params.input_responses, "user_context", "context")
            if answer is None:
                question = form("What context should the prompt use?", "context")
                return InputRequiredResult(input_requests={"user_context": question})
            return _said(TextContent(text=f"Use this context: {answer}"))


def _said(*content: ContentBlock) -> GetPromptResult:
    return GetPromptResult(messages=[PromptMessage(role="user", content=block) for block in content])


async def complete(_context: Context, params: CompleteRequestParams) -> CompleteResult:
    """Serve completion/complete: the known words that begin with what was typed."""
    values = [word for word in COMPLETIONS if word.startswith(params.argument.value)]
    return CompleteResult(completion=Completion(values=values, total=len(values), has_more=False))
