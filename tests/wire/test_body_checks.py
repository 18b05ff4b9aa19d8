"""Bodies that could be read in two ways, or differ from their headers, stop here; others pass untouched."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from .stage import MODERN, message, post, stage

VERSION = "2026-07-28"
KEY = "io.modelcontextprotocol/protocolVersion"


def encoded(text: str) -> str:
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?="


def mirrored(method: str = "tools/call", name: str | None = "echo") -> list[tuple[str, str]]:
    return [MODERN, ("Mcp-Method", method), *([("Mcp-Name", name)] if name is not None else [])]


@pytest.mark.parametrize(
    ("method", "name", "header"),
    [
        ("tools/call", "echo", "echo"),
        ("tools/call", "echo", "  echo \t"),
        ("tools/call", "echo", encoded("echo")),
        ("tools/call", "é", encoded("é")),
        ("tools/call", "=?base64?eA==?=", encoded("=?base64?eA==?=")),
        ("resources/read", "file:///a%20b", "file:///a%20b"),
        ("tools/list", None, None),
        ("tools/list", None, "whatever"),
        ("tools/call", "echo", None),
    ],
)
def test_headers_that_agree(method: str, name: str | None, header: str | None) -> None:
    body = message(method, name, VERSION)
    with stage() as proxy:
        for _ in range(3):
            got, _ = proxy.passes(post(body, *mirrored(method, header)))
            assert got.body == body
            assert got.header("Mcp-Name") == (header.strip() if header is not None else None)
            assert got.header("Mcp-Method") == method


@pytest.mark.parametrize(
    "fields",
    [
        [MODERN, ("Mcp-Method", "tools/list"), ("Mcp-Name", "echo")],
        [MODERN, ("Mcp-Method", "TOOLS/CALL")],
        [MODERN, ("Mcp-Method", "")],
        [MODERN, ("Mcp-Method", "tools/call, tools/call")],
        [MODERN, ("Mcp-Method", "tools/call"), ("Mcp-Method", "tools/call")],
        [MODERN, ("mcp-method", "tools/call"), ("MCP-METHOD", "tools/list")],
        [MODERN, ("Mcp-Name", "other")],
        [MODERN, ("Mcp-Name", "Echo")],
        [MODERN, ("Mcp-Name", "")],
        [MODERN, ("Mcp-Name", "echo"), ("Mcp-Name", "echo")],
        [MODERN, ("Mcp-Name", encoded("other"))],
        [MODERN, ("Mcp-Name", "=?base64?ZWNobw?=")],
        [MODERN, ("Mcp-Name", "=?base64?ZWNo bw==?=")],
        [MODERN, ("Mcp-Name", "=?base64?!!!!?=")],
        [MODERN, ("Mcp-Name", "=?base64?/w==?=")],
        [("MCP-Protocol-Version", "2026-07-29")],
        [("MCP-Protocol-Version", "2027-01-01"), ("Mcp-Method", "tools/call")],
    ],
)
def test_headers_that_differ(fields: list[tuple[str, str]]) -> None:
    with stage() as proxy:
        got = proxy.ask(post(message(version=VERSION), *fields))
        assert got is not None
        assert (got.status, got.code, got.error["id"]) == (400, -32020, 7)
        assert proxy.untouched
        proxy.advance(0.2)
        assert proxy.metric("refusals_total", "header_differs") == 1


def test_a_difference_behind_a_head_that_is_remembered() -> None:
    with stage() as proxy:
        for name in ("echo", "echo", "echo", "other", "echo", "other"):
            proxy.passes(post(message(name=name, version=VERSION), *mirrored(name=name)))
        for header, name in (("echo", "other"), ("other", "echo")):
            got = proxy.ask(post(message(name=name, version=VERSION), *mirrored(name=header)))
            assert got is not None
            assert (got.status, got.code) == (400, -32020)


def test_a_missing_header_is_the_servers_business() -> None:
    with stage() as proxy:
        assert proxy.passes(post(message(version=VERSION), MODERN))[0].body == message(version=VERSION)
        assert proxy.passes(post(message(), *mirrored()))[0].body == message()


@pytest.mark.parametrize(
    "body", [b'{"jsonrpc":"2.0","method":"notifications/x"}', b'{"jsonrpc":"2.0","id":1,"result":{}}']
)
def test_nothing_is_enforced_on_notifications_and_responses(body: bytes) -> None:
    wrong = [
        MODERN,
        ("Mcp-Method", "a"),
        ("Mcp-Method", "b"),
        ("Mcp-Name", "=?base64?!?="),
        ("Mcp-Name", "c"),
    ]
    with stage() as proxy:
        got, _ = proxy.passes(post(body, *wrong))
        assert (got.body, got.all("Mcp-Method"), got.all("Mcp-Name")) == (
            body,
            ["a", "b"],
            ["=?base64?!?=", "c"],
        )


def test_parameters_are_never_looked_at() -> None:
    fields = [("Mcp-Param-A", "=?base64?!?="), ("Mcp-Param-A", "2"), ("mcp-param-echo", "x")]
    with stage() as proxy:
        for _ in range(3):
            got, _ = proxy.passes(post(message(version=VERSION), *mirrored(), *fields))
            assert (got.all("Mcp-Param-A"), got.all("Mcp-Param-Echo")) == (["=?base64?!?=", "2"], ["x"])


def test_the_legacy_era_has_no_mirrored_headers() -> None:
    with stage() as proxy:
        proxy.passes(
            post(message(version=VERSION), ("Mcp-Method", "x"), ("Mcp-Name", "y"), ("Mcp-Name", "z"))
        )


AMBIGUOUS = [
    b'{"jsonrpc":"2.0","id":7,"method":"tools/list","method":"tools/call"}',
    b'{"jsonrpc":"2.0","id":7,"method":"tools/call","Method":"tools/list"}',
    b'{"jsonrpc":"2.0","id":7,"METHOD":"tools/list"}',
    b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"a","name":"b"}}',
    b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"a","Name":"b"}}',
    b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"a","\\u006eame":"b"}}',
    b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"NAME":"b"}}',
    b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"a"},"params":{"name":"b"}}',
    b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"a"},"Params":{"name":"b"}}',
    b'{"jsonrpc":"2.0","id":7,"method":"resources/read","params":{"uri":"a","URI":"b"}}',
    b'{"jsonrpc":"2.0","id":7,"method":"ping","params":{"_meta":{"%b":"1","%b":"2"}}}'
    % (KEY.encode(), KEY.encode()),
]


@pytest.mark.parametrize("body", AMBIGUOUS)
@pytest.mark.parametrize(("fields", "code"), [([MODERN], -32020), ([], -32600)])
def test_ambiguous_keys(body: bytes, fields: list[tuple[str, str]], code: int) -> None:
    with stage() as proxy:
        got = proxy.ask(post(body, *fields))
        assert got is not None
        assert (got.status, got.code, got.error["id"]) == (400, code, 7)
        assert proxy.untouched


@pytest.mark.parametrize("fields", [[], [MODERN]])
def test_two_ids_are_ambiguous_and_neither_is_echoed(fields: list[tuple[str, str]]) -> None:
    with stage() as proxy:
        got = proxy.ask(post(b'{"jsonrpc":"2.0","id":7,"id":8,"method":"ping"}', *fields))
        assert got is not None
        assert (got.status, got.error.get("id")) == (400, None)
        assert proxy.untouched


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (
            b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"a":' + b"[" * 65 + b"]" * 65 + b"}}",
            -32600,
        ),
        (b"[" * 100_000 + b"]" * 100_000, -32600),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', -32600),
        (b"[]", -32600),
        (b"", -32700),
        (b"{", -32700),
        (b"hello", -32700),
        (b'{"id":7,"method":"ping"}}', -32700),
        (b'{"id":7,"method":"ping","params":{"a":"\xff"}}', -32700),
        (b"\xef\xbb\xbf" + b'{"id":7,"method":"ping"}', -32700),
        (b'{"id":7,"method":"ping","params":{"a":NaN}}', -32700),
        (b"1", -32600),
        (b'"ping"', -32600),
        (b"null", -32600),
        (b"{}", -32600),
        (b'{"id":7}', -32600),
        (b'{"id":7,"method":5}', -32600),
    ],
)
@pytest.mark.parametrize("fields", [[], [MODERN]])
def test_what_is_no_message(body: bytes, code: int, fields: list[tuple[str, str]]) -> None:
    with stage() as proxy:
        got = proxy.ask(post(body, *fields))
        assert got is not None
        assert (got.status, got.code) == (400, code)
        assert proxy.untouched


BODIES: list[Any] = [
    b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"a","arguments":{"t":"\\ud83d"}}}',
    b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"\\ud83d"}}',
    b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":[]}',
    b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":5}}',
    b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"a","arguments":{"name":1,"Name":2,"NAME":3}}}',
    b' {\r\n "id" : 7 ,\t"method":"ping" } \n',
    b'{"method":"x/y","id":7,"extra":{"deep":' + b"[" * 60 + b"]" * 60 + b"}}",
    json.dumps({"id": 7, "method": "é😀", "params": {"é": "\u2028"}}, ensure_ascii=False).encode(),
]


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("fields", [[], [MODERN]])
def test_unusual_bodies_pass_byte_for_byte(body: bytes, fields: list[tuple[str, str]]) -> None:
    with stage() as proxy:
        assert proxy.passes(post(body, *fields))[0].body == body


@pytest.mark.parametrize(
    "identity",
    [
        b"7",
        b'"7"',
        b"-1",
        b"0",
        b"12345678901234567890123",
        b"1.0",
        b"1e3",
        b"1.50",
        b'"a\\u0062"',
        b'"\xc3\xa9"',
        b'""',
    ],
)
@pytest.mark.parametrize("fields", [[], [MODERN]])
def test_an_id_is_echoed_as_it_was_written(identity: bytes, fields: list[tuple[str, str]]) -> None:
    body = b'{"jsonrpc":"2.0","id":%b,"method":"ping","Method":"x"}' % identity
    with stage() as proxy:
        got = proxy.ask(post(body, *fields))
        assert got is not None
        assert got.body.startswith(b'{"jsonrpc":"2.0","id":%b,"error":{' % identity)


@pytest.mark.parametrize("identity", [b"null", b"true", b"[1]", b'{"a":1}'])
def test_an_id_that_is_none_is_not_echoed(identity: bytes) -> None:
    with stage() as proxy:
        got = proxy.ask(post(b'{"jsonrpc":"2.0","id":%b,"method":"ping","Method":"x"}' % identity))
        assert got is not None
        assert got.error["id"] is None


def test_the_upstreams_failure_carries_the_id_too() -> None:
    with stage(retry={"attempts": 1}) as proxy:
        proxy.loop.failures = [ConnectionRefusedError(111, "Connection refused")]
        got = proxy.ask(post(b'{"jsonrpc":"2.0","id":1.50,"method":"ping"}'))
        assert got is not None
        assert (got.status, got.code) == (502, -32603)
        assert b'"id":1.50,' in got.body
