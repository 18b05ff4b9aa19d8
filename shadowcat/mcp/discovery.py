"""Finding out whether a server is there and which eras it speaks: what to ask it, and what its answers say.

    server/discover --YES--> modern
        | NO
    initialize      --YES--> legacy; the session it opened is to be deleted

A server of one era refuses the other one in many ways ("Statuses and codes" differ between SDKs): with any
4xx, with an error in a 200. What a server of either era may answer in a bad moment says nothing about it.
"""

from __future__ import annotations

import json
from enum import Enum, auto
from typing import Any, Final

import orjson

from shadowcat.errors import HEADER_MISMATCH, INTERNAL_ERROR
from shadowcat.mcp.eras import VERSIONS, Era, era_of
from shadowcat.mcp.initialize import Outcome, outcome_of, read_result, render_initialize
from shadowcat.mcp.methods import DISCOVER

LATEST: Final = {era: max(version for version, its in VERSIONS.items() if its is era).decode() for era in Era}
"""The newest revision of each era."""

DISCOVER_FIELDS: Final = {
    "MCP-Protocol-Version": LATEST[Era.MODERN],
    "Mcp-Method": DISCOVER,
}
"""Header fields that mirror the body (revision 2026-07-28)."""

_REQUEST_ID: Final = "shadowcat-health"
_UNSUPPORTED_VERSION: Final = -32022
_MODERN_ERRORS: Final = range(-32099, HEADER_MISMATCH + 1)
"""Codes that no server used before the modern era (error code policy of revision 2026-07-28)."""
_SAYS_NOTHING: Final = frozenset({401, 403, 407, 408, 429})
"""Statuses below 500 that are about the caller or the moment, not about what the server speaks."""


class Verdict(Enum):
    """What an answer says about the era that was asked for."""

    YES = auto()
    NO = auto()
    UNCLEAR = auto()
    """Neither: the server cannot serve at this moment, or its answer is none of an MCP server."""


def render_discover(client_version: str) -> bytes:
    """Write a `server/discover` request."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": LATEST[Era.MODERN],
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": _client(client_version),
    }
    return orjson.dumps({"jsonrpc": "2.0", "id": _REQUEST_ID, "method": DISCOVER, "params": {"_meta": meta}})


def render_opening(client_version: str) -> bytes:
    """Write an `initialize` request of a client that can do nothing."""
    params = {
        "protocolVersion": LATEST[Era.LEGACY],
        "capabilities": {},
        "clientInfo": _client(client_version),
    }
    return render_initialize(orjson.dumps(params), _REQUEST_ID)


def judge_discover(status: int, message: bytes) -> Verdict:
    """Whether a server speaks the modern era.

    Args:
        status: of its answer to `server/discover`.
        message: the JSON-RPC message in the answer; empty if there was none.
    """
    if _is_success(status) and outcome_of(message) is Outcome.RESULT:
        return _judge_versions(_read(message)["result"].get("supportedVersions"))
    code = error_code(message)
    if code in _MODERN_ERRORS and _is_about_request(status):
        if code == _UNSUPPORTED_VERSION and isinstance(data := _read(message)["error"].get("data"), dict):
            return _judge_versions(data.get("supported"))
        return Verdict.YES
    return _judge_refusal(status, message)


def judge_initialize(status: int, message: bytes) -> Verdict:
    """Whether a server speaks the legacy era; arguments as those of `judge_discover`."""
    if _is_success(status) and outcome_of(message) is Outcome.RESULT:
        result = read_result(message)
        return Verdict.YES if result is not None and result.version else Verdict.UNCLEAR
    return _judge_refusal(status, message)


def error_code(message: bytes) -> int | None:
    """The code of a JSON-RPC error message; None of anything else. Never raises."""
    error = _read(message).get("error")
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) else None


def _judge_refusal(status: int, message: bytes) -> Verdict:
    if not _is_about_request(status) or error_code(message) == INTERNAL_ERROR:
        return Verdict.UNCLEAR
    # A 4xx needs no body to be a refusal. A 2xx without an answer is none.
    is_refusal = not _is_success(status) or outcome_of(message) is Outcome.ERROR
    return Verdict.NO if is_refusal else Verdict.UNCLEAR


def _judge_versions(versions: Any) -> Verdict:
    """Whether a list of versions has one of the modern era."""
    names = versions if isinstance(versions, list) else []
    is_modern = any(
        isinstance(name, str) and era_of(b"POST", name.encode("utf-8", "replace")) is Era.MODERN
        for name in names
    )
    return Verdict.YES if is_modern else Verdict.NO


def _is_about_request(status: int) -> bool:
    """Whether a status says something about what was asked, not about who asked, or the moment."""
    return _is_success(status) or (400 <= status < 500 and status not in _SAYS_NOTHING)


def _is_success(status: int) -> bool:
    return 200 <= status < 300


def _client(version: str) -> dict[str, str]:
    return {"name": "shadowcat", "version": version}


def _read(message: bytes) -> dict[str, Any]:
    try:
        value = json.loads(message)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
