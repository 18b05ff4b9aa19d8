"""Tools that answer at once: every content type, an error, and the two listings that the suite inspects."""

from __future__ import annotations

from mcp_types import (
    AudioContent,
    CallToolRequestParams,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    TextContent,
    TextResourceContents,
)

from .media import PNG_BASE64, WAV_BASE64
from .toolbox import Context, ToolFixture, constant, fixture, string_argument, text

# SEP-1613 and SEP-2106: the suite looks for each of these keywords in the listing.
JSON_SCHEMA_2020_12 = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}

# SEP-2243: an argument that a modern client mirrors as the header Mcp-Param-Region.
MIRRORED_ARGUMENT = {
    "type": "object",
    "properties": {"region": {"type": "string", "x-mcp-header": "Region"}},
    "required": ["region"],
}


async def _fail(_context: Context, _params: CallToolRequestParams) -> CallToolResult:
    return text("This tool intentionally returns an error for testing", is_error=True)


async def _accept_contact(_context: Context, params: CallToolRequestParams) -> CallToolResult:
    return text(f"Arguments received: {', '.join(sorted(params.arguments or {}))}")


async def _name_region(_context: Context, params: CallToolRequestParams) -> CallToolResult:
    return text(f"Region: {string_argument(params, 'region')}")


def _resource_block(uri: str, mime_type: str, content: str) -> EmbeddedResource:
    return EmbeddedResource(resource=TextResourceContents(uri=uri, mime_type=mime_type, text=content))


_IMAGE = ImageContent(data=PNG_BASE64, mime_type="image/png")
_AUDIO = AudioContent(data=WAV_BASE64, mime_type="audio/wav")

CONTENT_TOOLS: tuple[ToolFixture, ...] = (
    # First in the listing: http-header-validation calls the first tool without arguments and wants a result.
    fixture(
        "test_simple_text",
        "Returns one text block",
        constant(TextContent(text="This is a simple text response for testing.")),
    ),
    fixture("test_image_content", "Returns a PNG of one pixel", constant(_IMAGE)),
    fixture("test_audio_content", "Returns a short silent WAV", constant(_AUDIO)),
    fixture(
        "test_embedded_resource",
        "Returns an embedded text resource",
        constant(
            _resource_block("test://embedded-resource", "text/plain", "This is an embedded resource content.")
        ),
    ),
    fixture(
        "test_multiple_content_types",
        "Returns text, an image and a resource",
        constant(
            TextContent(text="Multiple content types test:"),
            _IMAGE,
            _resource_block(
                "test://mixed-content-resource", "application/json", '{"test":"data","value":123}'
            ),
        ),
    ),
    fixture("test_error_handling", "Always answers with isError", _fail),
    fixture(
        "json_schema_2020_12_tool",
        "Tool with JSON Schema 2020-12 features",
        _accept_contact,
        JSON_SCHEMA_2020_12,
    ),
    fixture(
        "test_mirrored_argument", "Has an argument mirrored in a header", _name_region, MIRRORED_ARGUMENT
    ),
)
