"""A server that answers every POST at once, with the same bytes: an upstream that costs next to nothing.

    with CannedUpstream() as upstream:
        ...                                            # talk to upstream.url, from a process of its own

A call whose body has the word "big" in it gets an answer of a MiB.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from types import TracebackType
from typing import Final, Self, cast

import uvloop

_LENGTH: Final = re.compile(rb"\r\nContent-Length: ([0-9]+)", re.IGNORECASE)
_BIG: Final = 1024 * 1024


def _answer(size: int) -> bytes:
    body = b'{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"%b"}]}}' % (b"x" * size)
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )


_SMALL_ANSWER: Final = _answer(16)
_BIG_ANSWER: Final = _answer(_BIG)


class _Connection(asyncio.Protocol):
    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass.

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n") + 4) >= 4:
            length = _LENGTH.search(self._buffer, 0, end)
            whole = end + (int(length[1]) if length else 0)
            if len(self._buffer) < whole:
                return
            is_big = b'"big"' in self._buffer[end:whole]
            self._buffer = self._buffer[whole:]
            self._transport.write(_BIG_ANSWER if is_big else _SMALL_ANSWER)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Connection, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    # The end of standard input is the end of whoever started this.
    await loop.run_in_executor(None, sys.stdin.read)


class CannedUpstream:
    """The server as a child process, which ends with this object, and with this process."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(  # noqa: S603 - a program of our own
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}/mcp"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()


if __name__ == "__main__":
    uvloop.run(_serve())
