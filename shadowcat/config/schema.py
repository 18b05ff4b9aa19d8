"""The JSON Schema (2020-12) of the configuration, for editors. Made from the Structs and their docstrings."""

from __future__ import annotations

import ast
import inspect
import itertools
import types
import typing
from typing import Any, Final

import msgspec

from shadowcat.config import mcp_servers, model
from shadowcat.config.sections.base import Section
from shadowcat.config.structure import is_section
from shadowcat.config.units import Duration, Limit, Size

_REFERENCE: Final = {"$ref": "#/$defs/Reference"}
_DEFS: Final[dict[str, Any]] = {
    "Reference": {
        "description": "Taken from the environment: ${NAME} or ${NAME:-default}.",
        "type": "string",
        "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}",
    },
    "Duration": {
        "description": "A length of time such as 250ms, 30s, 10m, 24h or 7d; a bare number means seconds.",
        "anyOf": [
            {"type": "number", "minimum": 0},
            {"type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*(ms|s|m|h|d)?\s*$"},
            _REFERENCE,
        ],
    },
    "Size": {
        "description": "A number of bytes such as 512B, 64KiB or 10MiB; a bare number means bytes.",
        "anyOf": [
            {"type": "integer", "minimum": 0},
            {"type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*(B|KB|MB|GB|KiB|MiB|GiB)?\s*$"},
            _REFERENCE,
        ],
    },
    "Limit": {
        "description": "A rate such as 100/s or 5/min burst 2, how many at once (concurrent 10), or both.",
        "type": "string",
        "pattern": r"^\s*([0-9]+\s*/\s*[0-9]*\s*(s|m|min|h|d))?\s*(burst\s+[0-9]+)?\s*"
        r"(concurrent\s+[0-9]+)?\s*$|^\$\{.*\}$",
    },
    "McpServer": {
        "description": "A server as MCP clients keep it; becomes the route /<name>/mcp.",
        "type": "object",
        "properties": {
            "url": {"type": "string"},
            "type": {"enum": list(mcp_servers.TRANSPORTS)},
            "transport": {"enum": list(mcp_servers.TRANSPORTS)},
            "headers": {"type": "object", "additionalProperties": {"type": "string"}},
            "disabled": {"type": "boolean", "description": "Leave this server out."},
            **{key: {"description": "For the client alone."} for key in mcp_servers.CLIENT_KEYS},
        },
        "required": ["url"],
        "additionalProperties": False,
    },
}
_SCALARS: Final = {str: "string", int: "integer", float: "number", bool: "boolean"}


def json_schema() -> dict[str, Any]:
    """The schema of a configuration file."""
    definitions = dict(_DEFS)
    root = _section(model.Config, definitions)
    root["properties"] |= {
        "$schema": {"type": "string", "description": "Where an editor finds this schema."},
        "mcpServers": {
            "description": "Servers as MCP clients keep them, beside or instead of `routes`.",
            "type": "object",
            "additionalProperties": {"$ref": "#/$defs/McpServer"},
        },
    }
    root["anyOf"] = [{"required": root.pop("required")}, {"required": ["mcpServers"]}]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Shadowcat configuration",
        **root,
        "$defs": definitions,
    }


def _section(section: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    described = _attribute_docstrings(section)
    properties = {}
    required = []
    for field in msgspec.structs.fields(section):
        shape = _shape(field.type, definitions)
        if field.name in described:
            shape["description"] = described[field.name]
        if field.required:
            required.append(field.encode_name)
        elif field.default is not msgspec.NODEFAULT and field.default is not None:
            default = msgspec.to_builtins(field.default, enc_hook=str)
            if default != {}:  # a section with its own defaults
                shape["default"] = default
        properties[field.encode_name] = shape
    result = {
        "description": inspect.cleandoc(section.__doc__ or ""),
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }
    return result | {"required": required} if required else result


def _shape(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if is_section(kind):
        if kind.__name__ not in definitions:
            definitions[kind.__name__] = _section(kind, definitions)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    if kind in {Duration, Limit, Size}:
        return {"$ref": f"#/$defs/{kind.__name__}"}
    if kind is types.NoneType:
        return {"type": "null"}
    if origin is typing.Annotated:
        shape = _shape(arguments[0], definitions)
        meta = arguments[1]
        bounds = {"minimum": meta.ge, "exclusiveMinimum": meta.gt, "maximum": meta.le}
        shape["anyOf"][0] |= {name: bound for name, bound in bounds.items() if bound is not None}
        return shape
    if origin in {typing.Union, types.UnionType}:
        return {"anyOf": [_shape(option, definitions) for option in arguments]}
    if origin is typing.Literal:
        return {"anyOf": [{"enum": list(arguments)}, _REFERENCE]}
    if origin is list:
        return {"type": "array", "items": _shape(arguments[0], definitions)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _shape(arguments[1], definitions)}
    plain = {"type": _SCALARS[kind]}
    return plain if kind is str else {"anyOf": [plain, _REFERENCE]}


def _attribute_docstrings(section: Any) -> dict[str, str]:
    """The string below each attribute, which Python itself does not keep."""
    found: dict[str, str] = {}
    for part in reversed(section.__mro__[: section.__mro__.index(Section)]):
        body = typing.cast("ast.ClassDef", ast.parse(inspect.getsource(part)).body[0]).body
        for statement, following in itertools.pairwise(body):
            match statement, following:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    found[name] = inspect.cleandoc(text)
    return found
