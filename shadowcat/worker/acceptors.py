"""Where a worker gets its connections: listeners and inbox of its own slot, and of those it has adopted."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence

from shadowcat.log import LOGGER
from shadowcat.worker.handover import Handover


class Acceptors:
    """Registers listeners with the loop and lets go of them without losing who waits in their queues.

    The sockets themselves belong to the supervisor and stay open; the loop gets duplicates, because it closes
    what it is given.
    """

    __slots__ = ("_backlog", "_factory", "_handover", "_listeners", "_loop", "_servers")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        factory: Callable[[], asyncio.Protocol],
        listeners: Sequence[Sequence[socket.socket]],
        backlog: int,
        handover: Handover | None = None,
    ) -> None:
        """Begin with none registered.

        Args:
            loop: The worker's loop.
            factory: Makes the protocol of an accepted connection.
            listeners: The sockets of all slots: `listeners[address][slot]`.
            backlog: create_server listens anew, with 100 unless it is told the right number.
            handover: Spreads connections over the workers; None where there is only one.
        """
        self._loop = loop
        self._factory = factory
        self._listeners = listeners
        self._backlog = backlog
        self._handover = handover
        self._servers: dict[int, list[asyncio.AbstractServer]] = {}

    def beat(self, now_ns: int) -> None:
        """A beat of the worker has passed: `now_ns` is CLOCK_MONOTONIC."""
        if self._handover is not None:
            self._handover.beat(now_ns)

    async def open(self, slot: int) -> None:
        """Accept from the listeners of `slot`, and what other workers hand over to it.

        Raises:
            OSError: No descriptor is to be had.
        """
        if slot in self._servers:
            return
        servers = self._servers[slot] = []
        factory = self._factory if self._handover is None else self._handover.fresh
        for sockets in self._listeners:
            own = sockets[slot].dup()
            try:
                servers.append(await self._loop.create_server(factory, sock=own, backlog=self._backlog))
            except BaseException:
                own.close()
                self.close(slot)
                raise
        if self._handover is not None:
            self._handover.open(slot)

    def close(self, slot: int) -> None:
        """Accept no more from the listeners of `slot`; their queues stay for whoever accepts next."""
        for server in self._servers.pop(slot, ()):
            server.close()
        if self._handover is not None:
            self._handover.close(slot)

    async def finish(self) -> None:
        """Take one last time what waits in the queues of all listeners served, then accept no more."""
        slots = list(self._servers)
        for slot in slots:
            self.close(slot)
        waiting = [one for slot in slots for sockets in self._listeners for one in _accept_all(sockets[slot])]
        if self._handover is not None:
            waiting += [one for slot in slots for one in self._handover.rest(slot)]
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
