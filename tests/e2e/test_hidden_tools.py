"""Hidden tools as the official SDK sees them: they are on no list, and as unknown as one that never was."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest
from mcp.client import Client

from shadowcat.testing.mock_mcp.client import MockProcess
from tests.e2e.harness import Shadowcat, eventually
from tests.e2e.sdk import ERAS, KINDS, LEGACY, PlainServer, run, text_of

HIDDEN = ("echo", "slow", "stream")
TOOLS = {"add", "error", "big", "whoami", "ask", "sample", "roots", "announce", "reconnect"}
NEVER = "no_such_tool"


@pytest.fixture(scope="module")
def mock() -> Iterator[MockProcess]:
    with MockProcess("--name=one") as process:
        yield process


@pytest.fixture(scope="module")
def plain() -> Iterator[PlainServer]:
    with PlainServer() as server:
        yield server


@pytest.fixture(scope="module")
def cat(mock: MockProcess, plain: PlainServer) -> Iterator[Shadowcat]:
    tools = {"deny": ["s[lt]*", "echo"]}
    routes = [
        {"path": "/mcp", "upstreams": [{"name": "one", "url": mock.url}], "policy": {"tools": tools}},
        {"path": "/open", "upstreams": [{"name": "one", "url": mock.url}]},
        {"path": "/plain", "upstreams": [{"url": plain.url}], "policy": {"tools": {"allow": ["whisper"]}}},
    ]
    with Shadowcat({"routes": routes}) as running:
        yield running


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ERAS)
def test_a_hidden_tool_is_one_that_never_was(cat: Shadowcat, mock: MockProcess, mode: str, kind: str) -> None:
    mock.control.clear()

    async def use(client: Client) -> None:
        listed = await client.list_tools()
        assert {tool.name for tool in listed.tools} == TOOLS
        if mode != LEGACY:
            assert listed.cache_scope == "private"
        never = await client.call_tool(NEVER, {"text": "x"})
        for name in HIDDEN:
            hidden = await client.call_tool(name, {"text": "x"})
            assert hidden.is_error
            assert (text_of(hidden), hidden.structured_content) == (f"Unknown tool: {name}", None)
            same = hidden.model_dump(exclude={"meta"})
            same["content"][0]["text"] = same["content"][0]["text"].replace(name, NEVER)
            assert same == never.model_dump(exclude={"meta"})
        assert (await client.call_tool("add", {"a": 2, "b": 3})).structured_content == {"result": 5}

    run(f"{cat.url}/mcp/{kind}", mode, use)
    calls = [each["rpc_name"] for each in mock.control.requests() if each["rpc_method"] == "tools/call"]
    assert calls == [NEVER, "add"]


@pytest.mark.parametrize("mode", ERAS)
def test_with_an_sdk_server_alone(cat: Shadowcat, mode: str) -> None:
    async def use(client: Client) -> None:
        assert (await client.list_tools()).tools == []
        assert text_of(await client.call_tool("shout", {"text": "x"})) == "Unknown tool: shout"

    run(f"{cat.url}/plain", mode, use)


@pytest.mark.parametrize("mode", ERAS)
def test_other_routes_show_everything(cat: Shadowcat, mode: str) -> None:
    async def use(client: Client) -> None:
        assert {tool.name for tool in (await client.list_tools()).tools} == TOOLS | set(HIDDEN)
        assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"

    run(f"{cat.url}/open", mode, use)


def ask(cat: Shadowcat, message: dict[str, Any], **fields: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(*cat.address, timeout=30)
    try:
        accepts = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        connection.request("POST", "/mcp/json", json.dumps(message), accepts | fields)
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.headers.items()}
        return response.status, headers, response.read()
    finally:
        connection.close()


def test_on_the_wire_the_two_answers_are_the_same(cat: Shadowcat) -> None:
    opening = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "t", "version": "1"},
        },
    }
    session = ask(cat, opening)[1]["mcp-session-id"]
    answers = []
    for name in (HIDDEN[0], NEVER):
        call = {"jsonrpc": "2.0", "id": "x\u00e9", "method": "tools/call", "params": {"name": name}}
        status, headers, body = ask(cat, call, **{"Mcp-Session-Id": session})
        kept = {key: headers.get(key) for key in ("content-type", "mcp-session-id")}
        message = json.loads(body.replace(name.encode(), b"NAME"))
        answers.append((status, kept, message))
    assert answers[0] == answers[1]
    assert answers[0][0] == 200


def test_it_is_seen_from_the_outside(cat: Shadowcat) -> None:
    def refused() -> int:
        lines = cat.admin("/metrics")[1].decode().splitlines()
        name = 'shadowcat_refusals_total{reason="unknown_tool"'
        return sum(int(float(line.split()[-1])) for line in lines if line.startswith(name))

    before = refused()
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": HIDDEN[0]}}
    assert ask(cat, call)[0] == 200
    eventually(lambda: refused() == before + 1, what="the refusal in the metrics")
