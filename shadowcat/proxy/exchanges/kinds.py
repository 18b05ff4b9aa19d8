"""Which kind of exchange serves a request. Found once per head: no request pays for another's kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from shadowcat.proxy.exchanges.affinity_exchange import AffinityExchange, MeasuredAffinityExchange
from shadowcat.proxy.exchanges.batch_exchange import BatchExchange
from shadowcat.proxy.exchanges.checked import checked
from shadowcat.proxy.exchanges.delete_exchange import DeleteExchange
from shadowcat.proxy.exchanges.exchange import Exchange
from shadowcat.proxy.exchanges.filtered import filtered
from shadowcat.proxy.exchanges.initialize import InitializeExchange
from shadowcat.proxy.exchanges.measured_exchange import MeasuredUnboundExchange
from shadowcat.proxy.exchanges.presenting import presenting, renewing
from shadowcat.proxy.exchanges.protected import protected
from shadowcat.proxy.exchanges.queued import queued
from shadowcat.proxy.exchanges.seated import seated
from shadowcat.proxy.exchanges.session_exchange import SessionExchange, UnboundExchange
from shadowcat.proxy.exchanges.stream_exchange import StreamExchange

if TYPE_CHECKING:
    from shadowcat.proxy.clients.template import RequestTemplate


def _plain(kind: type[Exchange]) -> type[Exchange]:
    return kind


class Kinds:
    """The classes of exchanges."""

    __slots__ = ("_batch", "_bodiless", "_chosen", "_initialize", "_modern", "_session", "_unbound")

    def __init__(self, make: Callable[[type[Exchange]], type[Exchange]] = _plain) -> None:
        """`make` turns a class into the one that is used: by default the class itself."""
        self._modern = make(Exchange)
        # By whether the route's strategy compares loads.
        self._chosen = {False: make(AffinityExchange), True: make(MeasuredAffinityExchange)}
        self._unbound = {False: make(UnboundExchange), True: make(MeasuredUnboundExchange)}
        self._initialize = make(InitializeExchange)
        self._session = make(SessionExchange)
        self._bodiless = {b"GET": make(StreamExchange), b"DELETE": make(DeleteExchange)}
        self._batch = make(BatchExchange)

    def of(self, template: RequestTemplate) -> type[Exchange]:
        """The class of a head's exchanges. Of some, the message makes `batch` or `initialize` of it."""
        return _layered(template, self._of(template))

    def initialize(self, template: RequestTemplate) -> type[Exchange]:
        """The class for the first message of a session."""
        return _layered(template, self._initialize)

    def batch(self, template: RequestTemplate) -> type[Exchange]:
        """The class for a batch of a session."""
        return _layered(template, self._batch)

    def _of(self, template: RequestTemplate) -> type[Exchange]:
        route = template.route
        compares = route is not None and route.compares
        if template.is_modern:
            return self._chosen[compares] if route is not None and route.has_choice else self._modern
        if template.session_id is not None:
            return self._bodiless.get(template.method, self._session)
        return self._unbound[compares]


def _layered(template: RequestTemplate, kind: type[Exchange]) -> type[Exchange]:
    """The kind with what the route asks for besides, and nothing else."""
    route = template.route
    if route is None:
        return kind
    if route.access is not None and not route.access.forwards:
        kind = protected(kind)
    if route.presents:
        kind = presenting(kind)
    if route.renews:
        kind = renewing(kind)
    if route.limits is not None and route.limits.has_seats:
        kind = seated(kind)
    if route.checks:
        kind = checked(kind)
    if route.queues and template.is_post:
        kind = queued(kind)
    return filtered(kind) if route.tools.hides_any else kind
