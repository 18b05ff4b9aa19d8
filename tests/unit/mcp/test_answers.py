"""Own JSON-RPC errors."""

from __future__ import annotations

import json

import pytest

from shadowcat.mcp.answers import error_body, not_run_body, unknown_tool_body
from shadowcat.mcp.eras import Era


@pytest.mark.parametrize("id_raw", [b"1", b"1.0", b"1e3", b'"a"', b'"\\u0041\\/"', b"-0", b"9" * 5000])
@pytest.mark.parametrize("era", Era)
def test_the_id_is_echoed_byte_for_byte(id_raw: bytes, era: Era) -> None:
    body = error_body(-32603, "upstream refused the connection", id_raw, era)
    assert body == (
        b'{"jsonrpc":"2.0","id":%b,"error":{"code":-32603,"message":"upstream refused the connection"}}'
        % id_raw
    )


def test_without_an_id_the_legacy_era_gets_null() -> None:
    assert json.loads(error_body(-32600, "no", None, Era.LEGACY)) == {
        "jsonrpc": "2.0",
        "id": None,
        "error": {"code": -32600, "message": "no"},
    }


def test_without_an_id_the_modern_era_gets_no_member() -> None:
    assert json.loads(error_body(-32600, "no", None, Era.MODERN)) == {
        "jsonrpc": "2.0",
        "error": {"code": -32600, "message": "no"},
    }


def test_data_and_text_are_written_as_json() -> None:
    body = error_body(429, 'say "é"\n', b"7", Era.LEGACY, {"retryAfterSeconds": 1.5})
    assert json.loads(body)["error"] == {
        "code": 429,
        "message": 'say "é"\n',
        "data": {"retryAfterSeconds": 1.5},
    }


@pytest.mark.parametrize(("era", "more"), [(Era.LEGACY, ""), (Era.MODERN, ',"resultType":"complete"')])
def test_an_unknown_tool_is_told_as_the_sdk_tells_it(era: Era, more: str) -> None:
    # Taken from the Python SDK's server, 2.3.0, without the name of the server.
    wanted = (
        '{"jsonrpc":"2.0","id":"a","result":{"content":[{"text":"Unknown tool: \\"x\\u00e9","type":"text"}],'
        f'"isError":true{more}}}}}'
    )
    found = unknown_tool_body('"x\u00e9', b'"a"', era)
    assert json.loads(found) == json.loads(wanted)
    assert found.startswith(b'{"jsonrpc":"2.0","id":"a","result":')


def test_what_a_batch_did_not_do() -> None:
    found = json.loads(not_run_body(b"1.0", Era.LEGACY))
    assert (found["id"], found["error"]["code"]) == (1, -32600)
