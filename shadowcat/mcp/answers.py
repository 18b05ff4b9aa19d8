"""JSON-RPC answers the proxy writes on its own account."""

from __future__ import annotations

from typing import Any

import orjson

from shadowcat.errors import INVALID_REQUEST
from shadowcat.mcp.eras import Era


def error_body(
    code: int, message: str, id_raw: bytes | None, era: Era, data: dict[str, Any] | None = None
) -> bytes:
    """Write a JSON-RPC error message (JSON-RPC 2.0 section 5.1).

    Args:
        code: the JSON-RPC error code.
        message: what is wrong, for the client to read.
        id_raw: the request's id exactly as received, a JSON string or number, so that its type and spelling
            survive; None when the request has none or it could not be read.
        era: decides the form of an absent id: `null` in the legacy era (JSON-RPC 2.0), no member in the
            modern one (schema of revision 2026-07-28: an error's id is optional, and never null).
        data: more about the error, as plain JSON values.

    Raises:
        TypeError: `message` or `data` has no JSON form (a lone surrogate, a foreign type).
    """
    error: dict[str, Any] = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    if id_raw is None and era is Era.MODERN:
        return b'{"jsonrpc":"2.0","error":%b}' % orjson.dumps(error)
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (id_raw or b"null", orjson.dumps(error))


def unknown_tool_body(name: str, id_raw: bytes | None, era: Era) -> bytes:
    """Write what SDK servers (Python 2.3) answer to a call of a tool that they do not have.

    That is a result, so that a model reads it and goes on (MCP 2025-11-25, server/tools "Error Handling").

    Args:
        name: the tool's name, as it was asked for.
        id_raw: the request's id exactly as received.
        era: the modern one has a type in every result.
    """
    result: dict[str, Any] = {
        "content": [{"text": f"Unknown tool: {name}", "type": "text"}],
        "isError": True,
    }
    if era is Era.MODERN:
        result["resultType"] = "complete"
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (id_raw or b"null", orjson.dumps(result))


def not_run_body(id_raw: bytes | None, era: Era) -> bytes:
    """Write the answer to a request of a batch of which another message names an unknown tool."""
    message = "not carried out: another message of the batch calls an unknown tool"
    return error_body(INVALID_REQUEST, message, id_raw, era)
