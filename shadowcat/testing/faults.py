"""A TCP proxy that spoils traffic, with toxiproxy's toxics under toxiproxy's names.

    with FaultProxy(upstream_port) as proxy:
        proxy.add(Latency(0.2, stream="upstream"))
        ...                                            # talk to proxy.port
        proxy.clear()
        proxy.down()

Units differ from toxiproxy's: seconds and bytes. Toxics apply, in the order added, to open and new
connections alike.
"""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar

from shadowcat.testing.listener import close_listener
from shadowcat.testing.wire import linger_zero

Direction = Literal["upstream", "downstream"]
_READ: Final = 65536
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Toxic:
    """`stream`: upstream is client to server, downstream server to client."""

    stream: Direction = "downstream"


@dataclass(frozen=True, slots=True)
class Latency(_Toxic):
    """Delay all data by `latency` seconds, give or take `jitter`."""

    latency: float
    jitter: float = 0.0


@dataclass(frozen=True, slots=True)
class Bandwidth(_Toxic):
    """Let `rate` bytes per second through."""

    rate: float


@dataclass(frozen=True, slots=True)
class SlowClose(_Toxic):
    """Pass a FIN on after `delay` seconds."""

    delay: float


@dataclass(frozen=True, slots=True)
class Timeout(_Toxic):
    """Drop all data, and close after `timeout` seconds; 0 means never."""

    timeout: float = 0.0


@dataclass(frozen=True, slots=True)
class ResetPeer(_Toxic):
    """Send RST to both sides after `timeout` seconds."""

    timeout: float = 0.0


@dataclass(frozen=True, slots=True)
class Slicer(_Toxic):
    """Cut data into pieces of `average_size` bytes, give or take `size_variation`, `delay` seconds apart."""

    average_size: int
    size_variation: int = 0
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class LimitData(_Toxic):
    """Close after `bytes` bytes on a connection."""

    bytes: int


Toxic = Latency | Bandwidth | SlowClose | Timeout | ResetPeer | Slicer | LimitData


class FaultProxy:
    """Forwards 127.0.0.1:`port` to a loopback port, on a thread of its own.

    Args:
        upstream_port: Where to connect to for every accepted connection.
        seed: For jitter and slice sizes.
    """

    def __init__(self, upstream_port: int, seed: int = 0) -> None:
        self.upstream_port = upstream_port
        self.toxics: tuple[Toxic, ...] = ()
        self.random = random.Random(seed)  # noqa: S311 - reproducible, not secret
        self.links: set[_Link] = set()
        self.accepted = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        """One for each connection, from before its link is made."""
        # Bound for good and never listening: nobody else gets the port while the proxy is down.
        self._reservation = socket.socket()
        self._reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reservation.bind(("127.0.0.1", 0))
        self.port: int = self._reservation.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._reservation.close()

    def add(self, toxic: Toxic) -> None:
        """Apply a toxic from now on."""
        self._call(lambda: self._add(toxic))

    def clear(self) -> None:
        """Remove all toxics. What they already hold back goes on as they decided."""
        self._call(lambda: setattr(self, "toxics", ()))

    def up(self) -> None:
        """Accept connections (the initial state)."""
        self._run(self._listen())

    def down(self) -> None:
        """Refuse new connections and abort the open ones."""
        self._run(self._shut())

    def _add(self, toxic: Toxic) -> None:
        self.toxics += (toxic,)
        for link in self.links:
            link.arm(toxic)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, backlog=1024)

    async def _shut(self) -> None:
        if self._server is not None:
            server, self._server = self._server, None
            await close_listener(server)
        for link in list(self.links):
            link.reset()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.upstream_port)
        except (OSError, asyncio.CancelledError):
            linger_zero(writer.get_extra_info("socket"))
            writer.transport.abort()
            return
        link = _Link(self, (reader, writer), (far_reader, far_writer), task)
        self.links.add(link)
        try:
            await link.run()
        finally:
            self.links.discard(link)

    def _call(self, function: Callable[[], object]) -> None:
        async def call() -> None:
            function()

        self._run(call())

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)


