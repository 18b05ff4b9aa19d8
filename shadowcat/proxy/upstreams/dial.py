"""Opening connections to an upstream: names, addresses, TLS. It runs in a task, apart from the hot path."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from typing import Final

from shadowcat.proxy.upstreams.origin import Origin

OUT_OF_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE)
"""Failures that are no upstream's: this process, or the machine, has none left."""
RESOLVE_EVERY: Final = 30.0
"""Seconds after which a name is looked up again. getaddrinfo does not tell the record's time to live."""
_LEAST_SHARE: Final = 1.0
"""Seconds that each of several addresses gets at least, before the next one is tried."""


class Dialer:
    """Connects to one upstream. Several addresses of a name take turns, and stand in for each other."""

    __slots__ = ("_addresses", "_loop", "_origin", "_resolved_at", "_timeout", "_turn")

    def __init__(self, loop: asyncio.AbstractEventLoop, origin: Origin, timeout: float) -> None:
        """`timeout` in seconds bounds look-up, connect and handshake together."""
        self._loop = loop
        self._origin = origin
        self._timeout = timeout
        self._addresses: list[str] = []
        self._resolved_at = float("-inf")
        self._turn = 0

    async def dial(self, factory: Callable[[], asyncio.Protocol]) -> None:
        """Open one connection; the protocol learns of it by `connection_made`.

        Raises:
            TimeoutError: There was no connection within the time-out.
            OSError: The name is unknown, or all addresses refused; the last one's reason.
            ssl.SSLError: The handshake failed.
        """
        async with asyncio.timeout(self._timeout):
            address = self._origin.address
            if address.unix_path is not None:
                await self._loop.create_unix_connection(factory, address.unix_path)
                return
            addresses = await self._resolve()
            self._turn += 1
            share = max(self._timeout / len(addresses), _LEAST_SHARE)
            failure: OSError | None = None
            for offset in range(len(addresses)):
                host = addresses[(self._turn + offset) % len(addresses)]
                try:
                    async with asyncio.timeout(share):
                        await self._loop.create_connection(
                            factory,
                            host,
                            address.port,
                            ssl=self._origin.ssl,
                            server_hostname=self._origin.server_name,
                        )
                    return
                except OSError as error:  # TimeoutError and SSLError are OSErrors too.
                    failure = error
            self._resolved_at = float("-inf")
            assert failure is not None
            raise failure

    async def _resolve(self) -> list[str]:
        now = self._loop.time()
        if self._addresses and now - self._resolved_at < RESOLVE_EVERY:
            return self._addresses
        address = self._origin.address
        try:
            found = await self._loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        except OSError:
            if not self._addresses:
                raise
            # A name server that is down must not take a working upstream down: keep what is known.
        else:
            self._addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        self._resolved_at = now
        return self._addresses


def describe_failure(error: BaseException) -> str:
    """A dial's failure in words for the log and the client."""
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate was refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS handshake failed: {error.reason or error}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__
