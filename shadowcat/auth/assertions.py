"""Assertions: short-lived JWTs by which the proxy tells an upstream who its client is."""

from __future__ import annotations

import json
import os
from base64 import urlsafe_b64encode
from collections.abc import Iterable
from hashlib import sha256
from typing import Any, Final

import jwt
import orjson
from jwt.algorithms import get_default_algorithms

from shadowcat.auth.signatures import SHORTEST_RSA
from shadowcat.config.model import Assertion

JWKS_PATH: Final = "/.well-known/jwks.json"
_THUMBED: Final = {"EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x"), "RSA": ("e", "kty", "n")}
_CURVES: Final = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "EdDSA": "Ed25519"}
_BEARER: Final = "authorization"


class Signer:
    """Mints the assertions of one section."""

    __slots__ = ("_key", "_kid", "jwk", "lifetime", "section")

    def __init__(self, section: Assertion, pem: bytes | None) -> None:
        """`pem` is the content of the section's key file; None where it has a secret.

        Raises:
            ValueError: The key is none, is encrypted, is too weak, or is not one for the algorithm.
        """
        self.section = section
        self.lifetime = float(section.lifetime)
        self.jwk: dict[str, Any] | None = None
        """The public key; None for a secret."""
        if pem is None:
            self._key: Any = (section.secret or "").encode()
            self._kid = section.kid
            return
        method = get_default_algorithms()[section.algorithm]
        try:
            self._key = method.prepare_key(pem)
            public = method.to_jwk(self._key.public_key(), as_dict=True)
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
            raise ValueError(
                f"it holds no private key for {section.algorithm}, in PEM and unencrypted"
            ) from None
        kind, curve = public["kty"], public.get("crv")
        if curve != _CURVES.get(section.algorithm):
            raise ValueError(f"its curve is not the one of {section.algorithm}")
        if kind == "RSA" and self._key.key_size < SHORTEST_RSA:
            raise ValueError(f"an RSA key of less than {SHORTEST_RSA} bits can be broken")
        public = {name: public[name] for name in _THUMBED[kind]}
        self._kid = section.kid or _thumbprint(public)
        self.jwk = {**public, "kid": self._kid, "alg": section.algorithm, "use": "sig"}

    def line(self, issuer: str, client: str, subject: str, scopes: Iterable[str], now: float) -> bytes:
        """The header field with a new assertion, and its CRLF.

        Args:
            issuer: Who has issued the client's token.
            client: The OAuth client; empty if the token does not say.
            subject: Of the token.
            scopes: Of the token.
            now: Seconds since 1970.
        """
        section = self.section
        begins = int(now)
        claims: dict[str, Any] = {
            "iss": section.issuer,
            "aud": section.audience,
            "iat": begins,
            "exp": begins + max(1, int(self.lifetime)),
            "jti": os.urandom(16).hex(),
            "sub": subject,
            # Two issuers may give the same subject to different people (RFC 9493 section 3.2.5).
            "sub_id": {"format": "iss_sub", "iss": issuer, "sub": subject},
            "act": {"sub": section.issuer},
            "scope": " ".join(sorted(scopes)),
        }
        if client:
            claims["client_id"] = client
        headers = {} if self._kid is None else {"kid": self._kid}
        text = jwt.encode(claims, self._key, section.algorithm, headers)
        scheme = "Bearer " if section.header.lower() == _BEARER else ""
        return f"{section.header}: {scheme}{text}\r\n".encode("ascii")


class KeyDocument:
    """The public keys of signers (RFC 7517 section 5)."""

    __slots__ = ("_text",)

    def __init__(self, signers: Iterable[Signer]) -> None:
        keys = {signer.jwk["kid"]: signer.jwk for signer in signers if signer.jwk is not None}
        self._text = orjson.dumps({"keys": list(keys.values())})

    def document(self, base: str) -> bytes:
        """The document, which is the same whatever the client calls the proxy."""
        return self._text


def _thumbprint(public: dict[str, Any]) -> str:
    text = json.dumps(public, sort_keys=True, separators=(",", ":"))
    return urlsafe_b64encode(sha256(text.encode()).digest()).rstrip(b"=").decode()
