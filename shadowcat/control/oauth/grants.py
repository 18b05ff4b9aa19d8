"""The proxy as a client that users authorize: from the address they are sent to, to the tokens it brings.

Used for browsers that log in, and for upstreams that an operator authorizes. What has begun is in the vault
until the browser comes back, or 10 minutes have passed; each state is good once.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable
from hashlib import sha256
from typing import Final, NamedTuple

import msgspec

from shadowcat.auth import code_grant
from shadowcat.auth.code_grant import GrantError, Server
from shadowcat.config.access import resource_of
from shadowcat.config.login import login_of, redirect_uri
from shadowcat.config.model import Config, OAuthClient, Route
from shadowcat.control.oauth.fetch import Fetcher
from shadowcat.control.oauth.tokens import OAuthError, TokenClient, TokenResponse
from shadowcat.control.oauth.vault import SPARE, Vault
from shadowcat.errors import ShadowcatError

PENDING: Final = 600
"""Seconds that somebody has to approve."""
MOST_PENDING: Final = 256
"""Beyond it the oldest are forgotten: nobody has to be known to begin one."""
RENEW_AT: Final = 0.8
"""Share of a token's lifetime after which it is renewed."""
_METADATA_FOR: Final = 300.0
"""Seconds for which an issuer's metadata are used again."""
_NS: Final = 1_000_000_000


class OverError(ShadowcatError):
    """A grant is over: the authorization server does not renew it any more."""


class Pending(msgspec.Struct, frozen=True):
    """What has begun."""

    route: str
    upstream: str | None
    """For which it is; None: for a browser that logs in."""
    return_to: str | None
    browser: str
    """Digest of what the browser has to show; empty where an operator may use any."""
    verifier: str
    issuer: str
    names_itself: bool
    """Whether the answer has to say whom it is from."""
    until_ns: int


class Granted(msgspec.Struct, frozen=True):
    """What came of it."""

    issuer: str
    client_id: str
    token: str
    granted_ns: int
    """CLOCK_MONOTONIC, as all of these."""
    until_ns: int
    renew_ns: int
    refresh_token: str | None


class Returned(NamedTuple):
    """Somebody is back."""

    pending: Pending
    code: str


