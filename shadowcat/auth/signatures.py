"""Signatures, by PyJWT. Imported where there are tokens to verify: it takes 50 ms."""

from __future__ import annotations

from typing import Any, Final

import jwt
from jwt.algorithms import get_default_algorithms

SHORTEST_RSA: Final = 2048  # RFC 7518 section 3.3.
LONGEST_RSA: Final = 8192
_ALGORITHMS: Final = get_default_algorithms()


def load(algorithm: str, jwk: dict[str, str]) -> Any:
    """The public key of a JWK for these algorithms; None if it is none, or too weak, or too costly."""
    try:
        key = _ALGORITHMS[algorithm].from_jwk(dict(jwk))
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    if jwk["kty"] == "RSA" and not SHORTEST_RSA <= key.key_size <= LONGEST_RSA:
        return None
    return key


def verify(algorithm: str, key: Any, signed: bytes, signature: bytes) -> bool:
    """Whether `signature` was made over `signed`."""
    return bool(_ALGORITHMS[algorithm].verify(signed, key, signature))
