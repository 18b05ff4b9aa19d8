"""Tokens that clients' tokens are exchanged for (RFC 8693), as one worker knows them.

A route whose upstreams want such tokens lets a client's token in when all of them are there. They are got
once per token, by control, all at the same time, and kept with what is known of the token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from shadowcat.auth.cache import TokenCache
from shadowcat.auth.held import token_digest
from shadowcat.errors import Refusal
from shadowcat.proxy.clients.denial import Denial
from shadowcat.proxy.upstreams.credentialed import PersonalPool, Presented
from shadowcat.shm.questions import Outcome

if TYPE_CHECKING:
    from shadowcat.proxy.clients.admission import Admitted
    from shadowcat.proxy.plane import DataPlane

_REFUSED_FOR: Final = 5.0
"""Seconds for which nobody is asked again about a token that was refused."""
_MOST_REFUSED: Final = 4096
_NANOSECONDS: Final = 1e9
_OPENING: Final = b"Authorization: Bearer "

_read_answer: Final = msgspec.msgpack.Decoder(tuple[str, int]).decode
"""The token, and until when it may be sent (CLOCK_MONOTONIC ns)."""


class Lacking(NamedTuple):
    """What a token that is good cannot do without."""

    admitted: Admitted
    key: bytes
    """By which the worker knows the client's token."""
    pools: list[PersonalPool]
    """Of the upstreams whose token is not there."""


class Wish(NamedTuple):
    """One token to be got."""

    admitted: Admitted
    key: bytes
    pool: PersonalPool

    @property
    def name(self) -> tuple[bytes, str]:
        """Equal for those that one answer serves."""
        return self.key, self.pool.place


class Exchanger:
    """Knows which tokens are there, and takes in the others."""

    __slots__ = ("_plane", "_refused")

    def __init__(self, plane: DataPlane, secret: bytes) -> None:
        """`secret` is random, and this process's own."""
        self._plane = plane
        self._refused: TokenCache[float] = TokenCache(secret, _MOST_REFUSED)
        """Until when each is refused, by token and upstream."""

    def look(
        self, pools: tuple[PersonalPool, ...], admitted: Admitted, key: bytes
    ) -> Denial | Lacking | None:
        """What keeps a token that is good from being let in.

        Args:
            pools: Of the upstreams of the route that want tokens.
            admitted: What is known of the token. It ends with the first of these tokens.
            key: By which the token is known.
        """
        now = self._plane.clock()
        lacking = []
        until = admitted.until
        for pool in pools:
            presented = admitted.presented.get(pool.place)
            if presented is None or presented.section != pool.exchange or now >= presented.until:
                until_refused = self._refused.get(self._name(key, pool))
                if until_refused is not None and now < until_refused:
                    return Denial(
                        Refusal.EXCHANGE_REFUSED, detail=pool.origin.name, principal=admitted.principal
                    )
                lacking.append(pool)
            else:
                until = min(until, presented.until)
        if lacking:
            return Lacking(admitted, key, lacking)
        admitted.until = until
        return None

    def question(self, wish: Wish, token: bytes) -> bytes:
        """What control is asked: for another token than the one that was there, if it comes to that."""
        before = wish.admitted.presented.get(wish.pool.place)
        digest = b"" if before is None else token_digest(before.line[len(_OPENING) : -2])
        return msgspec.msgpack.encode((wish.pool.place, token, digest))

    def take(self, wish: Wish, admitted: Admitted | None, outcome: Outcome, text: bytes) -> None:
        """Take in what control has answered; `admitted` is what is known of the client's token by now."""
        section = wish.pool.exchange
        if outcome is Outcome.DONE and section is not None:
            token, until_ns = _read_answer(text)
            line = b"%b%b\r\n" % (_OPENING, token.encode("ascii"))
            presented = Presented(section, line, until_ns / _NANOSECONDS, self._plane.clock())
            for each in (wish.admitted, admitted):
                if each is not None and each.principal == wish.admitted.principal:
                    each.presented[wish.pool.place] = presented
        elif outcome is Outcome.REFUSED:
            self._refused.put(self._name(wish.key, wish.pool), self._plane.clock() + _REFUSED_FOR)

    def _name(self, key: bytes, pool: PersonalPool) -> bytes:
        return self._refused.key(pool.place.encode(), key)


def carry_over(before: Admitted | None, after: Admitted) -> None:
    """A token was verified anew: what was got for it stays, and is known for what is over."""
    if before is not None and before.principal == after.principal:
        after.presented = before.presented
