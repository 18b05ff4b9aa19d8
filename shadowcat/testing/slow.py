"""Clients that hold on to a server and give it as little as they can.

with SlowClients(("127.0.0.1", port), Kind.HEAD, 1000) as crowd:
    crowd.wait_open()
    ...
    crowd.lasted                                   # seconds that each was put up with
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from enum import Enum
from types import TracebackType
from typing import Final, Self

_BODY: Final = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"big"}}'
_HEAD: Final = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
_CALL: Final = _HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
_SMALL: Final = _CALL.replace(b'"big"', b'"xyz"')
_END: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_BUFFER: Final = 4096
_ROUND: Final = 0.01
"""Seconds."""


def _notice_the_end(one: socket.socket) -> None:
    """Let the kernel ask every second whether the server is still there.

    A reset is discarded if it lies beyond a window that has closed meanwhile (RFC 5961 section 3.2), and a
    peer that neither reads nor sends would never hear of the end. A keep-alive probe (RFC 9293 section
    3.8.4) is answered with one that fits, or by a live server without a word to its process.
    """
    one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)


class Kind(Enum):
    """What such a client does."""

    HEAD = "slow head"
    """A byte of a head now and then."""
    BODY = "slow body"
    """A head, and a byte of a body now and then."""
    READER = "slow reader"
    """Asks for a large answer and reads nothing of it."""
    IDLE = "idle"
    """Nothing at all."""
    PIPELINE = "pipelining"
    """As many requests as fit into the connection, and reads no answer."""


_FIRST: Final = {
    Kind.HEAD: _HEAD[:20],
    Kind.BODY: _HEAD + b"Content-Length: 100000\r\n\r\n",
    Kind.READER: _CALL,
    Kind.IDLE: b"",
    Kind.PIPELINE: _SMALL * 1024,
}
_NEXT: Final = {
    Kind.HEAD: b"x",
    Kind.BODY: b"x",
    Kind.READER: b"",
    Kind.IDLE: b"",
    Kind.PIPELINE: _SMALL * 1024,
}


class SlowClients:
    """So many of one kind, in a thread of their own."""

    def __init__(
        self,
        address: tuple[str, int],
        kind: Kind,
        count: int,
        *,
        interval: float = 0.5,
        ramp: float = 0.0,
        replace: bool = False,
    ) -> None:
        """Prepare.

        Args:
            address: Of the server.
            kind: What they do.
            count: How many.
            interval: Seconds from one byte of each to the next.
            ramp: Seconds over which they come; 0 for all at once.
            replace: Whether another one comes for each that was shown out; if not, they stay as they are,
                and close nothing by themselves.
        """
        self._address = address
        self._kind = kind
        self._count = count
        self._interval = interval
        self._ramp = ramp
        self._replace = replace
        self._epoll = select.epoll()
        self._sockets: dict[int, tuple[socket.socket, float]] = {}
        self._left: list[socket.socket] = []
        self._stop = threading.Event()
        self._all_here = threading.Event()
        self._thread = threading.Thread(target=self._run, name="slow-clients", daemon=True)
        self.lasted: list[float] = []
        """Seconds from connecting to the server's end of the connection, for each that was shown out."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        for one in [*self._left, *(one for one, _ in self._sockets.values())]:
            one.close()
        self._epoll.close()

    def wait_open(self, timeout: float = 30.0) -> None:
        """Wait until all have connected.

        Raises:
            TimeoutError: They have not.
        """
        if not self._all_here.wait(timeout):
            raise TimeoutError(f"{len(self._sockets)} of {self._count} have connected")

    def wait_gone(self, timeout: float) -> None:
        """Wait until the server has ended every connection.

        Raises:
            TimeoutError: It has not.
        """
        deadline = time.monotonic() + timeout
        while len(self.lasted) < self._count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._count - len(self.lasted)} of {self._count} are still connected")
            time.sleep(0.02)

    def _run(self) -> None:
        came = missing = 0
        start = before = time.monotonic()
        room = next_one = 0.0
        while not self._stop.is_set():
            now = time.monotonic()
            elapsed, before = now - before, now
            due = min(
                self._count, int(self._count * (now - start) / self._ramp) if self._ramp else self._count
            )
            missing += due - came
            came = due
            # Those that come instead of others take their time, too: this is no flood of connections.
            room = min(room + self._count * elapsed / self._ramp, missing) if self._ramp else missing
            newcomers = int(room)
            for _ in range(newcomers):
                self._open()
            missing -= newcomers
            room -= newcomers
            if came == self._count:
                self._all_here.set()
            for number, _ in self._epoll.poll(_ROUND):
                one, began = self._sockets.pop(number)
                self._epoll.unregister(number)
                self.lasted.append(time.monotonic() - began)
                if self._replace:
                    one.close()
                    missing += 1
                else:
                    self._left.append(one)
            # Not all at once, or they would be a burst now and then.
            next_one += len(self._sockets) * min(elapsed / self._interval, 1.0)
            for _ in range(int(next_one)):
                number, entry = next(iter(self._sockets.items()), (0, None))
                if entry is not None:
                    del self._sockets[number]
                    self._sockets[number] = entry  # It is the last one now.
                    self._send(entry[0], _NEXT[self._kind])
            next_one %= 1

    def _open(self) -> None:
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        _notice_the_end(one)
        # The server counts from when it accepts, which may be long before this thread goes on.
        began = time.monotonic()
        one.connect(self._address)
        one.setblocking(False)
        self._sockets[one.fileno()] = one, began
        self._epoll.register(one.fileno(), _END)
        self._send(one, _FIRST[self._kind])

    def _send(self, one: socket.socket, data: bytes) -> None:
        if data:
            with contextlib.suppress(OSError):  # It is full, or over, which the poll will tell.
                one.send(data)
