"""Exchanges of routes with an upstream whose credential is of the moment: see upstreams/credentialed.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shadowcat.http1.response import Body
from shadowcat.proxy.exchanges.exchange import Exchange
from shadowcat.proxy.exchanges.layers import layered
from shadowcat.proxy.upstreams.credentialed import FetchedPool, PersonalPool
from shadowcat.proxy.upstreams.response_heads import ResponseTemplate

if TYPE_CHECKING:
    from shadowcat.proxy.clients.admission import Admitted
    from shadowcat.proxy.upstreams.upstream import UpstreamConnection


class _Presenting(Exchange):
    """Says who the client is where the upstream is told."""

    __slots__ = ()

    @property
    def admitted(self) -> Admitted | None:
        """What is known of the client's token."""
        return self.template.admitted

    def send(self, connection: UpstreamConnection) -> bytes:
        """The request's bytes for `connection`, which now serves this exchange."""
        request = super().send(connection)
        pool = self._pool
        assert pool is not None
        line = pool.line_for(self.template.admitted)
        assert line is not None  # Else the pool would not have come so far.
        return request.replace(b"\r\n", b"\r\n" + line, 1) if line else request

    def open(
        self, head: ResponseTemplate, values: tuple[bytes, ...], body: Body, length: int
    ) -> bytes | None:
        """The answer's head has arrived."""
        if head.challenges and isinstance(self._pool, PersonalPool):
            self._pool.rejected(self.template.admitted)
        return super().open(head, values, body, length)


class _Renewing(Exchange):
    """Notices when the credential that control has fetched is not accepted."""

    __slots__ = ()

    def open(
        self, head: ResponseTemplate, values: tuple[bytes, ...], body: Body, length: int
    ) -> bytes | None:
        """The answer's head has arrived."""
        if head.challenges and isinstance(self._pool, FetchedPool):
            self._pool.rejected()
        return super().open(head, values, body, length)


def presenting(kind: type[Exchange]) -> type[Exchange]:
    """The same kind of exchange, for a route with an upstream that is told who the client is."""
    return layered(_Presenting, kind)


def renewing(kind: type[Exchange]) -> type[Exchange]:
    """The same kind of exchange, for a route with an upstream whose credential control fetches."""
    return layered(_Renewing, kind)
