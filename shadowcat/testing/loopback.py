"""A data plane without sockets and without waiting, for unit tests and micro-benchmarks.

The connection objects, pools and timers are the real ones. Their transports are `Peer` objects, which a test
plays, and time stands still until the test moves it.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any, Final, Literal, cast

from msgspec.structs import replace

from shadowcat.config.model import Config, Sessions
from shadowcat.proxy.assembly import assemble
from shadowcat.proxy.wheel import TICK
from shadowcat.shm.shared import Shared, worker_number
from shadowcat.testing.host import cell_of, free_rows, publish

Ending = Literal["open", "eof", "closed", "aborted"]

_SESSIONS: Final = 16_384
_UPSTREAMS: Final = 16
_ROUTES: Final = 8
_TURNS: Final = 12
"""Turns of the loop in which everything that is ready, and what follows from it, has run: a dial takes 6."""


class Peer(asyncio.Transport):
    """The other side of a connection. To the protocol under test it is the transport."""

    __slots__ = ("_limits", "_loop", "_protocol", "buffered", "ending", "reading", "writes")

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol) -> None:
        """Connected as soon as `connect` is called."""
        super().__init__({"peername": ("127.0.0.1", 50000), "sockname": ("127.0.0.1", 8080)})
        self._loop = loop
        self._protocol = protocol
        self._limits = (0, 0)
        self.writes: list[bytes] = []
        """What the protocol wrote, call by call."""
        self.ending: Ending = "open"
        """How the protocol ended its side."""
        self.reading = True
        """Whether the protocol wants to read."""
        self.buffered = 0
        """Bytes the protocol wrote that are said not to have left yet."""

    # What the peer does.

    def connect(self) -> None:
        """Tell the protocol that it is connected."""
        self._protocol.connection_made(self)

    def send(self, *reads: bytes) -> None:
        """Let the protocol read, once per argument; what comes after its end is lost."""
        for data in reads:
            if not self.is_closing():
                self._protocol.data_received(data)

    def finish(self) -> None:
        """Send no more."""
        if not self.is_closing() and not self._protocol.eof_received():
            self.close()

    def reset(self) -> None:
        """Break the connection."""
        if not self.is_closing():
            self.ending = "aborted"
            self._protocol.connection_lost(ConnectionResetError())

    def stall(self) -> None:
        """Take nothing more of what is written."""
        self.buffered = self._limits[0] + 1
        self._protocol.pause_writing()

    def catch_up(self) -> None:
        """Take everything that was written."""
        self.buffered = 0
        self._protocol.resume_writing()

    @property
    def received(self) -> bytes:
        """Everything the protocol wrote."""
        return b"".join(self.writes)

    def take(self) -> bytes:
        """What the protocol wrote since the last call."""
        taken = self.received
        self.writes.clear()
        return taken

    # What the protocol calls.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Record bytes; what comes after the end of the connection is lost.

        Raises:
            RuntimeError: After `write_eof`, as with every transport.
        """
        if self.ending == "eof":
            raise RuntimeError("write after write_eof")
        if self.ending == "open":
            self.writes.append(bytes(data))

    def write_eof(self) -> None:
        """Record the end of what is sent."""
        if self.ending == "open":
            self.ending = "eof"

    def close(self) -> None:
        """Record a clean end."""
        self._end("closed")

    def abort(self) -> None:
        """Record a broken end."""
        self._end("aborted")

    def _end(self, ending: Ending) -> None:
        if not self.is_closing():
            self.ending = ending
            self._loop.call_soon(self._protocol.connection_lost, None)

    def is_closing(self) -> bool:
        """Whether the protocol has closed both directions."""
        return self.ending in ("closed", "aborted")

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Have another protocol under test from now on."""
        self._protocol = cast("asyncio.Protocol", protocol)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Remember the marks."""
        self._limits = (high or 0, low or 0)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """The low and the high mark, as asyncio orders them."""
        return self._limits[1], self._limits[0]

    def get_write_buffer_size(self) -> int:
        """What the peer has not taken yet."""
        return self.buffered

    def pause_reading(self) -> None:
        """Record that the protocol wants no more."""
        self.reading = False

    def resume_reading(self) -> None:
        """Record that the protocol wants more."""
        self.reading = True


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop with a clock of its own, whose outgoing connections are peers."""

    def __init__(self) -> None:
        """The clock starts at 1000 s."""
        self._now = 1000.0
        super().__init__()
        self.peers: list[Peer] = []
        """The connections that were opened, in order."""
        self.dialled: list[tuple[str, int]] = []
        """The hosts and ports for which a connection was asked, in order."""
        self.failures: list[OSError] = []
        """What the next dials fail with, one each."""
        self.answering = True
        """Whether dials come to an end at all."""

    def time(self) -> float:
        """Seconds on the clock."""
        return self._now

    def settle(self) -> None:
        """Run what is ready, without moving the clock."""
        for _ in range(_TURNS):
            self.call_soon(self.stop)
            self.run_forever()

    def advance(self, seconds: float) -> None:
        """Move the clock, in steps of the wheel's tick."""
        end = self._now + seconds
        while self._now < end:
            self._now = min(self._now + TICK, end)
            self.settle()

    def stall(self, seconds: float) -> None:
        """Move the clock in one leap, as after a suspended machine."""
        self._now += seconds
        self.settle()

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> Any:
        """Every name has one address: the name itself."""
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (host, port))]

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.Protocol], host: str, port: int, **_: Any
    ) -> tuple[Peer, asyncio.Protocol]:
        """Connect at once, fail, or never answer, as the attributes say."""
        self.dialled.append((host, port))
        if not self.answering:
            await self.create_future()
        if self.failures:
            raise self.failures.pop(0)
        protocol = protocol_factory()
        peer = Peer(self, protocol)
        self.peers.append(peer)
        peer.connect()
        return peer, protocol


