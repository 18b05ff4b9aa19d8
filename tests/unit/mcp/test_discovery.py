from __future__ import annotations

import json
from typing import Any

import pytest

from shadowcat.mcp.discovery import (
    DISCOVER_FIELDS,
    LATEST,
    Verdict,
    error_code,
    judge_discover,
    judge_initialize,
    render_discover,
    render_opening,
)
from shadowcat.mcp.envelope import Kind, peek
from shadowcat.mcp.eras import Era, era_of

YES, NO, UNCLEAR = Verdict.YES, Verdict.NO, Verdict.UNCLEAR
MODERN, LEGACY = LATEST[Era.MODERN], LATEST[Era.LEGACY]


def result(**members: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "result": members}).encode()


def error(code: Any, **members: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": None, "error": {"code": code, **members}}).encode()


@pytest.mark.parametrize(
    ("status", "message", "verdict"),
    [
        (200, result(supportedVersions=[MODERN]), YES),
        (200, result(supportedVersions=[LEGACY, "2031-01-01"]), YES),
        (200, result(supportedVersions=[LEGACY]), NO),
        (200, result(supportedVersions=["draft", 7, None]), NO),
        (200, result(supportedVersions=MODERN), NO),
        (200, result(), NO),
        # Whatever a server of the modern era does not like, it says with codes of that era.
        (400, error(-32022, data={"supported": ["2027-01-01"]}), YES),
        (400, error(-32022, data={"supported": [LEGACY]}), NO),
        (400, error(-32022), YES),
        (400, error(-32021), YES),
        (200, error(-32020), YES),
        (503, error(-32022), UNCLEAR),
        # What servers of the legacy era answer.
        (400, error(-32600, message="Missing session ID"), NO),
        (400, error(-32000), NO),
        (404, error(-32601), NO),
        (200, error(-32601), NO),
        (404, b"", NO),
        (405, b"not allowed", NO),
        (415, b"", NO),
        (410, b'{"error":"nope"}', NO),
        # What says nothing.
        (200, b"", UNCLEAR),
        (202, b"", UNCLEAR),
        (200, b'{"jsonrpc":"2.0","id":1,"result":{"con', UNCLEAR),
        (200, b'{"jsonrpc":"2.0","id":1,"method":"server/discover"}', UNCLEAR),
        (200, error(-32603), UNCLEAR),
        (400, error(-32603), UNCLEAR),
        (301, b"", UNCLEAR),
        (401, error(-32600), UNCLEAR),
        (403, b"", UNCLEAR),
        (407, b"", UNCLEAR),
        (408, b"", UNCLEAR),
        (429, error(429), UNCLEAR),
        (500, result(supportedVersions=[MODERN]), UNCLEAR),
        (502, error(-32601), UNCLEAR),
    ],
)
def test_what_an_answer_to_discover_says(status: int, message: bytes, verdict: Verdict) -> None:
    assert judge_discover(status, message) is verdict


@pytest.mark.parametrize(
    ("status", "message", "verdict"),
    [
        (200, result(protocolVersion=LEGACY, capabilities={}), YES),
        (200, result(protocolVersion="2025-03-26"), YES),
        (200, result(), UNCLEAR),
        (200, b"", UNCLEAR),
        (202, b"", UNCLEAR),
        (400, error(-32020), NO),
        (404, error(-32601), NO),
        (200, error(-32601), NO),
        (405, b"", NO),
        (401, b"", UNCLEAR),
        (429, b"", UNCLEAR),
        (503, error(-32603), UNCLEAR),
        (200, error(-32603), UNCLEAR),
        (503, result(protocolVersion=LEGACY), UNCLEAR),
    ],
)
def test_what_an_answer_to_initialize_says(status: int, message: bytes, verdict: Verdict) -> None:
    assert judge_initialize(status, message) is verdict


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (error(-32601), -32601),
        (error("x"), None),
        (error(None), None),
        (b'{"error":3}', None),
        (b"[]", None),
        (b"\xff\xfe", None),
        (b"[" * 100_000, None),
        (result(), None),
    ],
)
def test_error_codes(message: bytes, code: int | None) -> None:
    assert error_code(message) == code


def test_the_requests_are_what_the_proxy_itself_would_let_through() -> None:
    envelope = peek(render_discover("1.2"))
    assert (envelope.kind, envelope.method) == (Kind.REQUEST, "server/discover")
    fields = {name.lower().encode(): value.encode() for name, value in DISCOVER_FIELDS.items()}
    assert era_of(b"POST", fields[b"mcp-protocol-version"]) is Era.MODERN
    params = json.loads(render_discover("1.2"))["params"]["_meta"]
    assert params["io.modelcontextprotocol/protocolVersion"] == MODERN
    assert params["io.modelcontextprotocol/clientInfo"] == {"name": "shadowcat", "version": "1.2"}
    opening = json.loads(render_opening("1.2"))
    assert opening["method"] == "initialize"
    assert opening["params"] == {
        "protocolVersion": LEGACY,
        "capabilities": {},
        "clientInfo": {"name": "shadowcat", "version": "1.2"},
    }
