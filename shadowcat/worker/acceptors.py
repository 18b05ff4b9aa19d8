"""The listeners that this worker accepts from: its own slot's, and those it has adopted."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence

from shadowcat.log import LOGGER


class Acceptors:
    """Registers listeners with the loop and lets go of them without losing who waits in their queues.

    The sockets themselves belong to the supervisor and stay open; the loop gets duplicates, because it closes
    what it is given.
    """

    __slots__ = ("_backlog", "_factory", "_listeners", "_loop", "_servers")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        factory: Callable[[], asyncio.Protocol],
        listeners: Sequence[Sequence[socket.socket]],
        backlog: int,
    ) -> None:
        """Begin with none registered.

        Args:
            loop: The worker's loop.
            factory: Makes the protocol of an accepted connection.
            listeners: The sockets of all slots: `listeners[address][slot]`.
            backlog: create_server listens anew, with 100 unless it is told the right number.
        """
        self._loop = loop
        self._factory = factory
        self._listeners = listeners
        self._backlog = backlog
        self._servers: dict[int, list[asyncio.AbstractServer]] = {}

    async def open(self, slot: int) -> None:
        """Accept from the listeners of `slot`.

        Raises:
            OSError: No descriptor is to be had.
        """
        if slot in self._servers:
            return
        servers = self._servers[slot] = []
        for sockets in self._listeners:
            own = sockets[slot].dup()
            try:
                servers.append(await self._loop.create_server(self._factory, sock=own, backlog=self._backlog))
            except BaseException:
                own.close()
                self.close(slot)
                raise

    def close(self, slot: int) -> None:
        """Accept no more from the listeners of `slot`; their queues stay for whoever accepts next."""
        for server in self._servers.pop(slot, ()):
            server.close()

    async def finish(self) -> None:
        """Take one last time what waits in the queues of all listeners served, then accept no more."""
        slots = list(self._servers)
        for slot in slots:
            self.close(slot)
        waiting = [one for slot in slots for sockets in self._listeners for one in _accept_all(sockets[slot])]
        for one in waiting:
            # The loop does this for connections it has accepted itself, but not for these.
            with contextlib.suppress(OSError):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                await self._loop.connect_accepted_socket(self._factory, one)
            except OSError as error:
                LOGGER.warning("a connection accepted while stopping was lost: %s", error)
                one.close()


def _accept_all(listener: socket.socket) -> list[socket.socket]:
    """Empty the accept queue of a non-blocking listener."""
    accepted: list[socket.socket] = []
    while True:
        try:
            connection, _ = listener.accept()
        except ConnectionAbortedError:
            continue
        except OSError as error:
            if not isinstance(error, BlockingIOError):
                LOGGER.warning("the accept queue could not be emptied: %s", error)
            return accepted
        connection.setblocking(False)
        accepted.append(connection)