class Loopback:
    """One worker's data plane and everybody who talks to it."""

    clock_ns: Callable[[], int] = staticmethod(time.monotonic_ns)
    """The clock of rates: the machine's, since many requests in no time are more than any rate allows."""

    def __init__(self, config: Config) -> None:
        """Assembled as every worker is; its clock is started.

        Tables of the default size are smaller ones here: they would be 100 MB for each test.
        """
        self.loop = VirtualLoop()
        if config.sessions.capacity == Sessions().capacity:
            config = replace(config, sessions=replace(config.sessions, capacity=_SESSIONS))
        config = replace(config, max_upstreams=_UPSTREAMS, max_routes=_ROUTES)
        self._shared = Shared.create(config)
        self.plane = assemble(config, self._shared, worker_number(0), self.loop, self.clock_ns)
        self.plane.start()

    @property
    def upstreams(self) -> list[Peer]:
        """The upstream connections that were opened, in order."""
        return self.loop.peers

    def client(self) -> Peer:
        """A client that has just connected."""
        peer = Peer(self.loop, self.plane.client_protocol())
        peer.connect()
        return peer

    def settle(self) -> None:
        """Run what is ready."""
        self.loop.settle()

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.loop.advance(seconds)

    def metric(self, family: str, *labels: str) -> int:
        """A counter or gauge, as published on the last tick."""
        page = self._shared.page(worker_number(0))
        return int(page.cells[cell_of(self._shared, family, *labels)])

    def answered(self, route: str, status: int) -> int:
        """How many requests of a route were answered with a status."""
        page = self._shared.page(worker_number(0))
        return int(page.cells[cell_of(self._shared, "requests_total", route) + status])

    def publish(self, config: Config) -> None:
        """Have another configuration take the place of the present one, for all planes of this host."""
        publish(self._shared, config)

    def free_rows(self) -> None:
        """Have all upstreams that leave give up their rows, as control does once nobody needs them."""
        free_rows(self._shared)

    def close(self) -> None:
        """Cut everything off and give back descriptors."""
        self.plane.abort()
        self.plane.stop()
        for peer in self.upstreams:
            peer.abort()
        self.settle()
        self.loop.close()
        self._shared.close()
