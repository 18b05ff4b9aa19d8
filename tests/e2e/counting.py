"""An upstream that echoes, slowly, and knows how many connections it has at a time."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any, Final, Self

from shadowcat.testing.listener import close_listener
from tests.e2e.harness import PATIENCE

_ESTABLISHED: Final = 1


class CountingUpstream:
    """Answers each POST with its own body, `delay` seconds later, or when `release` is called.

    A connection counts from its accept until its peer has closed it, as the kernel knows: it does not matter
    when the loop hears of the end.
    """

    def __init__(self, delay: float = 0.0, *, held: bool = False) -> None:
        self.delay = delay
        self.connections = 0
        """Accepted in all."""
        self.most = 0
        """Open at a time."""
        self.most_requests = 0
        """Being answered at a time."""
        self.requests = 0
        self.busy = 0.0
        """Seconds that answers took, all requests together."""
        self.fields: list[bytes] = []
        """The head of each request."""
        self._open: set[socket.socket] = set()
        self._running = 0
        self._held = held
        self._loop = asyncio.new_event_loop()
        self._go = asyncio.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._thread = threading.Thread(target=self._loop.run_forever)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/mcp"

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def hold(self) -> None:
        """Answer nothing from now on."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(PATIENCE)

    def release(self) -> None:
        """Answer what is held, and everything from now on."""
        self._held = False
        self._loop.call_soon_threadsafe(self._go.set)

    @property
    def open(self) -> int:
        """Connections at this moment."""
        return asyncio.run_coroutine_threadsafe(self._look(), self._loop).result(PATIENCE)

    def route(self, **pool: Any) -> dict[str, Any]:
        """A configuration with this upstream behind /mcp."""
        return {"routes": [{"path": "/mcp", "upstreams": [{"name": "u", "url": self.url}], "pool": pool}]}

    async def _stop(self) -> None:
        self._held = True
        self._go.clear()

    async def _look(self) -> int:
        return self._count()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, sock=self._listener)

    async def _end(self) -> None:
        await close_listener(self._server)
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _count(self) -> int:
        states = [each.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] for each in self._open]
        return states.count(_ESTABLISHED)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("socket")._sock
        self.connections += 1
        self._open.add(connection)
        self.most = max(self.most, self._count())
        try:
            while True:
                await self._answer(reader, writer)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self._open.discard(connection)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(length)
        self.requests += 1
        self.fields.append(head)
        self._running += 1
        self.most_requests = max(self.most_requests, self._running)
        began = self._loop.time()
        try:
            if self._held:
                await self._go.wait()
            elif self.delay:
                await asyncio.sleep(self.delay)
        finally:
            self._running -= 1
            self.busy += self._loop.time() - began
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        await writer.drain()
