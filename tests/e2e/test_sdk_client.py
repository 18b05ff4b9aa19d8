"""The official SDK on both sides of the real supervisor: both eras, JSON and SSE."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from mcp import MCPError
from mcp.client import Client
from mcp_types import PromptReference, TextResourceContents

from shadowcat.testing.mock_mcp.client import MockProcess
from tests.e2e.harness import PATIENCE, SLACK, Shadowcat, eventually
from tests.e2e.sdk import CALLBACKS, ERAS, KINDS, LEGACY, MODERN, PlainServer, run, session, text_of
from tests.e2e.upstreams import header

TOOLS = {"echo", "add", "slow", "stream", "error", "big", "whoami", "ask", "sample", "roots"}
TOOLS |= {"announce", "reconnect"}


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
    routes = [
        {"path": "/mcp", "upstreams": [{"name": "one", "url": mock.url}]},
        {"path": "/plain", "upstreams": [{"url": plain.url}]},
    ]
    with Shadowcat({"routes": routes}) as running:
        yield running


@pytest.fixture(autouse=True)
def _fresh(mock: MockProcess) -> None:
    mock.control.clear()


def seen(mock: MockProcess, **conditions: Any) -> list[dict[str, Any]]:
    """The requests that reached the upstream and have these values."""
    return [
        request
        for request in mock.control.requests()
        if all(request[key] == value for key, value in conditions.items())
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", [*ERAS, "auto"])
def test_everything_a_client_asks_for(cat: Shadowcat, mock: MockProcess, mode: str, kind: str) -> None:
    async def use(client: Client) -> None:
        assert client.protocol_version == ("2025-11-25" if mode == LEGACY else MODERN)
        assert {tool.name for tool in (await client.list_tools()).tools} == TOOLS
        assert text_of(await client.call_tool("echo", {"text": "hé\n"})) == "hé\n"
        assert (await client.call_tool("add", {"a": 2, "b": 3})).structured_content == {"result": 5}
        failed = await client.call_tool("error", {"message": "as planned"})
        assert failed.is_error
        assert "as planned" in text_of(failed)
        big = text_of(await client.call_tool("big", {"size": 3_000_000}))
        assert (len(big), set(big)) == (3_000_000, {"x"})
        assert text_of(await client.call_tool("slow", {"seconds": 0.05})) == "waited 0.05 s"
        resources = (await client.list_resources()).resources
        assert [str(one.uri) for one in resources] == ["mock://greeting", "mock://blob"]
        templates = (await client.list_resource_templates()).resource_templates
        assert [one.uri_template for one in templates] == ["mock://item/{number}"]
        (item,) = (await client.read_resource("mock://item/7")).contents
        assert isinstance(item, TextResourceContents)
        assert item.text == "item 7"
        assert [one.name for one in (await client.list_prompts()).prompts] == ["greet"]
        prompt = await client.get_prompt("greet", {"name": "Bo"})
        assert prompt.messages[0].content.text == "Please greet Bo."
        completed = await client.complete(
            PromptReference(type="ref/prompt", name="greet"), {"name": "name", "value": "a"}
        )
        assert completed.completion.values == ["Ada", "Alan"]
        with pytest.raises(MCPError):
            await client.get_prompt("nothing-like-it")

    run(f"{cat.url}/mcp/{kind}", mode, use)
    calls = seen(mock, rpc_method="tools/call")
    assert [call["rpc_name"] for call in calls] == ["echo", "add", "error", "big", "slow"]
    assert {call["target"] for call in mock.control.requests()} == {f"/mcp/{kind}"}
    # The server judges the Host by its own name, and by the proxy's it would refuse.
    assert {header(call, "host") for call in calls} == {f"127.0.0.1:{mock.port}"}


@pytest.mark.parametrize("mode", ERAS)
def test_progress_arrives_as_it_is_sent(cat: Shadowcat, mock: MockProcess, mode: str) -> None:
    arrived: list[float] = []
    heard = asyncio.Event()

    async def progress(value: float, total: float | None, message: str | None) -> None:
        arrived.append(value)
        heard.set()

    async def use(client: Client) -> None:
        result = await client.call_tool("stream", {"count": 3, "interval": 0.1}, progress_callback=progress)
        assert text_of(result) == "sent 3"
        assert arrived == [1, 2, 3]
        # Of a call that would last longer than this whole test, so that nothing comes behind it.
        heard.clear()
        arguments = {"count": 1, "interval": 120.0}
        call = asyncio.create_task(client.call_tool("stream", arguments, progress_callback=progress))
        await heard.wait()
        assert arrived == [1, 2, 3, 1]
        assert not call.done()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    run(f"{cat.url}/mcp/sse", mode, use)
    eventually(lambda: mock.control.state()["running"] == 0, what="the end of the call")


@pytest.mark.parametrize("mode", ERAS)
def test_the_server_asks_back(cat: Shadowcat, mock: MockProcess, mode: str) -> None:
    async def use(client: Client) -> None:
        assert text_of(await client.call_tool("ask", {"question": "why"})) == "accept: re: why"
        assert text_of(await client.call_tool("sample", {"prompt": "sea"})) == "model on sea"
        assert text_of(await client.call_tool("roots", {})) == "file:///a file:///b"

    run(f"{cat.url}/mcp", mode, use, **CALLBACKS)
    # Legacy: three answers of the client, each a POST of its own beside the open call.
    answers = [call for call in seen(mock, method="POST") if "result" in json.loads(call["body"])]
    assert [call["status"] for call in answers] == ([202] * 3 if mode == LEGACY else [])


def test_legacy_get_stream_carries_announcements(cat: Shadowcat, mock: MockProcess) -> None:
    arrived = asyncio.Event()

    async def heard(message: Any) -> None:
        if getattr(message, "method", "") == "notifications/tools/list_changed":
            arrived.set()

    async def use(client: Client) -> None:
        await asyncio.to_thread(eventually, lambda: seen(mock, method="GET", status=200))
        for _ in range(2):
            arrived.clear()
            await client.call_tool("announce", {})
            await asyncio.wait_for(arrived.wait(), PATIENCE)

    run(f"{cat.url}/mcp", LEGACY, use, message_handler=heard)
    # The client has left; the server must learn it, or the next stream of the session would get 409.
    eventually(lambda: seen(mock, method="GET")[0]["outcome"], what="end of the upstream's GET stream")


def test_modern_subscription_carries_announcements(cat: Shadowcat, mock: MockProcess) -> None:
    async def use(client: Client) -> None:
        async with client.listen(tools_list_changed=True) as events:
            for _ in range(2):
                await client.call_tool("announce", {})
                assert "ToolsListChanged" in repr(await asyncio.wait_for(anext(aiter(events)), PATIENCE))

    run(f"{cat.url}/mcp", MODERN, use)
    (listen,) = seen(mock, rpc_method="subscriptions/listen")
    eventually(
        lambda: seen(mock, number=listen["number"])[0]["outcome"] == "client gone",
        what="end of the upstream's listen stream",
    )


def test_legacy_client_resumes_a_closed_stream(cat: Shadowcat, mock: MockProcess) -> None:
    async def use(client: Client) -> None:
        assert text_of(await client.call_tool("reconnect", {})) == "resumed"

    run(f"{cat.url}/mcp", LEGACY, use)
    resumptions = [call for call in seen(mock, method="GET") if header(call, "last-event-id")]
    assert [call["status"] for call in resumptions] == [200]
    assert len(seen(mock, rpc_name="reconnect")) == 1


def test_legacy_session_ends_with_delete(cat: Shadowcat, mock: MockProcess) -> None:
    async def use(client: Client) -> None:
        await client.list_tools()
        # The stream that it asks for by itself is not to come behind its farewell.
        await asyncio.to_thread(eventually, lambda: seen(mock, method="GET", status=200))

    run(f"{cat.url}/mcp", LEGACY, use)
    calls = mock.control.requests()
    assert (calls[-1]["method"], calls[-1]["status"]) == ("DELETE", 200)
    ids = {header(call, "mcp-session-id") for call in calls[1:]}
    assert len(ids) == 1
    assert None not in ids


def test_modern_cancellation_reaches_the_server(cat: Shadowcat, mock: MockProcess) -> None:
    before = mock.control.state()["cancelled"]

    async def use(client: Client) -> None:
        call = asyncio.create_task(client.call_tool("slow", {"seconds": 30}))
        await asyncio.to_thread(eventually, lambda: mock.control.state()["running"] == 1)
        call.cancel()
        await asyncio.to_thread(
            eventually, lambda: mock.control.state()["cancelled"] == before + 1, SLACK, "cancellation"
        )
        with pytest.raises(asyncio.CancelledError):
            await call
        # The client goes on with other calls.
        assert text_of(await client.call_tool("echo", {"text": "on"})) == "on"

    run(f"{cat.url}/mcp", MODERN, use)
    assert mock.control.state()["running"] == 0


def test_many_clients_of_both_eras_at_once(cat: Shadowcat) -> None:
    accepted = [worker["connections_accepted"] for worker in cat.status()["workers"]]

    async def one(number: int) -> None:
        async def use(client: Client) -> None:
            calls = [client.call_tool("echo", {"text": f"{number}.{call}"}) for call in range(5)]
            assert [text_of(result) for result in await asyncio.gather(*calls)] == [
                f"{number}.{call}" for call in range(5)
            ]

        await session(f"{cat.url}/mcp/{KINDS[number // 2 % 2]}", ERAS[number % 2], use)

    async def all_of_them() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(12):
                group.create_task(one(number))

    asyncio.run(all_of_them())
    # The connections of a session were served by both workers.
    for worker, before in zip(cat.status()["workers"], accepted, strict=True):
        assert worker["connections_accepted"] > before


@pytest.mark.parametrize("mode", [*ERAS, "auto"])
def test_a_plain_sdk_server(cat: Shadowcat, mode: str) -> None:
    async def use(client: Client) -> None:
        assert client.protocol_version == ("2025-11-25" if mode == LEGACY else MODERN)
        if mode != MODERN:  # pinned to a version, the client asks for nothing before its first call
            assert client.server_info is not None
            assert client.server_info.name == "plain"
        assert [tool.name for tool in (await client.list_tools()).tools] == ["shout"]
        result = await client.call_tool("shout", {"text": "quiet"})
        assert result.structured_content == {"result": "QUIET"}

    run(f"{cat.url}/plain", mode, use)
