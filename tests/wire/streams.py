"""GET streams of sessions at two workers, and the mail between these."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from shadowcat.proxy.plane import DataPlane
from shadowcat.shm.mailboxes import Mail
from shadowcat.shm.shared import worker_number
from shadowcat.testing.loopback import Peer

from .sessions import event, named, sibling
from .stage import STREAM, Stage, bare, split, stage

HELLO: Final = event(b'{"jsonrpc":"2.0","method":"notifications/message"}')
LAST: Final = b"0\r\n\r\n"
PATIENCE: Final = 0.6
"""Seconds, a tick included, after which a GET does not wait any more for the one before."""
SETTLE: Final = 0.1
"""Seconds, a tick included, after which a server is taken to have noticed that a stream was closed."""
LOOK: Final = 1.2
"""Seconds within which a worker finds out by itself."""


@contextmanager
def alone(**options: Any) -> Iterator[Stage]:
    """One worker; checks that nothing fails in its loop."""
    errors: list[object] = []
    with stage(**options) as proxy:
        proxy.loop.set_exception_handler(lambda _, context: errors.append(context))
        yield proxy
    assert errors == []


@contextmanager
def pair(**options: Any) -> Iterator[tuple[Stage, DataPlane]]:
    """Two workers; checks that they forget all streams, too."""
    with alone(workers=2, **options) as proxy:
        other = sibling(proxy)
        other.start()
        proxy.advance(0.3)  # The next look at what is open comes a second after the first.
        yield proxy, other
        for plane in (proxy.plane, other):
            plane.abort()
        proxy.settle()
        other.stop()
        assert proxy.plane.streams._carried == other.streams._carried == {}


def deliver(proxy: Stage, other: DataPlane) -> None:
    """Let both workers read their mail, until there is none, and servers notice what was closed."""
    planes = {worker_number(0): proxy.plane, worker_number(1): other}
    mail = proxy._shared.mail
    while received := [(number, entry) for number in planes for entry in mail.receive(number)]:
        for number, (_, kind, slot) in received:
            work = {
                Mail.END_STREAM: planes[number].end_stream,
                Mail.WAKE: planes[number].wake,
                Mail.MAKE_ROOM: planes[number].make_room,
            }
            work[kind](slot)
        proxy.settle()
    proxy.advance(SETTLE)


def lose_mail(proxy: Stage) -> None:
    for number in (0, 1):
        proxy._shared.mail.receive(worker_number(number))


def get(session: str, last: str | None = None) -> bytes:
    return bare("GET", named(session), *([("Last-Event-ID", last)] if last is not None else []))


def asked(proxy: Stage) -> list[Peer]:
    """The upstream connections with a request that nobody has looked at."""
    return [each for each in proxy.upstreams if each.writes]


def opened(proxy: Stage, client: Peer, session: str, last: str | None = None) -> Peer:
    """Open a stream that is sent on at once; the upstream's side of it."""
    proxy.tell(client, get(session, last))
    return accepted(proxy, client)


def took_over(proxy: Stage, client: Peer, session: str, last: str | None = None) -> Peer:
    """Open a stream where another one of the same worker has to give way."""
    proxy.tell(client, get(session, last))
    assert asked(proxy) == []
    proxy.advance(SETTLE)
    return accepted(proxy, client)


def accepted(proxy: Stage, client: Peer) -> Peer:
    """Let the upstream accept the GET that it has got."""
    (upstream,) = asked(proxy)
    (request,) = split(upstream.take())
    assert request.start[0] == "GET"
    assert request.header("Mcp-Session-Id") == "up-1"
    upstream.send(STREAM, HELLO)
    proxy.settle()
    assert client.take().endswith(HELLO)
    return upstream


def carries(proxy: Stage, client: Peer, upstream: Peer) -> bool:
    """Whether what the upstream sends arrives."""
    upstream.send(HELLO)
    proxy.settle()
    return client.take() == HELLO


def status(client: Peer) -> int:
    (got,) = split(client.take())
    return got.status