class Grants:
    """Begins grants, redeems codes, and renews what has come of them."""

    def __init__(
        self,
        vault: Vault,
        fetcher: Fetcher,
        tokens: TokenClient,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`clock` tells monotonic ns."""
        self._shelf = vault.shelf("pending", Pending, SPARE)
        self._fetcher = fetcher
        self._tokens = tokens
        self._clock = clock
        self._servers: dict[str, tuple[Server, int]] = {}
        """By issuer, and when they were looked up."""

    async def begin(
        self,
        config: Config,
        client: OAuthClient,
        *,
        route: str,
        upstream: str | None = None,
        return_to: str | None = None,
        browser: str = "",
    ) -> str:
        """Where to go to approve.

        Args:
            config: The present one.
            client: The proxy, as the authorization server knows it.
            route: Of which it is.
            upstream: See `Pending`.
            return_to: A path of this origin, already checked.
            browser: What the browser will show again.

        Raises:
            GrantError: With this authorization server it is not possible.
            FetchError: The authorization server does not say where that is.
            VaultFullError: There is no room.
        """
        issuer = client.issuer
        assert issuer is not None
        server = await self._server(issuer)
        state, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(48)
        self._make_room()
        pending = Pending(
            route,
            upstream,
            return_to,
            _digest(browser) if browser else "",
            verifier,
            issuer,
            server.names_itself,
            self._clock() + PENDING * _NS,
        )
        self._shelf.put(_digest(state), pending)
        return code_grant.authorization_url(
            server.authorization_endpoint,
            client_id=client.client_id,
            redirect_uri=redirect_uri(config),
            state=state,
            verifier=verifier,
            scopes=client.scopes,
            resource=client.resource,
        )

    def take(self, query: bytes, browser: str) -> Returned:
        """Somebody is back with this query; nobody else can be with the same one.

        Args:
            query: With its question mark.
            browser: What the browser shows; empty if it shows nothing.

        Raises:
            GrantError: It goes no further.
        """
        answer = code_grant.read_answer(code_grant.read_query(query))
        pending = self._shelf.take(_digest(answer.state))
        if pending is None or self._clock() >= pending.until_ns:
            raise GrantError("this login is not known, was used before, or took too long: begin anew")
        if pending.browser and not hmac.compare_digest(pending.browser, _digest(browser)):
            raise GrantError("this login has begun in another browser: begin anew")
        code_grant.check_issuer(answer, pending.issuer, names_itself=pending.names_itself)
        if answer.code is None:
            raise GrantError(code_grant.describe_error(answer.error or ""))
        return Returned(pending, answer.code)

    async def redeem(self, config: Config, client: OAuthClient, returned: Returned) -> Granted:
        """Get the tokens for a code (OAuth 2.1 section 4.1.3).

        Raises:
            OAuthError: The authorization server says no.
            FetchError: It does not answer as it should.
        """
        response = await self._tokens.token(
            _plain(client),
            "authorization_code",
            code=returned.code,
            redirect_uri=redirect_uri(config),
            code_verifier=returned.pending.verifier,
        )
        return self._granted(client, response, None)

    async def renew(self, client: OAuthClient, granted: Granted) -> Granted:
        """Get another token (OAuth 2.1 section 4.3); the old refresh token is used up by that.

        Raises:
            OverError: There will be none.
            FetchError: There is none now.
        """
        assert granted.refresh_token is not None
        try:
            response = await self._tokens.token(
                _plain(client), "refresh_token", refresh_token=granted.refresh_token
            )
        except OAuthError as error:
            if error.code == "invalid_grant":
                raise OverError(str(error)) from None
            raise
        return self._granted(client, response, granted.refresh_token)

    async def revoke(self, client: OAuthClient, granted: Granted) -> None:
        """Have the authorization server forget it (RFC 7009), if it can.

        Raises:
            FetchError: It cannot, or not now.
        """
        await self._tokens.revoke(_plain(client), granted.refresh_token or granted.token)

    async def _server(self, issuer: str) -> Server:
        known = self._servers.get(issuer)
        if known is not None and self._clock() - known[1] < _METADATA_FOR * _NS:
            return known[0]
        self._fetcher.trust_urls([issuer])
        server = code_grant.read_server(await self._fetcher.metadata(issuer))
        self._servers[issuer] = server, self._clock()
        return server

    def _granted(self, client: OAuthClient, response: TokenResponse, before: str | None) -> Granted:
        now = self._clock()
        return Granted(
            client.issuer or "",
            client.client_id,
            response.access_token,
            now,
            now + int(response.lifetime * _NS),
            now + int(response.lifetime * RENEW_AT * _NS),
            response.refresh_token or before,
        )

    def _make_room(self) -> None:
        now = self._clock()
        old = [key for key, pending in self._shelf.items() if now >= pending.until_ns]
        rest = [key for key in self._shelf if key not in old]
        self._shelf.remove([*old, *rest[: max(0, len(rest) - MOST_PENDING + 1)]])


def login_client(config: Config, route: Route) -> OAuthClient:
    """The proxy as the client of a route's `login`."""
    login = login_of(route)
    assert login is not None
    assert route.auth is not None
    return OAuthClient(
        issuer=login.issuer,
        client_id=login.client_id,
        client_secret=login.client_secret or "",
        scopes=login.scopes or route.auth.scopes,
        resource=resource_of(config, route),
    )


def _plain(client: OAuthClient) -> OAuthClient:
    """As token requests have it: what was approved is not named again, and a public client has no secret."""
    return msgspec.structs.replace(
        client, scopes=[], auth_method=client.auth_method if client.client_secret else "post"
    )


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()
