"""Both ends of the stream rows: a server that emits events at a fixed rate, and a client that counts them.

Each runs as a process of its own: `python -m bench.rig.streams source|sink …`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import deque
from typing import ClassVar, cast

import uvloop

from bench.rig.requests import filled, modern
from shadowcat.testing.load.histogram import Histogram
from shadowcat.testing.load.ticker import Ticker

TICK = 1_000_000
MARK = b'"progress":'

_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache, no-transform\r\n"
    b"Transfer-Encoding: chunked\r\nX-Accel-Buffering: no\r\n\r\n"
)
_EVENT = (
    b'event: message\r\ndata: {"jsonrpc":"2.0","method":"notifications/progress","params":'
    b'{"progressToken":1,"progress":%d,"message":"the quick brown fox"}}\r\n\r\n'
)


class Source(asyncio.Protocol):
    """Answers each request with a stream that stays open; `streams` are those that get events."""

    streams: ClassVar[deque[Source]] = deque()

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._request = b""
        self._answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._request += data
        if not self._answered and self._request.endswith(b"}") and b"\r\n\r\n" in self._request:
            self._answered = True
            self._transport.write(_HEAD)
            self.streams.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self.streams:
            self.streams.remove(self)

    @classmethod
    def emit(cls, count: int) -> None:
        """Send one event to each of the next `count` streams in turn."""
        streams = cls.streams
        for _ in range(min(count, len(streams))):
            stream = streams[0]
            streams.rotate(-1)
            event = _EVENT % time.monotonic_ns()
            stream._transport.write(b"%x\r\n%b\r\n" % (len(event), event))


class Sink(asyncio.Protocol):
    """Reads a stream through the proxy, and measures how old each event is."""

    opened = 0
    latency = Histogram()

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._rest = b""
        self._open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self._open:
            self._open = True
            Sink.opened += 1
        now = time.monotonic_ns()
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            at = line.find(MARK)
            if at >= 0:
                start = at + len(MARK)
                Sink.latency.record(now - int(line[start : line.index(b",", start)]))

    def connection_lost(self, exc: Exception | None) -> None:
        Sink.opened -= 1


async def _source(rate: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Source, "127.0.0.1", 0, backlog=4096)
    print(json.dumps({"listen": [f"127.0.0.1:{server.sockets[0].getsockname()[1]}"]}), flush=True)
    per_tick = rate * TICK / 1e9
    owed = 0.0

    def tick() -> None:
        nonlocal owed
        owed = min(owed + per_tick, 10 * per_tick)
        Source.emit(int(owed))
        owed -= int(owed)

    if rate:
        Ticker(loop, time.monotonic_ns(), TICK, tick)
    await asyncio.Event().wait()


async def _sink(port: int, streams: int) -> None:
    """Open the streams, then answer each line on standard input with what came since the last one."""
    loop = asyncio.get_running_loop()
    request = filled(modern(port))
    for _ in range(streams):
        await loop.create_connection(lambda: Sink(request), "127.0.0.1", port)
    done = asyncio.Event()

    def mark() -> None:
        if not sys.stdin.readline():
            done.set()
            return
        p50, p99 = Sink.latency.percentiles(50, 99)
        print(
            json.dumps({"open": Sink.opened, "events": Sink.latency.count, "p50": p50, "p99": p99}),
            flush=True,
        )
        Sink.latency = Histogram()

    loop.add_reader(sys.stdin.fileno(), mark)
    await done.wait()


if __name__ == "__main__":
    if sys.argv[1] == "source":
        uvloop.run(_source(float(sys.argv[2])))
    else:
        uvloop.run(_sink(int(sys.argv[2]), int(sys.argv[3])))
