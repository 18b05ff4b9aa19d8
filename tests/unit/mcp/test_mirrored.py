"""Mirrored headers against the body."""

from __future__ import annotations

import base64
import json

import pytest

from shadowcat.mcp.envelope import Envelope, peek
from shadowcat.mcp.mirrored import Disagreement, Mirrored, decode_value, find_disagreement

VERSION = "io.modelcontextprotocol/protocolVersion"


def request(method: str = "tools/call", name: str | None = "echo", *, is_request: bool = True) -> Envelope:
    key = {"resources/read": "uri", "tasks/get": "taskId"}.get(method, "name")
    params = {"_meta": {VERSION: "2026-07-28"}} | ({} if name is None else {key: name})
    return peek(json.dumps({"method": method, "params": params} | ({"id": 1} if is_request else {})).encode())


def encoded(text: str) -> bytes:
    return b"=?base64?" + base64.b64encode(text.encode()) + b"?="


@pytest.mark.parametrize(
    ("method", "name", "header"),
    [
        ("tools/call", "echo", b"echo"),
        ("tools/call", "echo", b" \techo\t "),
        ("tools/call", "echo", encoded("echo")),
        ("tools/call", "é😀", encoded("é😀")),
        ("tools/call", "", encoded("")),
        ("tools/call", "=?base64?ZWNobw==?=", encoded("=?base64?ZWNobw==?=")),
        ("tools/call", "=?base64?x", b"=?base64?x"),
        ("tools/call", "x?=", b"x?="),
        ("tools/call", "=?BASE64?ZWNobw==?=", b"=?BASE64?ZWNobw==?="),
        ("resources/read", "file:///a", b"file:///a"),
        ("tasks/get", "t-1", b"t-1"),
        ("tools/list", None, b"anything"),
        ("tools/call", None, b"echo"),
    ],
)
def test_headers_that_agree(method: str, name: str | None, header: bytes) -> None:
    headers = Mirrored((b"2026-07-28",), (method.encode(),), (header,))
    assert find_disagreement(request(method, name), headers) is None


def test_missing_headers_are_the_servers_business() -> None:
    assert find_disagreement(request(), Mirrored()) is None


@pytest.mark.parametrize(
    ("headers", "wrong"),
    [
        (Mirrored(version=(b"2026-07-29",)), Disagreement.VERSION),
        (Mirrored(version=(b"2026-07-28", b"2026-07-28")), Disagreement.VERSION_REPEATED),
        (Mirrored(method=(b"tools/list",)), Disagreement.METHOD),
        (Mirrored(method=(b"Tools/Call",)), Disagreement.METHOD),
        (Mirrored(method=(b"",)), Disagreement.METHOD),
        (Mirrored(method=(b"tools/call", b"tools/call")), Disagreement.METHOD_REPEATED),
        (Mirrored(name=(b"Echo",)), Disagreement.NAME),
        (Mirrored(name=(b"",)), Disagreement.NAME),
        (Mirrored(name=(b'"echo"',)), Disagreement.NAME),
        (Mirrored(name=(b"echo", b"echo")), Disagreement.NAME_REPEATED),
        (Mirrored(name=(encoded("other"),)), Disagreement.NAME),
        (Mirrored(name=(b"=?base64?ZWNobw?=",)), Disagreement.NAME_ENCODING),
        (Mirrored(name=(b"=?base64?ZWNobw===?=",)), Disagreement.NAME_ENCODING),
        (Mirrored(name=(b"=?base64?ZWNobx==?=",)), Disagreement.NAME_ENCODING),
        (Mirrored(name=(b"=?base64?ZWN obw==?=",)), Disagreement.NAME_ENCODING),
        (Mirrored(name=(b"=?base64?ZWNobw==\n?=",)), Disagreement.NAME_ENCODING),
        (Mirrored(name=(b"=?base64?ZWN-bw==?=",)), Disagreement.NAME_ENCODING),
        (Mirrored(name=(b"=?base64?/w==?=",)), Disagreement.NAME_ENCODING),
        (Mirrored(name=(b"=?base64?7aCA?=",)), Disagreement.NAME_ENCODING),
    ],
)
def test_headers_that_disagree(headers: Mirrored, wrong: Disagreement) -> None:
    assert find_disagreement(request(), headers) is wrong


def test_a_name_that_looks_encoded_must_be_encoded() -> None:
    headers = Mirrored(name=(b"=?base64?ZWNobw==?=",))
    assert find_disagreement(request(name="=?base64?ZWNobw==?="), headers) is Disagreement.NAME


def test_nothing_is_enforced_on_notifications_and_responses() -> None:
    headers = Mirrored((b"1", b"2"), (b"x", b"y"), (b"=?base64?!?=",))
    assert find_disagreement(request("tools/call", is_request=False), headers) is None
    assert find_disagreement(peek(b'{"id":1,"result":{}}'), headers) is None


def test_a_body_without_a_version_claim_is_the_servers_business() -> None:
    headers = Mirrored((b"2026-07-28",), (b"ping",), ())
    assert find_disagreement(peek(b'{"id":1,"method":"ping"}'), headers) is None


@pytest.mark.parametrize(
    ("value", "decoded"),
    [(b"=?base64?=", b"=?base64?="), (b"=?base64??=", b""), (b"?=", b"?="), (b"", b""), (b"\xff", b"\xff")],
)
def test_what_is_no_sentinel_stands_for_itself(value: bytes, decoded: bytes) -> None:
    assert decode_value(value) == decoded