class _Link:
    """One client connection with its upstream connection."""

    def __init__(
        self,
        proxy: FaultProxy,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        task: asyncio.Task[Any],
    ) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._timers: list[asyncio.TimerHandle] = []
        self._task = task
        self._loop = asyncio.get_running_loop()
        for toxic in proxy.toxics:
            self.arm(toxic)

    def arm(self, toxic: Toxic) -> None:
        """Start the clock of a toxic that ends connections by itself."""
        match toxic:
            case ResetPeer(timeout):
                self._timers.append(self._loop.call_later(timeout, self._expire, toxic, self.reset))
            case Timeout(timeout) if timeout:
                self._timers.append(self._loop.call_later(timeout, self._expire, toxic, self.close))

    def _expire(self, toxic: Toxic, end: Callable[[], None]) -> None:
        if toxic in self._proxy.toxics:
            end()

    async def run(self) -> None:
        """Pump both ways until both sides have ended."""
        try:
            await asyncio.gather(
                self._pump("upstream", self._client[0], self._server[1]),
                self._pump("downstream", self._server[0], self._client[1]),
            )
        except (ConnectionError, asyncio.CancelledError):
            # One side aborted: so does the other. Cancellation is how a toxic, or down(), ends the pumps.
            self.reset()
        finally:
            for timer in self._timers:
                timer.cancel()
            self._client[1].close()
            self._server[1].close()

    def reset(self) -> None:
        """Abort both connections with RST."""
        for _, writer in (self._client, self._server):
            if not writer.transport.is_closing():
                linger_zero(writer.get_extra_info("socket"))
            writer.transport.abort()
        self._task.cancel()

    def close(self) -> None:
        """Close both connections with FIN, after what was passed on."""
        self._client[1].close()
        self._server[1].close()

    async def _pump(
        self, direction: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        passed = 0
        while data := await reader.read(_READ):
            for piece, pause in self._spoil(direction, data, passed):
                await asyncio.sleep(pause)
                writer.write(piece)
                await writer.drain()
                passed += len(piece)
            limits = [toxic.bytes for toxic in self._active(direction) if isinstance(toxic, LimitData)]
            if limits and passed >= min(limits):
                self.close()
                return
        for toxic in self._active(direction):
            if isinstance(toxic, SlowClose):
                await asyncio.sleep(toxic.delay)
        if not writer.transport.is_closing():
            writer.write_eof()

    def _active(self, direction: Direction) -> list[Toxic]:
        return [toxic for toxic in self._proxy.toxics if toxic.stream == direction]

    def _spoil(self, direction: Direction, data: bytes, passed: int) -> list[tuple[bytes, float]]:
        """Return the pieces to pass on, each with the seconds to wait before it."""
        pieces = [(data, 0.0)]
        for toxic in self._active(direction):
            match toxic:
                case Latency(latency, jitter):
                    extra = max(0.0, latency + self._proxy.random.uniform(-jitter, jitter))
                    pieces = [(pieces[0][0], pieces[0][1] + extra), *pieces[1:]] if pieces else []
                case Bandwidth(rate):
                    pieces = [(piece, pause + len(piece) / rate) for piece, pause in pieces]
                case Timeout():
                    return []
                case Slicer(average, variation, delay):
                    pieces = [
                        (part, pause if first else delay)
                        for piece, pause in pieces
                        for first, part in self._slice(piece, average, variation)
                    ]
                case LimitData(limit):
                    pieces = _first_bytes(pieces, max(0, limit - passed))
        return pieces

    def _slice(self, data: bytes, average: int, variation: int) -> list[tuple[bool, bytes]]:
        parts: list[tuple[bool, bytes]] = []
        at = 0
        while at < len(data):
            size = max(1, average + self._proxy.random.randint(-variation, variation))
            parts.append((at == 0, data[at : at + size]))
            at += size
        return parts


def _first_bytes(pieces: list[tuple[bytes, float]], limit: int) -> list[tuple[bytes, float]]:
    kept: list[tuple[bytes, float]] = []
    for piece, pause in pieces:
        if limit > 0:
            kept.append((piece[:limit], pause))
        limit -= len(piece)
    return kept
