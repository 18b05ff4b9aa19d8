"""Keys of issuers: read from a key set (RFC 7517), published to all workers, each with what it fits.

A key decides which algorithms it is used with; a token's header never does (RFC 8725 section 3.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from shadowcat.config.access import SECRET_BYTES
from shadowcat.config.model import Issuer

MOST_KEYS: Final = 64
"""Of one issuer; what is beyond is not looked at."""
_LONGEST_KID: Final = 256
_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_FITS: Final = {
    ("RSA", None): _RSA,
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}
"""By type and curve (RFC 7518 sections 3.1 and 6, RFC 8037)."""
_PUBLIC: Final = ("kty", "kid", "alg", "crv", "x", "y", "n", "e")
ASYMMETRIC: Final = frozenset(name for names in _FITS.values() for name in names)
"""All algorithms of keys that are fetched."""

Jwk = dict[str, str]


class PublishedKeys(msgspec.Struct, frozen=True, array_like=True):
    """What was fetched from one source."""

    revision: int
    """Grows when the keys change."""
    fetched_ns: int
    """When they were fetched last, CLOCK_MONOTONIC."""
    until_ns: int
    """Until when they are good, if they cannot be fetched again."""
    keys: list[Jwk]


class Publication(msgspec.Struct, frozen=True, array_like=True):
    """What control publishes: the keys of each source, by the name that `source_of` gives it."""

    sources: dict[str, PublishedKeys] = {}


encode_publication = msgspec.msgpack.Encoder().encode
decode_publication = msgspec.msgpack.Decoder(Publication).decode


def source_of(issuer: Issuer) -> str | None:
    """Where an issuer's keys come from: the same text, the same keys. None if they are not fetched."""
    if issuer.secret is not None or issuer.introspection is not None:
        return None
    return f"{issuer.issuer} {issuer.jwks_url or ''}"


def read_key_set(document: Any) -> list[Jwk]:
    """The public keys of a key set that tokens can be verified with; others are left out.

    Raises:
        ValueError: It is no key set.
    """
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError("it is no key set: there is no list of keys")
    found = []
    for entry in entries[:MOST_KEYS]:
        if not isinstance(entry, dict) or not _is_for_signatures(entry):
            continue
        # Private and symmetric parts never leave control.
        key = {name: entry[name] for name in _PUBLIC if isinstance(entry.get(name), str)}
        if len(key.get("kid", "")) <= _LONGEST_KID and VerificationKey.of(key) is not None:
            found.append(key)
    return found


def _is_for_signatures(entry: dict[str, Any]) -> bool:
    operations = entry.get("key_ops", ["verify"])
    return (
        entry.get("use", "sig") == "sig"
        and isinstance(operations, list)
        and "verify" in operations
        and isinstance(entry.get("alg", ""), str)
        and isinstance(entry.get("kid", ""), str)
    )


class VerificationKey:
    """One key, ready for use."""

    __slots__ = ("_key", "algorithms", "kid")

    def __init__(self, kid: str | None, key: Any, algorithms: Iterable[str]) -> None:
        """`key` is what PyJWT's algorithms of these names take."""
        self.kid = kid
        self._key = key
        self.algorithms = frozenset(algorithms)
        """The only ones it is used with."""

    @classmethod
    def of(cls, jwk: Jwk) -> VerificationKey | None:
        """Make one of a public key; None if it is none, or too weak."""
        kind, named = jwk.get("kty"), jwk.get("alg")
        names = _FITS.get((kind or "", None if kind == "RSA" else jwk.get("crv")), ())
        if named is not None:
            names = tuple(name for name in names if name == named)
        if not names:
            return None
        from shadowcat.auth import signatures

        key = signatures.load(names[0], jwk)
        if key is None:
            return None
        return cls(jwk.get("kid"), key, names)

    @classmethod
    def secret(cls, secret: str) -> VerificationKey:
        """Make one of a secret that is shared with the issuer."""
        raw = secret.encode()
        return cls(None, raw, [name for name, size in SECRET_BYTES.items() if len(raw) >= size])

    def verifies(self, algorithm: str, signed: bytes, signature: bytes) -> bool:
        """Whether the signature is good; `algorithm` is one of `algorithms`."""
        from shadowcat.auth import signatures

        return signatures.verify(algorithm, self._key, signed, signature)


class KeySet:
    """The keys of one source, as a worker has them."""

    __slots__ = ("_by_kid", "_keys", "revision", "until_ns")

    def __init__(self, keys: Sequence[VerificationKey], revision: int = 0, until_ns: int = 0) -> None:
        self._keys = keys
        self._by_kid: dict[str, list[VerificationKey]] = {}
        for key in keys:
            if key.kid is not None:
                self._by_kid.setdefault(key.kid, []).append(key)
        self.revision = revision
        self.until_ns = until_ns
        """Until when it may be used, CLOCK_MONOTONIC; moves as long as the source is there."""

    @classmethod
    def of(cls, published: PublishedKeys) -> KeySet:
        """Make one of what control has published."""
        keys = [VerificationKey.of(jwk) for jwk in published.keys]
        return cls([key for key in keys if key is not None], published.revision, published.until_ns)

    def has(self, kid: str) -> bool:
        """Whether there is a key of this name."""
        return kid in self._by_kid

    def find(self, kid: str | None, algorithm: str) -> VerificationKey | None:
        """The key that a token was signed with, if it goes with the algorithm.

        A token without `kid` needs the set to have exactly one key that could be meant (RFC 7515 section
        4.1.4 makes it optional): trying several would let one key's owner sign for another's.
        """
        keys = self._keys if kid is None else self._by_kid.get(kid, ())
        fitting = [key for key in keys if algorithm in key.algorithms]
        return fitting[0] if len(fitting) == 1 else None
