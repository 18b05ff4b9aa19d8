"""Judges a token as workers do, for control itself: what nobody may use is not kept either."""

from __future__ import annotations

import time
from collections.abc import Callable

from shadowcat.auth.keys import KeySet, source_of
from shadowcat.auth.tokens import TokenError
from shadowcat.auth.verify import Identity, TrustedIssuer, Unknown, Verifier
from shadowcat.config.access import resource_of
from shadowcat.config.model import Config, Issuer, Route
from shadowcat.control.oauth.fetch import Fetcher, FetchError
from shadowcat.control.oauth.keys import KeyKeeper


class Examiner:
    """Judges tokens by the rules of a route (auth/verify.py)."""

    def __init__(
        self,
        keeper: KeyKeeper,
        fetcher: Fetcher,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`wall` tells seconds since 1970, `clock` monotonic ns."""
        self._keeper = keeper
        self._fetcher = fetcher
        self._wall = wall
        self._clock = clock

    async def examine(self, config: Config, route: Route, token: bytes) -> Identity:
        """Whose token it is.

        Raises:
            TokenError: It is not good at this route.
            FetchError: That cannot be found out now.
        """
        found = self._verify(config, route, token)
        if isinstance(found, Unknown) and found.source is not None:
            await self._keeper.renew(found.source)
            found = self._verify(config, route, token)
            if isinstance(found, Unknown):
                raise FetchError(f"the key of a token of {found.issuer.issuer} is not known")
        if isinstance(found, Unknown):
            claims = await self._fetcher.introspect(found.issuer, token)
            if claims.get("active") is not True:
                raise TokenError("the token is not active")
            return self._verifier(config, route).accept(found.issuer, claims, self._wall())
        return found

    def _verify(self, config: Config, route: Route, token: bytes) -> Identity | Unknown:
        return self._verifier(config, route).verify(token, self._wall(), self._clock())

    def _verifier(self, config: Config, route: Route) -> Verifier:
        auth = route.auth
        assert auth is not None
        resource = resource_of(config, route)
        trusted = [
            TrustedIssuer(issuer, issuer.audience or resource or "", self._keys(issuer))
            for issuer in auth.issuers
        ]
        return Verifier(trusted, auth.leeway)

    def _keys(self, issuer: Issuer) -> KeySet | None:
        source = source_of(issuer)
        published = self._keeper.known(source) if source is not None else None
        if published is None:
            return None
        keys = KeySet.of(published)
        keys.until_ns = published.until_ns
        return keys
