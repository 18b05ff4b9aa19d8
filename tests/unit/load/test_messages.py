from __future__ import annotations

import base64
import json
from typing import Any

import httptools
import pytest

from shadowcat.mcp.eras import VERSIONS, Era
from shadowcat.testing.load.messages import NEWEST, Messages, mirrored


class Parsed:
    def __init__(self, data: bytes) -> None:
        self.headers: dict[str, str] = {}
        self.body = b""
        self.complete = 0
        parser = httptools.HttpRequestParser(self)
        parser.feed_data(data)
        self.method = parser.get_method().decode()
        assert self.complete == 1

    def on_url(self, url: bytes) -> None:
        self.target = url.decode()

    def on_header(self, name: bytes, value: bytes) -> None:
        key = name.decode().lower()
        assert key not in self.headers
        self.headers[key] = value.decode("latin-1")

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.complete += 1

    @property
    def message(self) -> Any:
        return json.loads(self.body)


def messages(era: Era = Era.MODERN, **changes: Any) -> Messages:
    options: dict[str, Any] = {
        "authority": b"127.0.0.1:1",
        "path": "/a/mcp",
        "era": era,
        "tool": "echo",
        "arguments": {"text": 'quote " and "id":null'},
    }
    return Messages(**(options | changes))


def test_modern_call_mirrors_its_body() -> None:
    request = Parsed(messages().call(17))
    assert (request.method, request.target) == ("POST", "/a/mcp")
    assert request.headers["host"] == "127.0.0.1:1"
    assert request.headers["mcp-protocol-version"] == "2026-07-28"
    assert request.headers["mcp-method"] == request.message["method"] == "tools/call"
    assert request.headers["mcp-name"] == request.message["params"]["name"] == "echo"
    assert "mcp-session-id" not in request.headers
    meta = request.message["params"]["_meta"]
    assert meta["io.modelcontextprotocol/protocolVersion"] == "2026-07-28"
    assert meta["io.modelcontextprotocol/clientCapabilities"] == {}
    assert "progressToken" not in meta
    assert request.message["id"] == 17
    assert request.message["params"]["arguments"] == {"text": 'quote " and "id":null'}


def test_legacy_call_belongs_to_its_session() -> None:
    request = Parsed(messages(Era.LEGACY).call(5, b"abc"))
    assert request.headers["mcp-session-id"] == "abc"
    assert request.headers["mcp-protocol-version"] == NEWEST[Era.LEGACY]
    assert "mcp-method" not in request.headers
    assert "_meta" not in request.message["params"]


@pytest.mark.parametrize("era", list(Era))
@pytest.mark.parametrize("number", [1, 9, 10, 123456])
def test_each_call_has_its_own_id_and_progress_token(era: Era, number: int) -> None:
    built = messages(era, progress=True, arguments={"text": '"progressToken":null'})
    message = Parsed(built.call(number, b"s")).message
    assert message["id"] == number
    assert message["params"]["_meta"]["progressToken"] == number
    assert message["params"]["arguments"] == {"text": '"progressToken":null'}


def test_handshake() -> None:
    built = messages(Era.LEGACY)
    first = Parsed(built.initialize())
    assert first.message["method"] == "initialize"
    assert first.message["params"]["protocolVersion"] == NEWEST[Era.LEGACY]
    assert not {"mcp-session-id", "mcp-protocol-version"} & first.headers.keys()
    second = Parsed(built.initialized(b"abc"))
    assert second.message == {"jsonrpc": "2.0", "method": "notifications/initialized"}
    assert second.headers["mcp-session-id"] == "abc"
    last = Parsed(built.delete(b"abc"))
    assert (last.method, last.headers["mcp-session-id"]) == ("DELETE", "abc")


def test_further_headers_are_sent_with_every_request() -> None:
    built = messages(Era.LEGACY, headers=(("Authorization", "Bearer t"),))
    for data in (built.initialize(), built.initialized(b"s"), built.call(1, b"s"), built.delete(b"s")):
        assert Parsed(data).headers["authorization"] == "Bearer t"


@pytest.mark.parametrize("plain", ["echo", "a b", "x-y_z.1", "=?base64?x"])
def test_visible_ascii_is_mirrored_as_it_is(plain: str) -> None:
    assert mirrored(plain) == plain


@pytest.mark.parametrize("name", ["größe", " x", "x ", "a\nb", "", "=?base64?eA==?="])
def test_all_else_is_mirrored_in_base64(name: str) -> None:
    found = mirrored(name)
    assert found.startswith("=?base64?")
    assert found.endswith("?=")
    assert base64.b64decode(found[9:-2]).decode() == name


def test_speaks_only_published_versions() -> None:
    assert {version.encode() for version in NEWEST.values()} <= set(VERSIONS)
