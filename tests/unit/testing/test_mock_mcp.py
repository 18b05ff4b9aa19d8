"""The mock MCP server as a client of the official SDK sees it, in both eras."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import (
    CreateMessageResult,
    ElicitResult,
    ListRootsResult,
    PromptReference,
    Root,
    TextContent,
    TextResourceContents,
)

from shadowcat.testing.mock_mcp.options import MockOptions
from shadowcat.testing.mock_mcp.server import MockMcpServer

LEGACY, MODERN = "legacy", "2026-07-28"
TOOLS = {"echo", "add", "slow", "stream", "error", "big", "whoami", "ask", "sample", "roots"}
TOOLS |= {"announce", "reconnect"}


@pytest.fixture(scope="module")
def server() -> Iterator[MockMcpServer]:
    with MockMcpServer(MockOptions(name="one", control=True)) as running:
        yield running


@pytest.fixture(autouse=True)
def _fresh(server: MockMcpServer) -> None:
    server.capture.clear()


def text_of(result: Any) -> str:
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


async def elicit(context: Any, params: Any) -> ElicitResult:
    return ElicitResult(action="accept", content={"answer": f"re: {params.message}"})


async def sampling(context: Any, params: Any) -> CreateMessageResult:
    content = TextContent(type="text", text=f"model on {params.messages[0].content.text}")
    return CreateMessageResult(role="assistant", content=content, model="m")


async def roots(context: Any) -> ListRootsResult:
    return ListRootsResult(roots=[Root(uri="file:///a"), Root(uri="file:///b")])


def run(url: str, mode: str, use: Callable[[Client], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        transport = streamable_http_client(url)
        async with asyncio.timeout(10), Client(transport, mode=mode, cache=None, **options) as client:
            await use(client)

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["json", "sse"])
@pytest.mark.parametrize("mode", [LEGACY, MODERN, "auto"])
def test_everything_that_needs_no_back_channel(server: MockMcpServer, mode: str, kind: str) -> None:
    async def use(client: Client) -> None:
        assert client.protocol_version == ("2025-11-25" if mode == LEGACY else MODERN)
        assert {tool.name for tool in (await client.list_tools()).tools} == TOOLS
        assert text_of(await client.call_tool("echo", {"text": "hé\n"})) == "hé\n"
        added = await client.call_tool("add", {"a": 2, "b": 3})
        assert added.structured_content == {"result": 5}
        who = (await client.call_tool("whoami", {})).structured_content
        assert who is not None
        assert who["server"] == "one"
        assert bool(who["session"]) == (mode == LEGACY)
        failed = await client.call_tool("error", {"message": "as planned"})
        assert failed.is_error
        assert "as planned" in text_of(failed)
        assert len(text_of(await client.call_tool("big", {"size": 300_000}))) == 300_000
        assert text_of(await client.call_tool("slow", {"seconds": 0.01})) == "waited 0.01 s"
        assert [str(one.uri) for one in (await client.list_resources()).resources] == [
            "mock://greeting",
            "mock://blob",
        ]
        (item,) = (await client.read_resource("mock://item/7")).contents
        assert isinstance(item, TextResourceContents)
        assert item.text == "item 7"
        assert [one.name for one in (await client.list_prompts()).prompts] == ["greet"]
        greeting = (await client.get_prompt("greet", {"name": "Bo"})).messages[0].content
        assert isinstance(greeting, TextContent)
        assert greeting.text == "Please greet Bo."
        completed = await client.complete(
            PromptReference(type="ref/prompt", name="greet"), {"name": "name", "value": "a"}
        )
        assert completed.completion.values == ["Ada", "Alan"]

    run(f"{server.url}/{kind}", mode, use)
    answers = [
        entry for entry in server.capture.requests if entry.rpc_method == "tools/call" and entry.status == 200
    ]
    assert len(answers) == 6


@pytest.mark.parametrize("mode", [LEGACY, MODERN])
def test_progress_arrives_as_it_is_sent(server: MockMcpServer, mode: str) -> None:
    async def use(client: Client) -> None:
        seen: asyncio.Queue[float] = asyncio.Queue()

        async def progress(value: float, total: float | None, message: str | None) -> None:
            seen.put_nowait(value)

        def call(count: int, interval: float) -> asyncio.Task[Any]:
            given = {"count": count, "interval": interval}
            return asyncio.create_task(client.call_tool("stream", given, progress_callback=progress))

        assert text_of(await call(3, 0.05)) == "sent 3"
        assert [await seen.get() for _ in range(3)] == [1, 2, 3]
        waiting = call(2, 60)
        assert await seen.get() == 1  # Long before the answer.
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    run(server.url, mode, use)
    server.wait_until(lambda: server.calls.running == 0, "no running call")


@pytest.mark.parametrize("mode", [LEGACY, MODERN])
def test_the_server_asks_back(server: MockMcpServer, mode: str) -> None:
    async def use(client: Client) -> None:
        assert text_of(await client.call_tool("ask", {"question": "why"})) == "accept: re: why"
        assert text_of(await client.call_tool("sample", {"prompt": "sea"})) == "model on sea"
        assert text_of(await client.call_tool("roots", {})) == "file:///a file:///b"

    run(
        server.url,
        mode,
        use,
        elicitation_callback=elicit,
        sampling_callback=sampling,
        list_roots_callback=roots,
    )


def test_legacy_get_stream_carries_announcements(server: MockMcpServer) -> None:
    async def use(client: Client) -> None:
        await asyncio.to_thread(
            server.wait_until,
            lambda: any((got.method, got.status) == ("GET", 200) for got in server.capture.requests),
            "the stream",
        )
        await client.call_tool("announce", {})
        await arrived.wait()

    arrived = asyncio.Event()

    async def heard(message: Any) -> None:
        if getattr(message, "method", "") == "notifications/tools/list_changed":
            arrived.set()

    run(server.url, LEGACY, use, message_handler=heard)


def test_modern_listen_stream_carries_announcements(server: MockMcpServer) -> None:
    async def use(client: Client) -> None:
        async with client.listen(tools_list_changed=True) as events:
            await client.call_tool("announce", {})
            assert "ToolsListChanged" in repr(await anext(aiter(events)))

    run(server.url, MODERN, use)


def test_legacy_client_resumes_a_closed_stream(server: MockMcpServer) -> None:
    async def use(client: Client) -> None:
        assert text_of(await client.call_tool("reconnect", {})) == "resumed"

    run(server.url, LEGACY, use)
    resumed = [got for got in server.capture.requests if got.header("last-event-id")]
    assert [got.method for got in resumed] == ["GET"]


def test_legacy_session_is_deleted_at_the_end_and_then_unknown(server: MockMcpServer) -> None:
    async def use(client: Client) -> None:
        await client.list_tools()

    run(server.url, LEGACY, use)
    last = server.capture.requests[-1]
    assert (last.method, last.status) == ("DELETE", 200)


def test_cancelled_modern_call_is_counted(server: MockMcpServer) -> None:
    before = server.calls.cancelled

    async def use(client: Client) -> None:
        call = asyncio.create_task(client.call_tool("slow", {"seconds": 30}))
        await asyncio.to_thread(server.wait_until, lambda: server.calls.running == 1, "a running call")
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    run(server.url, MODERN, use)
    server.wait_until(lambda: server.calls.cancelled == before + 1, "the cancellation")
    server.wait_until(lambda: server.calls.running == 0, "no running call")
    server.wait_until(lambda: server.capture.requests[-1].outcome == "client gone", "the outcome")


def test_options_json_and_stateless() -> None:
    async def use(client: Client) -> None:
        assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"

    with MockMcpServer(MockOptions(name="two", json=True, stateless=True, control=True)) as server:
        run(server.url, LEGACY, use)
        assert not any(got.header("mcp-session-id") for got in server.capture.requests)
