"""Tokens that a worker has verified lately."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final, Generic, TypeVar

MOST: Final = 16_384
"""Entries of each of the two generations."""
_DIGEST: Final = 16

_Entry = TypeVar("_Entry")


class TokenCache(Generic[_Entry]):
    """Entries by a keyed digest of the token: neither the tokens are kept, nor what they could be guessed by.

    A token has one spelling only (`tokens.read_jwt`), so it has one digest. Entries live in two generations,
    as those of http1/memo.py do: what is in use stays.
    """

    __slots__ = ("_most", "_old", "_secret", "_young")

    def __init__(self, secret: bytes, most: int = MOST) -> None:
        """`secret` is random, and this process's own; `most` bounds each generation."""
        self._secret = secret
        self._most = most
        self._young: dict[bytes, _Entry] = {}
        self._old: dict[bytes, _Entry] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def key(self, scope: bytes, token: bytes) -> bytes:
        """What a token goes by; `scope` is where it is good."""
        text = b"%d:%b%b" % (len(scope), scope, token)
        return blake2b(text, digest_size=_DIGEST, key=self._secret).digest()

    def get(self, key: bytes) -> _Entry | None:
        """The entry of a token; whether it still holds is for the caller to see."""
        entry = self._young.get(key)
        if entry is None:
            entry = self._old.pop(key, None)
            if entry is not None:
                self.put(key, entry)
        return entry

    def put(self, key: bytes, entry: _Entry) -> None:
        """Keep an entry."""
        if len(self._young) >= self._most:
            self.rotate()
        self._young[key] = entry

    def rotate(self) -> None:
        """Drop what was not used since the last rotation."""
        self._old, self._young = self._young, {}
