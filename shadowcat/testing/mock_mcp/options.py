"""Settings of the mock MCP server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MockOptions:
    """How one mock server behaves.

    Attributes:
        name: Name in the implementation info, in `whoami` and on the state page: tells upstreams apart.
        json: Answer POSTs on /mcp with one JSON object instead of an SSE stream. /mcp/json and /mcp/sse
            are always there with a fixed kind of answer.
        stateless: Issue no sessions in the legacy era.
        control: Serve request capture and fault switches under /_control.
        keep_alive: Seconds an idle connection stays open (uvicorn's default is 5).
        session_idle: Seconds until an unused legacy session is forgotten; None for never.
        grace: Seconds that running requests get to finish after SIGTERM.
    """

    name: str = "mock"
    json: bool = False
    stateless: bool = False
    control: bool = False
    keep_alive: int = 5
    session_idle: float | None = 1800.0
    grace: int = 1
