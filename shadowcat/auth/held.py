"""Tokens for upstreams that control has fetched, as it publishes them to all workers."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

import msgspec

from shadowcat.config.model import OAuthClient

_MARGIN: Final = 0.05
_LEAST_MARGIN: Final = 1.0
_MOST_MARGIN: Final = 5.0


class Held(msgspec.Struct, frozen=True, array_like=True):
    """The token of one upstream."""

    revision: int
    """Another one for each token."""
    section: bytes
    """The `fingerprint` of the section that it was fetched for: for another one it is not used."""
    token: str
    fetched_ns: int
    """CLOCK_MONOTONIC, as is the next one."""
    until_ns: int
    """From then on it is not sent any more."""


class Holdings(msgspec.Struct, frozen=True, array_like=True):
    """All of them, by the name that `place` gives an upstream."""

    held: dict[str, Held] = {}


encode_holdings = msgspec.msgpack.Encoder().encode
decode_holdings = msgspec.msgpack.Decoder(Holdings).decode


def place(row: int, generation: int) -> str:
    """What the upstream at this seat goes by: no other one ever had it."""
    return f"{row}.{generation}"


def fingerprint(section: OAuthClient) -> bytes:
    """Equal for equal sections."""
    return blake2b(msgspec.msgpack.encode(section), digest_size=16).digest()


def token_digest(token: bytes) -> bytes:
    """By which one process tells another which token it means."""
    return blake2b(token, digest_size=16).digest()


def usable_for(lifetime: float) -> float:
    """Seconds for which a token can be sent that its issuer has just called good for `lifetime` seconds.

    It has to be good when it arrives, by the upstream's clock. Issuers count in whole seconds (RFC 7519
    section 2 allows others): a token may be over almost a second before they say.
    """
    margin = min(max(lifetime * _MARGIN, _LEAST_MARGIN), _MOST_MARGIN)
    return lifetime - min(margin, lifetime / 2)
