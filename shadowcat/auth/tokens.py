"""Bearer tokens as they are written: found in a head, taken apart strictly, before anything is believed.

What PyJWT lets pass is refused here (RFC 8725, RFC 7515): repeated members, of which two readers may each see
another; padding and other spellings of the same bytes; times that are texts; tokens of any size.
"""

from __future__ import annotations

import binascii
import json
import re
import sys
from base64 import urlsafe_b64decode
from collections.abc import Sequence
from enum import Enum
from typing import Any, Final, NamedTuple
from urllib.parse import unquote_to_bytes

LONGEST_TOKEN: Final = 8192
_SCHEME: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+)(?:[ \t]+(.*))?", re.DOTALL)
_TOKEN: Final = re.compile(rb"[A-Za-z0-9\-._~+/]+=*")  # token68, RFC 9110 section 11.2
_SEGMENT: Final = re.compile(r"[A-Za-z0-9_-]*")
_SLACK: Final = {2: 0x0F, 3: 0x03}
"""Bits of the last letter that carry nothing, by the letters in the last group: they have to be 0."""
_ALPHABET: Final = {
    letter: number
    for number, letter in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
}
_TYPES: Final = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})
"""RFC 7519 section 5.1, RFC 9068 section 2.1: an ID or logout token says that it is another thing."""
_TIMES: Final = ("exp", "nbf", "iat")


class Fault(Enum):
    """What is wrong with how a token is presented."""

    MISSING = "no token"
    IN_QUERY = "a token in the query"
    MALFORMED = "an Authorization that cannot be read"


class TokenError(ValueError):
    """A token is not acceptable. The message is fit for a client, and holds nothing of the token."""


class Jwt(NamedTuple):
    """A JWT in the form of a JWS, taken apart; nothing of it is verified."""

    algorithm: str
    kid: str | None
    claims: dict[str, Any]
    issuer: str
    signed: bytes
    """What the signature is over."""
    signature: bytes


def bearer(authorizations: Sequence[bytes], query: bytes) -> bytes | Fault:
    """The token that a request presents (RFC 6750 section 2.1).

    Args:
        authorizations: The values of all its Authorization fields.
        query: Its query, with the question mark.
    """
    if query and any(_is_token(part) for part in query[1:].split(b"&")):
        return Fault.IN_QUERY
    if not authorizations:
        return Fault.MISSING
    if len(authorizations) > 1:
        return Fault.MALFORMED
    parts = _SCHEME.fullmatch(authorizations[0])
    if parts is None:
        return Fault.MALFORMED
    if parts[1].lower() != b"bearer":
        return Fault.MISSING  # Another scheme: this one is asked for.
    token: bytes = parts[2] or b""
    return token if _TOKEN.fullmatch(token) else Fault.MALFORMED


def _is_token(parameter: bytes) -> bool:
    """Whether a parameter of a query is a token (RFC 6750 section 2.3), however it is spelled."""
    return unquote_to_bytes(parameter.partition(b"=")[0]).lower() == b"access_token"


def read_jwt(token: bytes) -> Jwt | None:
    """Take a token apart; None if it is none that speaks for itself.

    Raises:
        TokenError: It looks like a JWT, and is not a good one.
    """
    text = token.decode("ascii")
    segments = text.split(".")
    if len(segments) == 1:
        return None
    if len(segments) != 3:
        raise TokenError("the token has not three parts")
    header_text, payload_text, signature_text = segments
    header = _object(_decode(header_text), "header")
    algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
    if not isinstance(algorithm, str):
        raise TokenError("the token names no algorithm")
    if kid is not None and not isinstance(kid, str):
        raise TokenError("the token's kid is not a text")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise TokenError("the token is not an access token")
    if "crit" in header or "b64" in header:
        raise TokenError("the token has an extension that is not understood")
    if "zip" in header or "enc" in header:
        raise TokenError("the token is encrypted or compressed")
    claims = _object(_decode(payload_text), "payload")
    issuer = claims.get("iss")
    if not isinstance(issuer, str):
        raise TokenError("the token does not say who issued it")
    signed = token[: len(header_text) + 1 + len(payload_text)]
    return Jwt(algorithm, kid, claims, issuer, signed, _decode(signature_text))


def check_times(claims: dict[str, Any], now: float, leeway: float) -> float:
    """When the token ends, in seconds since 1970, `leeway` included.

    Raises:
        TokenError: It has no end, has ended, or is not yet good (RFC 7519 section 4.1).
    """
    for name in _TIMES:
        value = claims.get(name, 0)
        # A text, or true, is read in different ways; 1e999 is infinite, and 400 digits are no float.
        if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
            raise TokenError(f"the token's {name} is not a number")
    if "exp" not in claims:
        raise TokenError("the token has no end")
    end = claims["exp"] + leeway
    if end <= now:
        raise TokenError("the token has expired")
    if claims.get("nbf", now) > now + leeway or claims.get("iat", now) > now + leeway:
        raise TokenError("the token is not valid yet")
    return float(end)


def scopes_of(claims: dict[str, Any]) -> frozenset[str]:
    """What a token allows: `scope` (RFC 8693 section 4.2), or `scp` as some issuers call it."""
    found: list[str] = []
    for name in ("scope", "scp"):
        value = claims.get(name)
        if isinstance(value, str):
            found += value.split(" ")
        elif isinstance(value, list):
            found += [item for item in value if isinstance(item, str)]
    return frozenset(found)


def _decode(segment: str) -> bytes:
    """Read base64url in its only spelling (RFC 7515 section 2): a second one would be another token."""
    rest = len(segment) % 4
    if rest == 1 or _SEGMENT.fullmatch(segment) is None:
        raise TokenError("the token is not base64url without padding")
    if rest and _ALPHABET[segment[-1]] & _SLACK[rest]:
        raise TokenError("the token is not in its canonical spelling")
    try:
        return urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except binascii.Error:
        raise TokenError("the token is not base64url") from None


def _object(text: bytes, part: str) -> dict[str, Any]:
    try:
        # Not bytes: json guesses UTF-16 and UTF-32 then.
        found = json.loads(text.decode("utf-8"), object_pairs_hook=_distinct, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        if isinstance(error, TokenError):
            raise
        raise TokenError(f"the token's {part} is not JSON") from None
    if not isinstance(found, dict):
        raise TokenError(f"the token's {part} is not an object")
    return found


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise TokenError("the token has a member twice")
    return found


def _refuse(name: str) -> Any:
    raise TokenError("the token has a number that is none in JSON")
