"""A connection from a balancer that has not said yet for whom it comes (PROXY protocol)."""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING, cast

from shadowcat.http1.proxy_header import ProxyHeaderError, parse_proxy_header
from shadowcat.proxy.clients.patience import DRAIN_GRACE
from shadowcat.proxy.flow import peer_of
from shadowcat.proxy.wheel import Timed

if TYPE_CHECKING:
    from shadowcat.proxy.plane import DataPlane


class Arrival(asyncio.Protocol, Timed):
    """Reads the header, then leaves the connection to its client's protocol for good.

    Only trusted proxies are asked. From everybody else such a header would be a claim that nobody can check,
    and without it there is no telling who is behind a balancer: both are closed without a word.
    """

    __slots__ = ("_buffer", "_peer", "_plane", "_transport")

    _transport: asyncio.Transport

    def __init__(self, plane: DataPlane) -> None:
        self.deadline = self.filed = inf
        self._plane = plane
        self._buffer = b""
        self._peer = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody has connected."""
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass.
        plane = self._plane
        plane.arrived(self)
        self._peer = peer_of(transport)
        if plane.trusted_proxies.trusts(self._peer):
            plane.wheel.set(self, plane.clock() + plane.http.head_timeout)
            if plane.draining:
                self.drain()
        else:
            self._refuse()

    def data_received(self, data: bytes) -> None:
        """More of the header is here, and maybe something behind it."""
        transport = self._transport
        if transport.is_closing():
            return
        plane = self._plane
        self._buffer += data
        try:
            header = parse_proxy_header(self._buffer)
        except ProxyHeaderError:
            self._refuse()
            return
        if header is None:
            return
        plane.meters.client_received += header.length
        rest = self._buffer[header.length :]
        self.deadline = inf
        plane.departed(self)
        client = plane.new_client()
        transport.set_protocol(client)
        client.serve(transport, self._peer if header.source is None else header.source)
        if rest and not transport.is_closing():
            client.data_received(rest)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone; a balancer that only looks whether somebody listens says nothing."""
        self.deadline = inf
        self._plane.departed(self)

    def on_deadline(self, now: float) -> None:
        """The header did not come in time."""
        self._refuse()

    def drain(self) -> None:
        """The worker is about to stop: what is on its way may still come."""
        self._plane.wheel.set(self, self._plane.clock() + DRAIN_GRACE)

    def abort(self) -> None:
        """The worker stops now."""
        self._transport.abort()

    def _refuse(self) -> None:
        self._plane.cells[self._plane.meters.unintroduced] += 1
        self._transport.abort()
