"""Limits as a test writes them, and what a client is told beyond them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from shadowcat.config.model import Limits, RouteLimits
from shadowcat.config.units import Limit
from shadowcat.shm.limiter import Tier
from shadowcat.shm.locks import Locks
from shadowcat.testing.loopback import Peer

from .sessions import answer
from .stage import OK, Got, Stage, message, split

MODERN_CALL = (("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/call"), ("Mcp-Name", "echo"))
CALL = message(version="2026-07-28")


def host(**limits: str) -> Limits:
    """Those of the host."""
    if "global" in limits:
        limits["global_"] = limits.pop("global")
    return Limits(capacity=1024, **{key: Limit(text) for key, text in limits.items()})


def own(per_tool: dict[str, str] | None = None, **limits: str) -> RouteLimits:
    """Those of the route."""
    tools = {glob: Limit(text) for glob, text in (per_tool or {}).items()}
    return RouteLimits(per_tool=tools, **{key: Limit(text) for key, text in limits.items()})


def begin(proxy: Stage, client: Peer, sent: bytes) -> Got | None:
    """The proxy's own answer; None if an upstream has the request, which is left open."""
    proxy.tell(client, sent)
    answers = split(client.take())
    return answers[0] if answers else None


def finish(proxy: Stage, reply: bytes = OK) -> None:
    """Let upstreams answer all that they have got."""
    for upstream in proxy.upstreams:
        if upstream.writes and not upstream.is_closing():
            upstream.take()
            upstream.send(reply)
    proxy.settle()


def ask(proxy: Stage, sent: bytes, client: Peer | None = None, *, peer: str = "127.0.0.1") -> Got:
    """The answer, an upstream's or the proxy's own."""
    caller = client or proxy.caller(peer)
    got = begin(proxy, caller, sent)
    if got is None:
        finish(proxy, answer())
        answers = split(caller.take())
        got = answers[0]
    if client is None:
        caller.abort()
        proxy.settle()
    return got


def statuses(proxy: Stage, sent: bytes, times: int, **how: Any) -> list[int]:
    """The answers to the same request, on connections of their own."""
    return [ask(proxy, sent, **how).status for _ in range(times)]


@contextmanager
def held(proxy: Stage, tier: Tier) -> Iterator[None]:
    """Another process has all buckets of a tier, and does not move."""
    tables = proxy.plane.limits.limiter._tables
    other = Locks(proxy._shared._region)
    start = tables.area.offset + tables.starts[tier] * 128
    for bucket in range(tables.buckets[tier]):
        other.acquire(start + bucket * 128)
    try:
        yield
    finally:
        other.close()
