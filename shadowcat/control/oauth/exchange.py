"""Exchanges clients' tokens for those of upstreams (RFC 8693): once, however many workers ask."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from hashlib import blake2b
from typing import Final, NamedTuple

import msgspec

from shadowcat.auth.held import fingerprint, place, token_digest, usable_for
from shadowcat.config.model import TokenExchange
from shadowcat.control.oauth.fetch import FetchError
from shadowcat.control.oauth.tokens import TOKEN_EXCHANGE, TOKEN_TYPE, OAuthError, TokenClient
from shadowcat.control.present import Present
from shadowcat.log import LOGGER
from shadowcat.shm.questions import Outcome

MOST: Final = 2048
"""Tokens that are kept for other workers."""
_NS: Final = 1_000_000_000

EARLY: Final = 10.0
"""Seconds for which a token is good enough for everybody, though an upstream does not accept it."""

_read_wish: Final = msgspec.msgpack.Decoder(tuple[str, bytes, bytes]).decode
"""Place of the upstream, the client's token, and the digest of what the upstream does not accept for it."""


class _Exchanged(NamedTuple):
    token: str
    until_ns: int
    since_ns: int

    def is_good(self, now_ns: int, rejected: bytes) -> bool:
        """Whether it may be used again; `rejected` is the digest of one that is not accepted."""
        if now_ns < self.until_ns and rejected == token_digest(self.token.encode()):
            return now_ns - self.since_ns < EARLY * _NS
        return now_ns < self.until_ns


class Exchanges:
    """Asks for tokens, and keeps them for a while. Not shared memory: whoever comes next asks anew."""

    def __init__(
        self, present: Present, tokens: TokenClient, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """`clock` tells monotonic ns."""
        self._present = present
        self._tokens = tokens
        self._clock = clock
        self._secret = os.urandom(32)
        self._kept: dict[bytes, _Exchanged] = {}
        self._asking: dict[bytes, asyncio.Task[_Exchanged]] = {}

    async def answer(self, text: bytes) -> tuple[Outcome, bytes]:
        """Answer a worker's question; see `Ask.EXCHANGE`."""
        where, token, rejected = _read_wish(text)
        section = self._find(where)
        if section is None:
            return Outcome.UNAVAILABLE, b""
        key = blake2b(token, digest_size=32, key=self._secret, salt=fingerprint(section)).digest()
        found = self._kept.get(key)
        try:
            if found is None or not found.is_good(self._clock(), rejected):
                found = await self._ask(key, section, token)
        except OAuthError as error:
            if error.is_about_grant:
                LOGGER.info("a client's token is not exchanged: %s", error)
                return Outcome.REFUSED, b""
            LOGGER.warning("clients' tokens cannot be exchanged: %s", error)
            return Outcome.UNAVAILABLE, b""
        except FetchError as error:
            LOGGER.warning("clients' tokens cannot be exchanged: %s", error)
            return Outcome.UNAVAILABLE, b""
        return Outcome.DONE, msgspec.msgpack.encode((found.token, found.until_ns))

    def _find(self, where: str) -> TokenExchange | None:
        for _, _, upstream, seat in self._present.snapshot.upstreams():
            if place(seat.row, seat.generation) == where:
                return upstream.credential.token_exchange if upstream.credential is not None else None
        return None

    async def _ask(self, key: bytes, section: TokenExchange, token: bytes) -> _Exchanged:
        task = self._asking.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._exchange(section, token))
            self._asking[key] = task
            task.add_done_callback(lambda done: self._done(key, done))
        # Whoever asked first may be gone before the others.
        return await asyncio.shield(task)

    def _done(self, key: bytes, task: asyncio.Task[_Exchanged]) -> None:
        self._asking.pop(key, None)
        if not task.cancelled() and task.exception() is None:
            self._kept.pop(key, None)
            while len(self._kept) >= MOST:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = task.result()

    async def _exchange(self, section: TokenExchange, token: bytes) -> _Exchanged:
        begun = self._clock()
        found = await self._tokens.token(
            section,
            TOKEN_EXCHANGE,
            subject_token=token.decode("ascii"),
            subject_token_type=TOKEN_TYPE + section.subject_token_type,
            requested_token_type=f"{TOKEN_TYPE}access_token",
        )
        return _Exchanged(found.access_token, begun + int(usable_for(found.lifetime) * _NS), begun)

    async def stop(self) -> None:
        """Ask no more."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
