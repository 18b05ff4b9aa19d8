"""Which kind of exchange serves a request. Found once per head: no request pays for another's kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from shadowcat.mcp.envelope import Envelope, Kind
from shadowcat.proxy.batch_exchange import BatchExchange
from shadowcat.proxy.delete_exchange import DeleteExchange
from shadowcat.proxy.exchange import Exchange
from shadowcat.proxy.initialize import InitializeExchange
from shadowcat.proxy.measured_exchange import MeasuredExchange, MeasuredUnboundExchange
from shadowcat.proxy.session_exchange import SessionExchange, UnboundExchange
from shadowcat.proxy.stream_exchange import StreamExchange

if TYPE_CHECKING:
    from shadowcat.proxy.downstream import ClientConnection
    from shadowcat.proxy.plane import DataPlane
    from shadowcat.proxy.route import Route
    from shadowcat.proxy.template import RequestTemplate

NewExchange: TypeAlias = Callable[
    ["DataPlane", "ClientConnection", "RequestTemplate", "Route", tuple[bytes, ...], bytes, Envelope | None],
    Exchange,
]
"""Makes an exchange; the arguments are those of `Exchange`."""


def _plain(kind: type[Exchange]) -> NewExchange:
    return kind


class Kinds:
    """The ways to make an exchange."""

    __slots__ = ("_bodiless", "_initialize", "_modern", "_session", "_unbound", "batch")

    def __init__(self, make: Callable[[type[Exchange]], NewExchange] = _plain) -> None:
        """`make` turns a class into what makes its instances: by default the class itself."""
        # By whether the route's strategy compares loads.
        self._modern = {False: make(Exchange), True: make(MeasuredExchange)}
        self._unbound = {False: make(UnboundExchange), True: make(MeasuredUnboundExchange)}
        self._initialize = make(InitializeExchange)
        self._session = make(SessionExchange)
        self._bodiless = {b"GET": make(StreamExchange), b"DELETE": make(DeleteExchange)}
        self.batch = make(BatchExchange)

    def of(self, template: RequestTemplate) -> NewExchange:
        """The way to make the exchanges of a head."""
        compares = template.route is not None and template.route.compares
        if template.is_modern:
            return self._modern[compares]
        if template.session_id is not None:
            return self._bodiless.get(template.method, self._session)
        return self._open if template.is_post else self._unbound[compares]

    def _open(
        self,
        plane: DataPlane,
        client: ClientConnection,
        template: RequestTemplate,
        route: Route,
        values: tuple[bytes, ...],
        body: bytes,
        envelope: Envelope | None,
    ) -> Exchange:
        """A legacy message outside of a session: the first one of a session, or none at all."""
        opens = envelope is not None and envelope.method == "initialize" and envelope.kind is Kind.REQUEST
        kind = self._initialize if opens else self._unbound[route.compares]
        return kind(plane, client, template, route, values, body, envelope)
