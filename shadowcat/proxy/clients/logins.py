"""The tokens that cookies stand for, as far as this worker has been told.

A browser never has the token: control keeps it, and tells it to the worker that needs it. From there on a
request with a cookie is judged as if it had come with that token. What is known of a cookie counts as long as
the login's stamp in shared memory is the same, so that a logout is seen by the very next request.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from shadowcat.auth.cache import TokenCache
from shadowcat.auth.cookies import digest_of, slot_of
from shadowcat.auth.tokens import TokenError
from shadowcat.shm.logins import MOST_LOGINS, Logins

_DENIED_FOR: Final = 5.0
"""Seconds for which control is not asked again about a cookie that is no good here."""
OVER: Final = "the login is over; log in again"


class LoginToken(NamedTuple):
    """What control says of a cookie."""

    stamp: int
    """Of the login when it was said."""
    token: bytes
    seconds: float
    """For which it may be relied on."""


class _Known(NamedTuple):
    stamp: int
    token: bytes | None
    until: float


_read: Final = msgspec.msgpack.Decoder(LoginToken | None).decode


class KnownLogins:
    """For one worker."""

    __slots__ = ("_cache", "_clock", "_logins")

    def __init__(self, logins: Logins, secret: bytes, clock: Callable[[], float]) -> None:
        """`secret` is random, and this process's own; `clock` is the loop's, in seconds."""
        self._logins = logins
        self._clock = clock
        self._cache: TokenCache[_Known] = TokenCache(secret, MOST_LOGINS)

    def find(self, scope: bytes, cookie: bytes) -> bytes | None:
        """The token that a cookie stands for; None if control has to be asked.

        Raises:
            TokenError: It stands for none.
        """
        slot = slot_of(cookie)
        stamp = None if slot is None else self._logins.stamp(slot, digest_of(cookie))
        if stamp is None:
            raise TokenError(OVER)
        known = self._cache.get(self._cache.key(scope, cookie))
        if known is None or known.stamp != stamp or self._clock() >= known.until:
            return None
        if known.token is None:
            raise TokenError(OVER)
        return known.token

    def learn(self, scope: bytes, cookie: bytes, text: bytes) -> None:
        """Control has answered."""
        told = _read(text)
        now = self._clock()
        if told is not None:
            known = _Known(told.stamp, told.token, now + told.seconds)
        else:
            # It is over, which the words show by now; or it is one of another route.
            slot = slot_of(cookie)
            stamp = None if slot is None else self._logins.stamp(slot, digest_of(cookie))
            known = _Known(0 if stamp is None else stamp, None, now + _DENIED_FOR)
        self._cache.put(self._cache.key(scope, cookie), known)
