"""What the mock server offers: tools, resources, prompts and completion, the same in both eras."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, Any

import anyio
from mcp.server.mcpserver import Context, Elicit, ElicitationResult, ListRoots, MCPServer, Resolve, Sample
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import Completion, CreateMessageResult, ListRootsResult, SamplingMessage, TextContent
from pydantic import BaseModel

from shadowcat.testing.mock_mcp.options import MockOptions

NAMES = ("Ada", "Alan", "Barbara", "Grace")
MAX_BIG = 64 * 1024 * 1024


@dataclass(slots=True)
class Calls:
    """Counts of the waiting tools (slow, stream): a cancellation is visible from outside."""

    running: int = 0
    finished: int = 0
    cancelled: int = 0


class Answer(BaseModel):
    """What `ask` wants from the user."""

    answer: str


def _question(question: str) -> Elicit[Answer]:
    return Elicit(question, Answer)


def _prompt(prompt: str) -> Sample:
    return Sample(
        [SamplingMessage(role="user", content=TextContent(type="text", text=prompt))], max_tokens=100
    )


def _roots() -> ListRoots:
    return ListRoots()


async def ask(question: str, reply: Annotated[ElicitationResult[Answer], Resolve(_question)]) -> str:
    """Ask the user a question (elicitation) and return the action and the answer."""
    return f"accept: {reply.data.answer}" if reply.action == "accept" else reply.action


async def sample(prompt: str, reply: Annotated[CreateMessageResult, Resolve(_prompt)]) -> str:
    """Have the client's model answer a prompt (sampling)."""
    return reply.content.text if isinstance(reply.content, TextContent) else reply.content.type


async def roots(reply: Annotated[ListRootsResult, Resolve(_roots)]) -> str:
    """List the client's roots."""
    return " ".join(str(root.uri) for root in reply.roots)


def echo(text: str) -> str:
    """Return the text."""
    return text


def add(a: int, b: int) -> int:
    """Add two integers."""
    return a + b


def error(message: str = "it failed as asked") -> str:
    """Fail with a tool error."""
    raise ToolError(message)


def big(size: int) -> str:
    """Return a text of this many bytes."""
    if not 0 <= size <= MAX_BIG:
        raise ToolError(f"size must be between 0 and {MAX_BIG}")
    return "x" * size


async def announce(ctx: Context) -> str:
    """Tell subscribers, on listen streams (modern) and the GET stream (legacy), that the tools changed."""
    await ctx.notify_tools_changed()
    await ctx.session.send_tool_list_changed()
    return "announced"


async def reconnect(ctx: Context) -> str:
    """Close this call's SSE stream before answering: the client resumes it by Last-Event-ID (legacy)."""
    await ctx.close_sse_stream()
    await anyio.sleep(0.2)
    return "resumed"


def build_server(options: MockOptions, calls: Calls) -> MCPServer[Any]:
    """Make the server; `calls` is updated as the waiting tools run."""
    server: MCPServer[Any] = MCPServer(
        options.name,
        version="1.0.0",
        instructions="A test server. Its tools do what their names say.",
        log_level="ERROR",
    )

    async def wait(seconds: float) -> None:
        calls.running += 1
        try:
            await anyio.sleep(seconds)
            calls.finished += 1
        except BaseException:
            calls.cancelled += 1
            raise
        finally:
            calls.running -= 1

    async def slow(seconds: float) -> str:
        """Answer after this many seconds."""
        await wait(seconds)
        return f"waited {seconds} s"

    async def stream(ctx: Context, count: int, interval: float = 0.1) -> str:
        """Send `count` progress notifications, `interval` seconds apart, each as it happens, then answer."""
        for number in range(1, count + 1):
            await ctx.report_progress(number, count, f"step {number} of {count}")
            await wait(interval)
        return f"sent {count}"

    def whoami(ctx: Context) -> dict[str, str]:
        """Name the server, its process, and the session that called."""
        session = (ctx.headers or {}).get("mcp-session-id", "")
        return {"server": options.name, "pid": str(os.getpid()), "session": session}

    for tool in (echo, add, slow, stream, error, big, whoami, ask, sample, roots, announce, reconnect):
        server.add_tool(tool, structured_output=None if tool in (add, whoami) else False)

    @server.resource("mock://greeting", mime_type="text/plain")
    def greeting() -> str:
        """A fixed text."""
        return f"Hello from {options.name}"

    @server.resource("mock://blob", mime_type="application/octet-stream")
    def blob() -> bytes:
        """All byte values, once each."""
        return bytes(range(256))

    @server.resource("mock://item/{number}", mime_type="text/plain")
    def item(number: str) -> str:
        """One of many items."""
        return f"item {number}"

    @server.prompt()
    def greet(name: str) -> str:
        """Greet somebody."""
        return f"Please greet {name}."

    @server.completion()  # type: ignore[no-untyped-call, untyped-decorator]  # the SDK does not annotate it
    async def complete(reference: Any, argument: Any, context: Any) -> Completion:
        del reference, context
        values = [name for name in NAMES if name.lower().startswith(argument.value.lower())]
        return Completion(values=values, total=len(values), has_more=False)

    return server
