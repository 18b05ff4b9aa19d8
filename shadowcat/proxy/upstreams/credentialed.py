"""Pools of upstreams that are sent a credential which does not stand in the configuration.

A request that cannot have its credential is not sent: it waits for a while, goes to another upstream, or is
refused. As every request to an upstream passes through its pool, none is forgotten; pools of other upstreams
are none of these, so nothing of it costs them anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple

from shadowcat.auth.held import Held, fingerprint
from shadowcat.config import model
from shadowcat.config.credentials import fetched
from shadowcat.errors import Refusal
from shadowcat.proxy.upstreams.pool import Pool

if TYPE_CHECKING:
    from shadowcat.proxy.clients.admission import Admitted
    from shadowcat.proxy.plane import DataPlane
    from shadowcat.proxy.route import Route
    from shadowcat.proxy.upstreams.origin import Origin
    from shadowcat.proxy.upstreams.site import Site
    from shadowcat.proxy.upstreams.upstream import Job

EARLY: Final = 10.0
"""Seconds for which an exchanged token is used at least, whatever the upstream says of it."""
PATIENCE: Final = 2.0
"""Seconds that a request waits for a credential that control has not fetched yet."""
_NANOSECONDS: Final = 1e9


class Presented(NamedTuple):
    """What one upstream is told about one client."""

    section: model.TokenExchange | model.Assertion
    """By which it was made."""
    line: bytes
    """The header field, with its CRLF."""
    until: float
    """Loop's clock, seconds."""
    since: float = 0.0


class FetchedPool(Pool):
    """The pool of an upstream whose credential control fetches, the same for all clients."""

    __slots__ = ("_bare", "_delayed", "_revision", "_until", "section")

    def __init__(self, plane: DataPlane, site: Site) -> None:
        """Begin without the credential; `present` brings it."""
        super().__init__(plane, site)
        self._bare = site.origin
        self._delayed: dict[Job, bool] = {}
        """Jobs that wait for the credential, and whether they want a fresh connection."""
        self._revision = 0
        self._until = -inf
        """When the credential is over, loop's clock."""
        self.section = self._fingerprint()

    @property
    def revision(self) -> int:
        """Which credential it has; 0: none yet."""
        return self._revision

    def change(self, config: model.Pool, upstream: model.Upstream, origin: Origin | None) -> None:
        """Go by another configuration from now on; another section means another credential."""
        super().change(config, upstream, origin)
        if origin is not None:
            self._bare = origin
            self.section = self._fingerprint()
            self._withdraw()

    def _withdraw(self) -> None:
        """There is no credential now: who waits for a connection waits for that first."""
        self._revision, self._until = 0, -inf
        for exchange in list(self._waiting):
            self.forget(exchange)
            self.acquire(exchange, fresh=True)
        self._say_who_waits()

    def _fingerprint(self) -> bytes:
        section = fetched(self.upstream)
        assert section is not None  # A pool of this class has one.
        return fingerprint(section)

    def present(self, held: Held | None) -> None:
        """Send this credential from now on; None: there is none."""
        if held is None or held.section != self.section:
            self._withdraw()
            return
        self._until = held.until_ns / _NANOSECONDS
        if held.revision != self._revision:
            self._revision = held.revision
            # The same place: connections stay.
            self.origin = self._bare.bearing(b"Authorization: Bearer %b\r\n" % held.token.encode("ascii"))
        if self._plane.clock() < self._until:
            while self._delayed:
                exchange, fresh = next(iter(self._delayed.items()))
                del self._delayed[exchange]
                exchange.deadline = inf
                Pool.acquire(self, exchange, fresh)

    def acquire(self, exchange: Job, fresh: bool = False) -> None:
        """Give `exchange` a connection once there is a credential for it."""
        if self._plane.clock() < self._until:
            Pool.acquire(self, exchange, fresh)  # `super` takes three times as long.
        elif self._closed or len(self._delayed) >= self._max_queue:
            exchange.no_connection(Refusal.CREDENTIAL_MISSING, self.origin.name)
        else:
            self._delayed[exchange] = fresh
            self._plane.wheel.set(exchange, self._plane.loop.time() + PATIENCE)

    def forget(self, exchange: Job) -> None:
        """Take an exchange out of the queue."""
        if exchange in self._delayed:
            del self._delayed[exchange]
        else:
            super().forget(exchange)

    def overdue(self, exchange: Job) -> bool:
        """Whether an exchange has to give up; one without a credential has heard so then."""
        if exchange not in self._delayed:
            return super().overdue(exchange)
        del self._delayed[exchange]
        exchange.no_connection(Refusal.CREDENTIAL_MISSING, self.origin.name)
        return False

    def abort(self) -> None:
        """Cut everything off."""
        self._closed = True  # Until all is cut off: nobody begins to wait anew.
        delayed, self._delayed = self._delayed, {}
        for exchange in delayed:
            exchange.no_connection(Refusal.NO_UPSTREAM, self.origin.name)
        super().abort()

    def rejected(self) -> None:
        """The upstream asks to authenticate: the credential may have been withdrawn."""
        self._plane.credentials.renew(self)


