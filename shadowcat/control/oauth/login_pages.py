"""The pages where browsers log in and out (proxy/clients/pages.py), as control answers them."""

from __future__ import annotations

import asyncio
import secrets
from typing import Final, NamedTuple

import msgspec

from shadowcat.auth import code_grant, cookies
from shadowcat.auth.code_grant import GrantError
from shadowcat.auth.tokens import TokenError
from shadowcat.config.login import login_of, login_routes
from shadowcat.config.model import Config, OAuthClient, Route
from shadowcat.config.pages import PageKind
from shadowcat.control.oauth.credentials import CredentialKeeper
from shadowcat.control.oauth.examiner import Examiner
from shadowcat.control.oauth.fetch import FetchError
from shadowcat.control.oauth.grants import PENDING, Granted, Grants, Returned, login_client
from shadowcat.control.oauth.login_events import LoginEvents
from shadowcat.control.oauth.logins import LoginKeeper
from shadowcat.control.oauth.upstream_grants import UpstreamGrants
from shadowcat.control.oauth.vault import VaultFullError
from shadowcat.control.present import Present
from shadowcat.log import LOGGER

_MOST_REVOCATIONS: Final = 64
"""At a time; beyond it issuers are not told."""
_Fields = list[tuple[str, str]]


class Asked(NamedTuple):
    """What a worker passes on of a browser's request."""

    kind: PageKind
    query: bytes
    browser: bytes | None
    logins: dict[str, bytes]
    """The login's cookie of each route that has one."""
    client: str
    """The browser's address."""


class Said(NamedTuple):
    """What the browser gets, as PageAnswer has it."""

    status: int
    fields: _Fields
    text: str


_read: Final = msgspec.msgpack.Decoder(Asked).decode
_read_login: Final = msgspec.msgpack.Decoder(tuple[str, bytes]).decode
"""Route, cookie."""


