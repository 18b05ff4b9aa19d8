"""Opens the connections of a load run, with a session on each in the legacy era, and closes them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Collection
from typing import Final

from shadowcat.errors import ShadowcatError
from shadowcat.mcp.eras import Era
from shadowcat.testing.load.answers import judge, reason
from shadowcat.testing.load.client import Connection
from shadowcat.testing.load.messages import Messages
from shadowcat.testing.load.plan import Plan

_GOODBYE: Final = 2.0


class LoadError(ShadowcatError):
    """The run cannot start: nothing listens there, or the session handshake fails."""


class Connector:
    """Makes connections ready for calls.

    Args:
        plan: Where to, and how.
        messages: The requests of the handshake.
        clock: Nanoseconds, monotonic.
    """

    def __init__(self, plan: Plan, messages: Messages, clock: Callable[[], int]) -> None:
        self._plan = plan
        self._messages = messages
        self._clock = clock

    async def connect(self, session: bytes | None) -> Connection:
        """Open a connection and, in the legacy era, a session on it unless one is given.

        Raises:
            OSError: The connection cannot be had.
            LoadError: The session cannot be had, or not in time.
        """
        waiter = _Waiter()
        try:
            async with asyncio.timeout(self._plan.timeout):
                connection = await self._dial(waiter)
                connection.session = session
                if self._plan.era is Era.LEGACY and session is None:
                    try:
                        await self._initialize(connection, waiter)
                    except BaseException:
                        # Also when cancelled, since another connection failed: nobody else knows this one,
                        # and uvloop would close it whenever the collector happens to find it.
                        connection.close()
                        raise
        except TimeoutError:
            raise LoadError(f"no connection within {self._plan.timeout:g} s") from None
        if not connection.open:
            raise LoadError("the server closed the connection after the handshake")
        return connection

    async def close_all(self, connections: Collection[Connection]) -> None:
        """End the sessions, best effort, then all connections."""
        goodbyes = []
        for connection in connections:
            waiter = _Waiter()
            connection.owner = waiter
            if connection.session is not None and connection.open and not connection.busy:
                delete = self._messages.delete(connection.session)
                goodbyes.append(asyncio.ensure_future(waiter.exchange(connection, delete)))
        if goodbyes:
            await asyncio.wait(goodbyes, timeout=_GOODBYE)
        for connection in connections:
            connection.close()
        # Retrieves what failed or is still waiting: a server may well refuse DELETE.
        await asyncio.gather(*goodbyes, return_exceptions=True)

    async def _initialize(self, connection: Connection, waiter: _Waiter) -> None:
        await waiter.exchange(connection, self._messages.initialize())
        verdict = judge(connection.status, connection.body, None, stream=False)
        if verdict.problem is not None:
            said = reason(connection.body)
            raise LoadError(f"initialize failed: {verdict.problem}" + (f", {said}" if said else ""))
        await waiter.exchange(connection, self._messages.initialized(connection.session))
        if connection.status not in (200, 202, 204):
            raise LoadError(f"notifications/initialized failed: status {connection.status}")

    async def _dial(self, waiter: _Waiter) -> Connection:
        loop = asyncio.get_running_loop()
        plan = self._plan
        context = ssl.create_default_context() if plan.server_name is not None else None
        if not plan.port:
            _, connection = await loop.create_unix_connection(
                lambda: Connection(waiter, self._clock), plan.host
            )
        else:
            _, connection = await loop.create_connection(
                lambda: Connection(waiter, self._clock),
                plan.host,
                plan.port,
                ssl=context,
                server_hostname=plan.server_name,
            )
        return connection


class _Waiter:
    """Owner of a connection outside the run proper: one future per exchange."""

    def __init__(self) -> None:
        self._answer: asyncio.Future[None] | None = None

    async def exchange(self, connection: Connection, request: bytes) -> None:
        if not connection.open:
            # It may have gone since its last answer, before whoever awaited that could run.
            raise LoadError("the server closed the connection")
        self._answer = asyncio.get_running_loop().create_future()
        connection.send(request)
        await self._answer

    def answered(self, connection: Connection) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(None)

    def lost(self, connection: Connection) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(LoadError("the server closed the connection"))
