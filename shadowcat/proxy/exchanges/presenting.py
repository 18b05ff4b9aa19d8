"""Exchanges of routes with an upstream whose credential is of the moment: see upstreams/credentialed.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from shadowcat.http1.response import Body
from shadowcat.proxy.exchanges.exchange import Exchange
from shadowcat.proxy.upstreams.credentialed import FetchedPool
from shadowcat.proxy.upstreams.response_heads import ResponseTemplate

if TYPE_CHECKING:
    from shadowcat.proxy.clients.admission import Admitted
    from shadowcat.proxy.upstreams.upstream import UpstreamConnection


class _Presenting(Exchange):
    """Says who the client is where the upstream is told, and notices when a credential is not accepted."""

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
        line = pool.line_for(self.admitted)
        assert line is not None  # Else the pool would not have come so far.
        if not line:
            return request
        end = request.index(b"\r\n") + 2
        whole = memoryview(request)
        return b"".join((whole[:end], line, whole[end:]))

    def open(
        self, head: ResponseTemplate, values: tuple[bytes, ...], body: Body, length: int
    ) -> bytes | None:
        """The answer's head has arrived."""
        if head.challenges and isinstance(self._pool, FetchedPool):
            self._pool.rejected()
        return super().open(head, values, body, length)


_KINDS: Final[dict[type[Exchange], type[Exchange]]] = {}


def presenting(kind: type[Exchange]) -> type[Exchange]:
    """The same kind of exchange, for such a route."""
    found = _KINDS.get(kind)
    if found is None:
        made = type(f"Presenting{kind.__name__}", (_Presenting, kind), {"__slots__": ()})
        found = _KINDS[kind] = cast("type[Exchange]", made)
    return found
