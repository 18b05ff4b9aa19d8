"""Makes tokens: good ones, and bad ones for tests."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from shadowcat.testing.mock_oauth.clock import Clock
from shadowcat.testing.mock_oauth.forgeries import FORGERIES, Draft, attach, segments, signed
from shadowcat.testing.mock_oauth.keys import KeyRing


class Mint:
    """Signs tokens of one issuer.

    Args:
        issuer: The `iss` claim.
        ring: The keys.
        clock: For `iat` and `exp`.
        lifetime: Seconds until a token expires.
    """

    def __init__(self, issuer: str, ring: KeyRing, clock: Clock, lifetime: int) -> None:
        self.issuer = issuer
        self._ring = ring
        self._clock = clock
        self._lifetime = lifetime

    def claims(self, **members: Any) -> dict[str, Any]:
        """Return claims with iss, iat, exp and jti added; a member of value None is left out."""
        now = self._clock.now()
        usual = {
            "iss": self.issuer,
            "iat": now,
            "exp": now + self._lifetime,
            "jti": secrets.token_urlsafe(16),
        }
        return {name: value for name, value in {**usual, **members}.items() if value is not None}

    def mint(
        self,
        claims: Mapping[str, Any] | None = None,
        *,
        algorithm: str | None = None,
        kid: str | None = None,
        headers: Mapping[str, Any] | None = None,
        forgery: str | None = None,
        secret: str | None = None,
        payload: bytes | None = None,
    ) -> str:
        """Return a signed JWT with any claims, as access token of RFC 9068 if nothing else is said.

        Args:
            claims: On top of iss, iat, exp, jti, a subject "alice", a client "minted" and the issuer as
                audience. None as a value leaves a claim out.
            algorithm: Sign with the newest key of this algorithm; by default the server's first.
            kid: Sign with this key, also if it is withdrawn or not published yet.
            headers: On top of alg, kid and typ. None as a value leaves a member out.
            forgery: One of `FORGERIES`: what is wrong with the token.
            secret: Sign by HS256 with this secret, without a kid.
            payload: These bytes instead of the claims.

        Raises:
            ValueError: There is no such algorithm, key or forgery.
        """
        usual = {"sub": "alice", "client_id": "minted", "aud": self.issuer}
        made = self.claims(**{**usual, **(claims or {})})
        if secret is not None:
            if forgery is not None or algorithm is not None or kid is not None:
                raise ValueError("secret goes without forgery, algorithm and kid")
            data = segments(_header({"alg": "HS256", "typ": "at+jwt"}, headers), payload or made)
            return attach(data, hmac.digest(secret.encode(), data, hashlib.sha256))
        key = self._ring.find(kid) if kid is not None else self._ring.signing(algorithm)
        header = _header({"alg": key.algorithm, "kid": key.kid, "typ": "at+jwt"}, headers)
        draft = Draft(header, made, key, self._ring, self.issuer, self._clock.now())
        if forgery is None:
            return signed(draft, payload)
        if payload is not None:
            raise ValueError("payload goes without forgery")
        return forge(forgery)(draft)


def forge(name: str) -> Callable[[Draft], str]:
    """Return what makes a kind of bad token.

    Raises:
        ValueError: There is no such kind.
    """
    try:
        return FORGERIES[name]
    except KeyError:
        raise ValueError(f"{name!r} is no forgery; known are {', '.join(FORGERIES)}") from None


def _header(usual: dict[str, Any], given: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in {**usual, **(given or {})}.items() if value is not None}
