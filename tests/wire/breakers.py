"""Upstreams that fail in every way, and what is left of a breaker's state for others to see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from shadowcat.config.model import Breaker
from shadowcat.config.units import Duration
from shadowcat.proxy.plane import DataPlane
from shadowcat.testing.loopback import Peer

from .sessions import caller_at
from .stage import MODERN, OK, STREAM, Got, Stage, chunk, message, post, split

NAME: Final = "a.example:3001"
FAILURES: Final = 3
OPEN_FOR: Final = 10
TRIALS: Final = 2
SECTION: Final = Breaker(
    consecutive_failures=FAILURES, open_for=Duration(OPEN_FOR), half_open_requests=TRIALS
)
CALL: Final = post(message(), MODERN)
LIST: Final = post(message("tools/list"), MODERN)
TIMES: Final = {"first_byte": 1, "request": 2, "detached": 1}

Failing = Callable[[Stage, Peer], None]


def status(line: str) -> bytes:
    """An answer with this status."""
    return f"HTTP/1.1 {line}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}".encode()


def asked(proxy: Stage, sent: bytes = CALL, plane: DataPlane | None = None) -> tuple[Peer, Peer | None]:
    """Send something over a client's own connection: the client, and the upstream's side if it got there."""
    client = caller_at(proxy, plane) if plane is not None else proxy.caller()
    proxy.tell(client, sent)
    busy = [each for each in proxy.upstreams if each.writes]
    for upstream in busy:
        upstream.take()
    assert len(busy) < 2
    return client, busy[0] if busy else None


def reset(proxy: Stage, upstream: Peer) -> None:
    upstream.reset()
    proxy.settle()


def succeed(proxy: Stage, upstream: Peer) -> None:
    upstream.send(OK)
    proxy.settle()


def answering(*pieces: bytes, ends: bool = False) -> Failing:
    """Answer with this, and break off."""

    def fail(proxy: Stage, upstream: Peer) -> None:
        upstream.send(*pieces)
        if ends:
            upstream.finish()
        proxy.settle()
        upstream.reset()
        proxy.settle()

    return fail


def keep_waiting(proxy: Stage, upstream: Peer) -> None:
    """Say nothing."""
    proxy.advance(2.3)


TRUNCATED: Final = answering(STREAM, chunk(b"data: 1\n\n"), ends=True)
"""An answer that begins well."""


def fail(proxy: Stage, plane: DataPlane | None = None, *, times: int = 1) -> None:
    """Send calls that are reset."""
    for _ in range(times):
        client, upstream = asked(proxy, plane=plane)
        assert upstream is not None
        reset(proxy, upstream)
        (got,) = split(client.take())
        assert got.status == 502
        client.abort()
        proxy.settle()


def opened(proxy: Stage) -> None:
    """Open the breaker."""
    fail(proxy, times=FAILURES)


def kept_away(proxy: Stage, sent: bytes = CALL, plane: DataPlane | None = None) -> Got | None:
    """What a client is told when its request goes to no upstream; None if it goes to one."""
    client, upstream = asked(proxy, sent, plane)
    if upstream is not None:
        client.abort()
        proxy.settle()
        upstream.reset()
        proxy.settle()
        return None
    (got,) = split(client.take())
    client.abort()
    proxy.settle()
    return got


def is_open(proxy: Stage, sent: bytes = CALL, plane: DataPlane | None = None) -> bool:
    """Whether the breaker refuses a request. If not, that request goes, and is taken back by its client."""
    dialled = len(proxy.loop.dialled)
    got = kept_away(proxy, sent, plane)
    if got is None:
        return False
    assert len(proxy.loop.dialled) == dialled
    assert (got.status, got.code) == (503, -32603)
    return True


def times_opened(proxy: Stage) -> int:
    """How often, by the metric of all workers."""
    cell = proxy._shared.layout.cell("breaker_opened_total", 0)
    return sum(proxy._shared.page(process).cells[cell] for process in range(proxy._shared.processes))


CUT_OFF = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\nabc", ends=True)
