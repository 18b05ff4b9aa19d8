"""Exchanges of routes where the proxy authenticates: an upstream that asks for a token asks the proxy."""

from __future__ import annotations

from shadowcat.errors import Refusal
from shadowcat.http1.response import Body
from shadowcat.proxy.exchanges.exchange import Exchange
from shadowcat.proxy.exchanges.layers import layered
from shadowcat.proxy.upstreams.response_heads import ResponseTemplate


class _Protected(Exchange):
    """A client that got the upstream's challenge would throw away a token that is good."""

    __slots__ = ()

    def open(
        self, head: ResponseTemplate, values: tuple[bytes, ...], body: Body, length: int
    ) -> bytes | None:
        """The answer's head has arrived."""
        if not head.challenges:
            return super().open(head, values, body, length)
        connection, pool = self._connection, self._pool
        assert connection is not None
        assert pool is not None
        connection.abandon()
        self._refuse(Refusal.CHALLENGED, pool.origin.name)
        return None


def protected(kind: type[Exchange]) -> type[Exchange]:
    """The same kind of exchange, for such a route."""
    return layered(_Protected, kind)