class LoginPages:
    """Answers browsers."""

    def __init__(
        self,
        present: Present,
        grants: Grants,
        logins: LoginKeeper,
        examiner: Examiner,
        upstreams: UpstreamGrants,
        credentials: CredentialKeeper,
        events: LoginEvents,
    ) -> None:
        self._present = present
        self._grants = grants
        self._logins = logins
        self._examiner = examiner
        self._upstreams = upstreams
        self._credentials = credentials
        self._events = events
        self._revocations: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        """Tell issuers nothing more."""
        for task in self._revocations:
            task.cancel()
        await asyncio.gather(*self._revocations, return_exceptions=True)

    async def token(self, text: bytes) -> bytes:
        """Which token a cookie stands for, as a worker asks and hears it.

        Raises:
            FetchError: The token has to be renewed first, and cannot be.
        """
        return msgspec.msgpack.encode(await self._logins.token(*_read_login(text)))

    async def answer(self, text: bytes) -> bytes:
        """What a browser gets, as a worker asks and hears it."""
        return msgspec.msgpack.encode(await self._say(_read(text)))

    async def _say(self, asked: Asked) -> Said:
        config = self._present.snapshot.config
        try:
            if asked.kind is PageKind.LOGIN:
                return await self._login(config, asked)
            if asked.kind is PageKind.CALLBACK:
                return await self._callback(config, asked)
            return self._logout(config, asked)
        except GrantError as error:
            self._events.failed("refused", str(error), asked.client)
            return _refuse(400, str(error))
        except VaultFullError as error:
            LOGGER.warning("somebody cannot log in: %s", error)
            self._events.failed("full", str(error), asked.client)
            return _refuse(503, "there are too many logins at present: try again later")
        except FetchError as error:
            LOGGER.warning("somebody cannot log in: %s", error)
            self._events.failed("unavailable", str(error), asked.client)
            return _refuse(502, "the authorization server does not answer as it should: try again later")

    async def _login(self, config: Config, asked: Asked) -> Said:
        parameters = code_grant.read_query(asked.query)
        return_to = parameters.get("return_to")
        if return_to is not None:
            code_grant.check_return(return_to)
        routes = {route.path: route for route in login_routes(config)}
        path = parameters.get("route") or (next(iter(routes)) if len(routes) == 1 else "")
        route = routes.get(path)
        if route is None:
            return _refuse(404, "say which route to log in to, such as ?route=/mcp: this is none")
        secure = _is_secure(config)
        browser = asked.browser.decode() if asked.browser is not None else secrets.token_urlsafe(32)
        url = await self._grants.begin(
            config, login_client(config, route), route=path, return_to=return_to, browser=browser
        )
        cookie = cookies.set_cookie(cookies.browser_cookie(secure=secure), browser, PENDING, secure=secure)
        return _redirect(url, [("Set-Cookie", cookie)])

    async def _callback(self, config: Config, asked: Asked) -> Said:
        returned = self._grants.take(asked.query, asked.browser.decode() if asked.browser else "")
        pending = returned.pending
        if pending.upstream is not None:
            self._credentials.wake(await self._upstreams.finish(config, returned))
            self._events.succeeded(pending.route, None, asked.client, pending.upstream)
            return Said(200, [], "Shadowcat has what it needs for this upstream. You can close this page.\n")
        return await self._log_in(config, asked, returned)

    async def _log_in(self, config: Config, asked: Asked, returned: Returned) -> Said:
        pending = returned.pending
        route = next((each for each in login_routes(config) if each.path == pending.route), None)
        login = login_of(route) if route is not None else None
        if route is None or login is None or login.issuer != pending.issuer:
            raise GrantError("nobody can log in there any more")
        granted = await self._grants.redeem(config, login_client(config, route), returned)
        principal = await self._examine(config, route, granted)
        cookie, lifetime = self._logins.begin(route, granted, principal)
        self._events.succeeded(route.path, principal, asked.client)
        before = asked.logins.get(route.path)
        ended = self._logins.end(before, "replaced", asked.client) if before is not None else None
        if ended is not None:
            self._revoke(config, *ended)
        secure = _is_secure(config)
        name = cookies.login_cookie(route.path, secure=secure)
        fields = [("Set-Cookie", cookies.set_cookie(name, cookie, lifetime, secure=secure))]
        if pending.return_to is None:
            return Said(200, fields, "You are logged in.\n")
        return _redirect(pending.return_to, fields)

    async def _examine(self, config: Config, route: Route, granted: Granted) -> str:
        """See that the token is good here before anybody relies on it; whose it is."""
        assert route.auth is not None
        try:
            identity = await self._examiner.examine(config, route, granted.token.encode())
        except TokenError as error:
            raise GrantError(f"the authorization server gave a token that is no good here: {error}") from None
        if not identity.scopes.issuperset(route.auth.scopes):
            raise GrantError("the authorization server did not allow all that is needed here")
        return identity.principal

    def _logout(self, config: Config, asked: Asked) -> Said:
        secure = _is_secure(config)
        for cookie in asked.logins.values():
            ended = self._logins.end(cookie, "logout", asked.client)
            if ended is not None:
                self._revoke(config, *ended)
        names = [cookies.login_cookie(route.path, secure=secure) for route in login_routes(config)]
        fields = [("Set-Cookie", cookies.set_cookie(name, "", 0, secure=secure)) for name in names]
        return Said(200, fields, "You are logged out.\n")

    def _revoke(self, config: Config, path: str, granted: Granted) -> None:
        """Have the issuer told; the login is over, whatever comes of it."""
        route = next((each for each in login_routes(config) if each.path == path), None)
        if route is not None and len(self._revocations) < _MOST_REVOCATIONS:
            task = asyncio.get_running_loop().create_task(self._revoked(login_client(config, route), granted))
            self._revocations.add(task)
            task.add_done_callback(self._revocations.discard)

    async def _revoked(self, client: OAuthClient, granted: Granted) -> None:
        try:
            await self._grants.revoke(client, granted)
        except FetchError as error:
            LOGGER.info("the tokens of a login that is over cannot be revoked: %s", error)


def _is_secure(config: Config) -> bool:
    return cookies.is_secure(config.public_url or "")


def _redirect(url: str, fields: _Fields) -> Said:
    return Said(302, [("Location", url), *fields], "")


def _refuse(status: int, text: str) -> Said:
    return Said(status, [], f"{text[:1].upper()}{text[1:]}.\n")
