"""Upstreams that want the consent of a user: an operator gives it once, and tokens are renewed from there on.

What was granted is kept in the vault by the section that it was granted for. So it outlives this process and
every change of the configuration that leaves the section as it is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from shadowcat.auth.code_grant import GrantError
from shadowcat.auth.held import fingerprint
from shadowcat.config.changes import Target
from shadowcat.config.credentials import fetched
from shadowcat.config.model import AuthorizationCode, Config, Upstream
from shadowcat.config.urls import upstream_name
from shadowcat.control.oauth.fetch import FetchError
from shadowcat.control.oauth.grants import Granted, Grants, OverError, Returned
from shadowcat.control.oauth.login_events import LoginEvents
from shadowcat.control.oauth.tokens import TokenResponse
from shadowcat.control.oauth.vault import Vault
from shadowcat.log import LOGGER

_YOUNG: Final = 10.0
"""Seconds for which a token that was just got is not renewed again, whoever asks."""
_LEAST: Final = 1.0
"""Seconds that a token has to be good for to be used at all."""
_NS: Final = 1_000_000_000


class UpstreamGrants:
    """What operators have granted."""

    def __init__(
        self,
        vault: Vault,
        grants: Grants,
        events: LoginEvents,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`clock` tells monotonic ns."""
        self._shelf = vault.shelf("upstreams", Granted)
        self._grants = grants
        self._events = events
        self._clock = clock
        self._locks: dict[str, asyncio.Lock] = {}

    async def begin(self, config: Config, target: Target) -> str:
        """The URL where an operator gives the consent.

        Raises:
            GrantError: This upstream needs none, or the authorization server cannot be used.
            FetchError: The authorization server does not answer.
            VaultFullError: There is no room.
        """
        section = _section(config, target)
        if section is None:
            raise GrantError(f"upstream {target.upstream} has no credential.authorization_code")
        return await self._grants.begin(config, section, route=target.route, upstream=target.upstream)

    async def finish(self, config: Config, returned: Returned) -> AuthorizationCode:
        """An operator has given it; the section that it is for.

        Raises:
            GrantError: There is no such upstream any more.
            FetchError: The authorization server does not hand out the tokens.
            VaultFullError: There is no room for them.
        """
        pending = returned.pending
        section = _section(config, Target(pending.route, pending.upstream or ""))
        if section is None or section.issuer != pending.issuer:
            raise GrantError("there is no such upstream any more")
        granted = await self._grants.redeem(config, section, returned)
        self._shelf.put(_key(section), granted)
        if granted.refresh_token is None:
            LOGGER.warning(
                "upstream %s of %s: the authorization server gave no refresh token, so that somebody has to"
                " log in again when the token is over",
                pending.upstream,
                pending.route,
            )
        return section

    def is_needed(self, section: AuthorizationCode) -> bool:
        """Whether nobody has given the consent, or it is used up."""
        granted = self._shelf.get(_key(section))
        return granted is None or (granted.refresh_token is None and self._left(granted) < _LEAST)

    async def token(self, section: AuthorizationCode) -> TokenResponse:
        """A token for a section, which is good for as long as possible.

        Raises:
            FetchError: There is none; if somebody has to log in, it says so.
        """
        key = _key(section)
        # Each refresh token is good once, and several upstreams may have equal sections.
        async with self._locks.setdefault(key, asyncio.Lock()):
            granted = self._shelf.get(key)
            if granted is None:
                raise _needed()
            is_young = self._clock() - granted.granted_ns < _YOUNG * _NS and self._left(granted) > _YOUNG
            if granted.refresh_token is not None and not is_young:
                granted = await self._renew(section, key, granted)
            left = self._left(granted)
            if left < _LEAST:
                raise _needed()
            return TokenResponse(granted.token, left, None, None)

    async def _renew(self, section: AuthorizationCode, key: str, granted: Granted) -> Granted:
        try:
            renewed = await self._grants.renew(section, granted)
        except OverError:
            if self._shelf.get(key) == granted:  # Not one that came meanwhile.
                self._shelf.remove([key])
                self._events.withdrawn(granted.issuer, granted.client_id)
            raise _needed() from None
        if self._shelf.get(key) == granted:
            self._shelf.put(key, renewed)
        return renewed

    def _left(self, granted: Granted) -> float:
        return (granted.until_ns - self._clock()) / _NS


def login_state(grants: UpstreamGrants | None, upstream: Upstream) -> str | None:
    """needed, done, or None where nobody has to log in."""
    section = fetched(upstream)
    if grants is None or not isinstance(section, AuthorizationCode):
        return None
    return "needed" if grants.is_needed(section) else "done"


def _section(config: Config, target: Target) -> AuthorizationCode | None:
    for route in config.routes:
        for upstream in route.upstreams:
            if (route.path, upstream_name(upstream)) == target:
                section = fetched(upstream)
                return section if isinstance(section, AuthorizationCode) else None
    return None


def _key(section: AuthorizationCode) -> str:
    return fingerprint(section).hex()


def _needed() -> FetchError:
    return FetchError("somebody has to log in: run `shadowcat upstream login NAME`")
