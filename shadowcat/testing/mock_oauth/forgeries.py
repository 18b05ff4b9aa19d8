"""Tokens a resource server must refuse: each is a good token with one thing wrong."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import orjson
from jwt.utils import base64url_encode

from shadowcat.testing.mock_oauth.keys import KeyRing, SigningKey

_HOUR: Final = 3600
_OVERSIZED: Final = 64 * 1024


@dataclass(slots=True)
class Draft:
    """A token about to be signed.

    Attributes:
        header: Its JOSE header.
        claims: Its payload.
        key: What signs it.
        ring: The other keys.
        issuer: The issuer's URL.
        now: Seconds since the epoch.
    """

    header: dict[str, Any]
    claims: dict[str, Any]
    key: SigningKey
    ring: KeyRing
    issuer: str
    now: int


def segments(header: dict[str, Any], payload: dict[str, Any] | bytes) -> bytes:
    """Return what is signed: header and payload in base64url (RFC 7515 section 7.1)."""
    body = payload if isinstance(payload, bytes) else orjson.dumps(payload)
    return base64url_encode(orjson.dumps(header)) + b"." + base64url_encode(body)


def signed(draft: Draft, payload: bytes | None = None, algorithm: str | None = None) -> str:
    """Return the token of a draft, signed as it says."""
    data = segments(draft.header, draft.claims if payload is None else payload)
    return attach(data, draft.key.sign(data, algorithm))


def attach(data: bytes, signature: bytes) -> str:
    """Return a compact token."""
    return (data + b"." + base64url_encode(signature)).decode()


def _claims(**changes: Any) -> Callable[[Draft], str]:
    def forge(draft: Draft) -> str:
        draft.claims.update(changes)
        return signed(draft)

    return forge


def _without(claim: str) -> Callable[[Draft], str]:
    def forge(draft: Draft) -> str:
        draft.claims.pop(claim, None)
        return signed(draft)

    return forge


def _header(**changes: Any) -> Callable[[Draft], str]:
    def forge(draft: Draft) -> str:
        draft.header.update(changes)
        return signed(draft)

    return forge


def _shifted(claim: str, by: int) -> Callable[[Draft], str]:
    def forge(draft: Draft) -> str:
        draft.claims[claim] = draft.now + by
        return signed(draft)

    return forge


def _expired(draft: Draft) -> str:
    draft.claims.update(iat=draft.now - 2 * _HOUR, nbf=draft.now - 2 * _HOUR, exp=draft.now - _HOUR)
    return signed(draft)


def _text_expiry(draft: Draft) -> str:
    draft.claims["exp"] = str(draft.claims.get("exp", draft.now + _HOUR))
    return signed(draft)


def _duplicate_subject(draft: Draft) -> str:
    # Two readers of one payload may each see another subject (RFC 7519 section 4).
    whole = orjson.dumps(draft.claims)
    return signed(draft, b'{"sub":"root",' + whole.removeprefix(b"{"))


def _without_kid(draft: Draft) -> str:
    del draft.header["kid"]
    return signed(draft)


def _wrong_signature(draft: Draft) -> str:
    data = segments(draft.header, draft.claims)
    signature = bytearray(draft.key.sign(data))
    signature[len(signature) // 2] ^= 1
    return attach(data, bytes(signature))


def _no_signature(draft: Draft) -> str:
    return attach(segments(draft.header, draft.claims), b"")


def _changed_payload(draft: Draft) -> str:
    signature = draft.key.sign(segments(draft.header, draft.claims))
    return attach(segments(draft.header, {**draft.claims, "sub": "root"}), signature)


def _foreign_key(draft: Draft) -> str:
    draft.key = draft.ring.stranger(draft.key.algorithm)
    return signed(draft)


def _withdrawn_key(draft: Draft) -> str:
    draft.key = draft.ring.withdrawn(draft.key.algorithm)
    draft.header["kid"] = draft.key.kid
    return signed(draft)


def _unsigned(spelling: str) -> Callable[[Draft], str]:
    def forge(draft: Draft) -> str:
        draft.header["alg"] = spelling
        return attach(segments(draft.header, draft.claims), b"")

    return forge


def _confused(draft: Draft) -> str:
    # Whoever takes the algorithm from the header checks this with the public key as a shared secret.
    draft.header["alg"] = "HS256"
    data = segments(draft.header, draft.claims)
    return attach(data, hmac.digest(draft.key.pem(), data, hashlib.sha256))


def _other_padding(draft: Draft) -> str:
    family = draft.key.algorithm[:2]
    if family not in ("RS", "PS"):
        raise ValueError(f"other_padding needs an RSA key, not {draft.key.algorithm}")
    other = ("PS" if family == "RS" else "RS") + draft.key.algorithm[2:]
    draft.header["alg"] = other
    return signed(draft, algorithm=other)


def _embedded_key(draft: Draft) -> str:
    draft.header["jwk"] = draft.ring.stranger(draft.key.algorithm).jwk()
    return _foreign_key(draft)


def _key_url(draft: Draft) -> str:
    draft.header["jku"] = f"{draft.issuer}/stranger/jwks"
    draft.header["kid"] = draft.ring.stranger(draft.key.algorithm).kid
    return _foreign_key(draft)


def _padded(draft: Draft) -> str:
    return signed(draft) + "=="


def _fourth_segment(draft: Draft) -> str:
    return signed(draft) + ".AAAA"


def _payload(payload: bytes) -> Callable[[Draft], str]:
    return lambda draft: signed(draft, payload)


FORGERIES: Final[dict[str, Callable[[Draft], str]]] = {
    "alg_none": _unsigned("none"),
    "alg_none_mixed_case": _unsigned("nOnE"),
    "changed_payload": _changed_payload,
    "critical_header": _header(crit=["x-unheard-of"], **{"x-unheard-of": True}),
    "duplicate_subject": _duplicate_subject,
    "embedded_key": _embedded_key,
    "expired": _expired,
    "foreign_key": _foreign_key,
    "fourth_segment": _fourth_segment,
    "hs_confusion": _confused,
    "issued_in_future": _shifted("iat", by=_HOUR),
    "key_url": _key_url,
    "no_audience": _without("aud"),
    "no_expiry": _without("exp"),
    "no_issuer": _without("iss"),
    "no_kid": _without_kid,
    "no_signature": _no_signature,
    "no_subject": _without("sub"),
    "not_an_object": _payload(b'["sub","alice"]'),
    "not_json": _payload(b"{"),
    "not_yet_valid": _shifted("nbf", by=_HOUR),
    "other_padding": _other_padding,
    "oversized": _claims(filling="x" * _OVERSIZED),
    "padded": _padded,
    "text_expiry": _text_expiry,
    "withdrawn_key": _withdrawn_key,
    "wrong_audience": _claims(aud="https://elsewhere.example/mcp"),
    "wrong_issuer": _claims(iss="https://elsewhere.example"),
    "wrong_kid": _header(kid="nobody-knows-this-key"),
    "wrong_signature": _wrong_signature,
    "wrong_type": _header(typ="logout+jwt"),
}
"""Name -> how a draft is signed. `no_kid` alone a resource server may accept: RFC 7515 makes kid optional."""
