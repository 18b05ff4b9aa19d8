"""Which kind of exchange serves a request. Found once per head: no request pays for another's kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shadowcat.proxy.affinity_exchange import AffinityExchange, MeasuredAffinityExchange
from shadowcat.proxy.batch_exchange import BatchExchange
from shadowcat.proxy.delete_exchange import DeleteExchange
from shadowcat.proxy.exchange import Exchange
from shadowcat.proxy.initialize import InitializeExchange
from shadowcat.proxy.measured_exchange import MeasuredUnboundExchange
from shadowcat.proxy.session_exchange import SessionExchange, UnboundExchange
from shadowcat.proxy.stream_exchange import StreamExchange

if TYPE_CHECKING:
    from shadowcat.proxy.template import RequestTemplate


def _plain(kind: type[Exchange]) -> type[Exchange]:
    return kind


class Kinds:
    """The classes of exchanges."""

    __slots__ = ("_bodiless", "_chosen", "_modern", "_session", "_unbound", "batch", "initialize")

    def __init__(self, make: Callable[[type[Exchange]], type[Exchange]] = _plain) -> None:
        """`make` turns a class into the one that is used: by default the class itself."""
        self._modern = make(Exchange)
        # By whether the route's strategy compares loads.
        self._chosen = {False: make(AffinityExchange), True: make(MeasuredAffinityExchange)}
        self._unbound = {False: make(UnboundExchange), True: make(MeasuredUnboundExchange)}
        self.initialize = make(InitializeExchange)
        self._session = make(SessionExchange)
        self._bodiless = {b"GET": make(StreamExchange), b"DELETE": make(DeleteExchange)}
        self.batch = make(BatchExchange)

    def of(self, template: RequestTemplate) -> type[Exchange]:
        """The class of a head's exchanges. Of some, the message makes `batch` or `initialize` of it."""
        route = template.route
        compares = route is not None and route.compares
        if template.is_modern:
            return self._chosen[compares] if route is not None and route.has_choice else self._modern
        if template.session_id is not None:
            return self._bodiless.get(template.method, self._session)
        return self._unbound[compares]
