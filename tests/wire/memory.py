"""A data plane without sockets: real connection objects on recording transports.

Nothing here waits, so that a message can be tried at every split of its bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from itertools import pairwise
from typing import Any, Literal, NamedTuple, cast

from shadowcat.proxy.assembly import assemble
from shadowcat.proxy.clients.downstream import ClientConnection
from shadowcat.proxy.wheel import Wheel
from shadowcat.shm.shared import Shared, worker_number

from .plane import build_config

Ending = Literal["open", "eof", "closed", "aborted"]
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class RecordingTransport:
    """Takes everything at once and remembers it."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.ending: Ending = "open"

    def write(self, data: bytes) -> None:
        assert self.ending == "open", f"write after {self.ending}"
        self.written += data

    def write_eof(self) -> None:
        self.ending = "eof"

    def close(self) -> None:
        self.ending = "closed"

    def abort(self) -> None:
        self.ending = "aborted"

    def is_closing(self) -> bool:
        return self.ending in ("closed", "aborted")

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 50000) if name in ("peername", "sockname") else None

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class _Loop:
    """The part of an event loop that is reached without sockets: time stands still, tasks run when told."""

    def __init__(self) -> None:
        self._tasks: list[Coroutine[Any, Any, None]] = []
        self._soon: list[Callable[[], None]] = []

    def time(self) -> float:
        return 1000.0

    def create_task(self, work: Coroutine[Any, Any, None]) -> Any:
        self._tasks.append(work)
        return self

    def call_soon(self, work: Callable[[], None]) -> None:
        self._soon.append(work)

    def add_done_callback(self, _: object) -> None:
        """A task that has ended is nobody's business here."""

    def turn(self) -> None:
        """Run what was started since the last turn, to its end."""
        while self._soon or self._tasks:
            while self._soon:
                self._soon.pop(0)()
            if self._tasks:
                with suppress(StopIteration):
                    self._tasks.pop(0).send(None)


class _Dialer:
    """Connects at once, to a recording transport."""

    def __init__(self) -> None:
        self.made: list[tuple[Any, RecordingTransport]] = []

    async def dial(self, factory: Callable[[], Any]) -> None:
        connection, transport = factory(), RecordingTransport()
        self.made.append((connection, transport))
        connection.connection_made(transport)


class Outcome(NamedTuple):
    """What one client connection led to."""

    upstream: bytes
    client: bytes
    ending: Ending
    """Of the client connection: "eof" is a last answer, then lingering."""
    upstream_ending: Ending


class MemoryPlane:
    """Runs byte streams through one data plane, each on fresh connections."""

    def __init__(self, **options: Any) -> None:
        config = build_config("http://127.0.0.1:3001/mcp", **options)
        self._shared = Shared.create(config)
        self._loop = _Loop()
        self.plane = assemble(config, self._shared, worker_number(0), cast("Any", self._loop))
        ((self._pool,),) = (route.pools for route in self.plane.routes)

    def close(self) -> None:
        self._shared.close()

    def run(
        self,
        request: Iterable[bytes],
        answer: Iterable[bytes] = (),
        *,
        each: bytes = b"",
        upstream_closes: bool = False,
    ) -> Outcome:
        """Feed a client's pieces, then an upstream's.

        Args:
            request: The client's reads.
            answer: The upstream's reads, all after the last of `request`.
            each: Answers every request at once, in one read.
            upstream_closes: FIN after `answer`.
        """
        dialer = _Dialer()
        self._pool._dialer = cast("Any", dialer)
        client, near = ClientConnection(self.plane), RecordingTransport()
        client.connection_made(cast("Any", near))
        answered = 0
        lost: RecordingTransport | None = None
        for piece in request:
            if near.is_closing():
                break
            client.data_received(piece)
            self._loop.turn()
            while each and dialer.made and len(dialer.made[-1][1].written) > answered:
                upstream, far = dialer.made[-1]
                answered = len(far.written)
                upstream.data_received(each)
                self._loop.turn()
        ending: Ending = "open"
        if dialer.made:
            upstream, far = dialer.made[-1]
            for piece in answer:
                if far.ending == "open":
                    upstream.data_received(piece)
            if upstream_closes and far.ending == "open":
                upstream.eof_received()
                upstream.connection_lost(None)
                lost = far
            ending = far.ending
        outcome = Outcome(
            b"".join(far.written for _, far in dialer.made), bytes(near.written), near.ending, ending
        )
        client.connection_lost(None)
        self.plane.abort()
        self._pool.close_idle()
        for connection, transport in dialer.made:
            if transport.ending != "open" and transport is not lost:
                connection.connection_lost(None)
        self._loop.turn()
        self.plane.wheel = Wheel(self.plane.clock())  # Time stands still: the old one would keep everything.
        return outcome


def cut(data: bytes, *at: int) -> list[bytes]:
    """Cut `data` at the given offsets."""
    return [data[start:end] for start, end in pairwise([0, *at, len(data)]) if start < end]


def every_split(
    data: bytes, most: int = 400, first: int = 1, last: int | None = None
) -> Iterable[list[bytes]]:
    """The bytes in two pieces, for every offset, and byte by byte.

    Args:
        data: The bytes.
        most: Of a message longer than this, only so many offsets are taken.
        first: Smallest offset.
        last: Largest offset.
    """
    step = max(1, len(data) // most)
    for at in range(first, min(len(data), (last or len(data)) + 1), step):
        yield cut(data, at)
    if step == 1:
        yield [data[at : at + 1] for at in range(len(data))]
