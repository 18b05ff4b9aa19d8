"""Who is logged in: tokens stay here, browsers have a cookie, and workers are told what they ask for.

    callback --> kept, in the vault --> renewed when it is due and somebody uses it --> kept anew, stamp
                                    |                +-- the issuer wants it no more --> over
                                    +-- logout, or too old ----------------------------> over

What is in the vault outlives this process. The words in shared memory (shm/logins.py) say which logins count:
they are written last when one begins, and first when one ends, so that whatever a crash leaves is not one.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace

from shadowcat.auth import cookies
from shadowcat.config.login import login_of
from shadowcat.config.model import Config, Route
from shadowcat.config.seats import Snapshot
from shadowcat.control.oauth.fetch import FetchError
from shadowcat.control.oauth.grants import Granted, Grants, OverError, login_client
from shadowcat.control.oauth.login_events import End, LoginEvents
from shadowcat.control.oauth.vault import SPARE, Vault, VaultFullError
from shadowcat.log import LOGGER
from shadowcat.shm.logins import MOST_LOGINS
from shadowcat.shm.shared import Shared

_NS: Final = 1_000_000_000
_ENOUGH: Final = 5.0
"""Seconds: a token that is good for longer is used while it is being renewed."""
_PAUSE: Final = 1.0
"""Seconds from a renewal that failed to the next try."""


class Login(msgspec.Struct, frozen=True):
    """One login."""

    route: str
    digest: int
    """Of its cookie, which itself is not kept."""
    ends_ns: int
    granted: Granted
    principal: str


class Told(NamedTuple):
    """What a worker is told of a login, as LoginToken has it."""

    stamp: int
    token: bytes
    seconds: float
    """For which the token may be used."""


class LoginsFullError(VaultFullError):
    """There are too many logins."""


class LoginKeeper:
    """All logins, with their tokens."""

    def __init__(
        self,
        shared: Shared,
        vault: Vault,
        grants: Grants,
        events: LoginEvents,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Go on with what a control process before this one has left. `clock` tells monotonic ns."""
        self._words = shared.logins
        self._shelf = vault.shelf("logins", Login, SPARE)
        self._grants = grants
        self._events = events
        self._clock = clock
        self._renewals: dict[str, asyncio.Task[None]] = {}
        self._failed: dict[str, int] = {}
        """When a renewal has failed, by slot."""
        self._config: Config | None = None
        known = {key: login.digest for key, login in self._shelf.items()}
        self._shelf.remove([key for key, digest in known.items() if self._words.digest(int(key)) != digest])
        for slot in range(MOST_LOGINS):
            if self._words.digest(slot) and str(slot) not in known:
                self._words.end(slot)

    def configure(self, snapshot: Snapshot) -> None:
        """Go by this configuration: logins at routes that have none, or another client, are over."""
        self._config = snapshot.config
        for key, login in self._shelf.items():
            if self._route_of(login) is None:
                self._end(key, login, "configuration")

    def begin(self, route: Route, granted: Granted, principal: str) -> tuple[str, int]:
        """Somebody has logged in.

        Returns:
            The cookie, and for how many seconds it is good.

        Raises:
            VaultFullError: There is no room for another login.
        """
        section = login_of(route)
        assert section is not None
        self._sweep()
        slot = next((slot for slot in range(MOST_LOGINS) if not self._words.digest(slot)), None)
        if slot is None:
            raise LoginsFullError(f"there are {MOST_LOGINS} logins")
        cookie = cookies.make_value(slot, os.urandom(cookies.RANDOM))
        digest = cookies.digest_of(cookie.encode())
        lifetime = int(section.lifetime)
        ends_ns = self._clock() + lifetime * _NS
        self._shelf.put(str(slot), Login(route.path, digest, ends_ns, granted, principal))
        self._words.begin(slot, digest)
        return cookie, lifetime

    def end(self, cookie: bytes, why: End, client: str) -> tuple[str, Granted] | None:
        """A login is over; at which route, and what it had. None if it was over before.

        Args:
            cookie: Its own.
            why: The reason.
            client: The browser's address.
        """
        key = self._key_of(cookie)
        login = self._shelf.get(key) if key is not None else None
        if key is None or login is None:
            return None
        self._end(key, login, why, client)
        return login.route, login.granted

    async def token(self, path: str, cookie: bytes) -> Told | None:
        """Which token a cookie stands for at a route.

        Returns:
            None if the login is over.

        Raises:
            FetchError: The token has to be renewed first, and cannot be.
        """
        key = self._key_of(cookie)
        login = self._shelf.get(key) if key is not None else None
        if key is None or login is None or login.route != path:
            return None
        now = self._clock()
        if now >= login.ends_ns or self._route_of(login) is None:
            self._end(key, login, "too_old" if now >= login.ends_ns else "configuration")
            return None
        if now >= login.granted.renew_ns and login.granted.refresh_token is not None:
            renewal = self._renew(key, now)
            if login.granted.until_ns - now <= _ENOUGH * _NS:
                if renewal is None:
                    raise FetchError("a login's token cannot be renewed at present")
                await asyncio.shield(renewal)
                login = self._shelf.get(key)
                if login is None or self._key_of(cookie) is None:
                    return None
                now = self._clock()
                if login.granted.until_ns <= now:
                    raise FetchError("a login's token cannot be renewed at present")
        if now >= login.granted.until_ns:
            self._end(key, login, "too_old")  # There is nothing to renew it with.
            return None
        stamp = self._words.stamp(int(key), login.digest)
        if stamp is None:
            return None
        due = login.granted.renew_ns if now < login.granted.renew_ns else login.granted.until_ns
        seconds = min(due, login.ends_ns) - now
        if login.granted.refresh_token is not None and now >= login.granted.renew_ns:
            seconds = min(seconds, int(_PAUSE * _NS))
        return Told(stamp, login.granted.token.encode(), seconds / _NS)

    async def stop(self) -> None:
        """Renew no more."""
        for task in self._renewals.values():
            task.cancel()
        await asyncio.gather(*self._renewals.values(), return_exceptions=True)

    def _key_of(self, cookie: bytes) -> str | None:
        """Where a cookie's login is kept; None if the cookie is no good."""
        slot = cookies.slot_of(cookie)
        if slot is None or self._words.stamp(slot, cookies.digest_of(cookie)) is None:
            return None
        return str(slot)

    def _route_of(self, login: Login) -> Route | None:
        """The route that a login is good at; None if it is none any more."""
        assert self._config is not None
        route = next((each for each in self._config.routes if each.path == login.route), None)
        section = login_of(route) if route is not None else None
        if section is None or (section.issuer, section.client_id) != (
            login.granted.issuer,
            login.granted.client_id,
        ):
            return None
        return route

    def _renew(self, key: str, now: int) -> asyncio.Task[None] | None:
        """Have a login's token renewed, once at a time; None if that has just failed."""
        task = self._renewals.get(key)
        if task is None and now - self._failed.get(key, -_NS * 3600) >= _PAUSE * _NS:
            task = self._renewals[key] = asyncio.get_running_loop().create_task(self._renewed(key))
            task.add_done_callback(lambda _: self._renewals.pop(key, None))
        return task

    async def _renewed(self, key: str) -> None:
        login = self._shelf.get(key)
        route = self._route_of(login) if login is not None else None
        if login is None or route is None or self._config is None:
            return
        try:
            granted = await self._grants.renew(login_client(self._config, route), login.granted)
        except OverError as error:
            LOGGER.info("a login at %s is over: %s", login.route, error)
            if self._is(key, login):
                self._end(key, login, "not_renewed")
            return
        except FetchError as error:
            LOGGER.warning("a login's token at %s cannot be renewed: %s", login.route, error)
            self._failed[key] = self._clock()
            return
        if not self._is(key, login):
            return  # Somebody has logged out meanwhile.
        self._failed.pop(key, None)
        try:
            self._shelf.put(key, replace(login, granted=granted))
        except VaultFullError as error:
            LOGGER.error("a login at %s is over: %s", login.route, error)
            self._end(key, login, "no_room")
            return
        self._words.changed(int(key))

    def _is(self, key: str, login: Login) -> bool:
        """Whether a login is still the one that is kept there."""
        present = self._shelf.get(key)
        return present is not None and present.digest == login.digest

    def _end(self, key: str, login: Login, why: End, client: str | None = None) -> None:
        self._words.end(int(key))
        self._shelf.remove([key])
        self._failed.pop(key, None)
        self._events.ended(login.route, login.principal, why, client)

    def _sweep(self) -> None:
        """Forget what is too old."""
        now = self._clock()
        for key, login in self._shelf.items():
            granted = login.granted
            if now >= login.ends_ns or (granted.refresh_token is None and now >= granted.until_ns):
                self._end(key, login, "too_old")
