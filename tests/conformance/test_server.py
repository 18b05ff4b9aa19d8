"""The conformance server as an SDK client sees it in both eras, so that a lost fixture shows at once."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mcp import Client, MCPError
from mcp.server.streamable_http import EventMessage
from mcp_types import (
    INVALID_PARAMS,
    JSONRPCNotification,
    TextContent,
    TextResourceContents,
)

from .events import RecentEvents
from .processes import announced


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    command = [sys.executable, "-m", "conformance.server"]
    with announced(command, tmp_path_factory.mktemp("server") / "server", environ) as ready:
        yield str(ready["url"])


@pytest.mark.parametrize(("mode", "version"), [("legacy", "2025-11-25"), ("2026-07-28", "2026-07-28")])
def test_fixtures_are_served_in_both_eras(url: str, mode: str, version: str) -> None:
    async def scenario() -> None:
        async with Client(url, mode=mode) as client:
            assert client.protocol_version == version
            tools = [tool.name for tool in (await client.list_tools()).tools]
            # http-header-validation calls the first tool of the list without arguments.
            assert tools[0] == "test_simple_text"
            assert len(tools) == len(set(tools)) == 28
            answer = await client.call_tool("test_simple_text")
            assert answer.content == [TextContent(text="This is a simple text response for testing.")]
            assert (await client.call_tool("test_error_handling")).is_error
            steps: list[float] = []

            async def on_progress(progress: float, total: float | None, message: str | None) -> None:
                assert (total, message) == (100, None)
                steps.append(progress)

            await client.call_tool("test_tool_with_progress", progress_callback=on_progress)
            assert steps == [0, 50, 100]
            read = await client.read_resource("test://template/123/data")
            assert isinstance(read.contents[0], TextResourceContents)
            assert "123" in read.contents[0].text
            with pytest.raises(MCPError) as refused:
                await client.read_resource("test://absent")
            assert (refused.value.code, refused.value.data) == (INVALID_PARAMS, {"uri": "test://absent"})
            assert len((await client.list_prompts()).prompts) == 5

    asyncio.run(scenario())


def test_replay_sends_what_followed_on_the_same_stream_only() -> None:
    def note(number: int) -> JSONRPCNotification:
        return JSONRPCNotification(jsonrpc="2.0", method=f"notifications/{number}")

    async def scenario() -> None:
        events = RecentEvents()
        first = await events.store_event("one", None)
        await events.store_event("two", note(1))
        await events.store_event("one", note(2))
        await events.store_event("one", None)
        await events.store_event("one", note(3))
        sent: list[EventMessage] = []

        async def collect(event: EventMessage) -> None:
            sent.append(event)

        assert await events.replay_events_after(first, collect) == "one"
        assert [event.message for event in sent] == [note(2), note(3)]
        assert await events.replay_events_after("99", collect) is None
        assert await events.replay_events_after("first", collect) is None
        assert len(sent) == 2

    asyncio.run(scenario())