class PersonalPool(Pool):
    """The pool of an upstream that is told who the client is."""

    __slots__ = ()

    @property
    def exchange(self) -> model.TokenExchange | None:
        """The section by which clients' tokens are exchanged; None where assertions are minted."""
        credential = self.upstream.credential
        return credential.token_exchange if credential is not None else None

    def acquire(self, exchange: Job, fresh: bool = False) -> None:
        """Give `exchange` a connection, if what it has to present is there."""
        if self.line_for(getattr(exchange, "admitted", None)) is None:
            exchange.no_connection(Refusal.CREDENTIAL_MISSING, self.origin.name)
        else:
            Pool.acquire(self, exchange, fresh)

    def line_for(self, admitted: Admitted | None) -> bytes | None:
        """The header field that tells the upstream who the client is; None if there is nothing to tell."""
        if admitted is None:
            return None
        presented = admitted.presented.get(self.place)
        signer = self.origin.signer
        if signer is None:
            return None if presented is None else presented.line
        section = signer.section
        now = self._plane.clock()
        if presented is None or presented.section is not section or now >= presented.until:
            wall = self._plane.credentials.wall()
            identity = admitted.identity
            line = signer.line(identity.issuer, identity.client, identity.subject, identity.scopes, wall)
            presented = Presented(section, line, now + signer.lifetime / 2)
            admitted.presented[self.place] = presented
        return presented.line

    def rejected(self, admitted: Admitted | None) -> None:
        """The upstream asks to authenticate: what the client's token was exchanged for may have been
        withdrawn. With the next request another one is asked for.
        """
        presented = admitted.presented.get(self.place) if admitted is not None else None
        now = self._plane.clock()
        if admitted is None or presented is None or self.exchange is None or now < presented.since + EARLY:
            return
        admitted.presented[self.place] = presented._replace(until=min(now, presented.until))
        admitted.until = min(now, admitted.until)


def pool_class(upstream: model.Upstream) -> type[Pool]:
    """The class of an upstream's pool. Its seat is another one as soon as this is (config/seats.py)."""
    if fetched(upstream) is not None:
        return FetchedPool
    credential = upstream.credential
    if credential is None or (credential.token_exchange or credential.assertion) is None:
        return Pool
    return PersonalPool


def present_at(route: Route, pools: Sequence[Pool]) -> None:
    """Have the requests of a route tell what these pools, those that leave included, have to be told."""
    route.presents = any(isinstance(pool, PersonalPool) for pool in pools)
    route.renews = any(isinstance(pool, FetchedPool) for pool in pools)
    route.exchanging = tuple(
        pool for pool in pools if isinstance(pool, PersonalPool) and pool.exchange is not None
    )
