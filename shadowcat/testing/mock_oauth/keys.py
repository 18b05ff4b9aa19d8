"""Signing keys: made, published in the key set, rotated, withdrawn."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

_CURVES: Final[dict[str, type[ec.EllipticCurve]]] = {
    "ES256": ec.SECP256R1,
    "ES384": ec.SECP384R1,
    "ES512": ec.SECP521R1,
}
_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
ALGORITHMS: Final = (*_RSA, *_CURVES, "EdDSA")
_RSA_BITS: Final = 2048
_MAX_KEYS: Final = 256


def _generate(algorithm: str) -> PrivateKey:
    if algorithm in _RSA:
        return rsa.generate_private_key(65537, _RSA_BITS)
    if algorithm in _CURVES:
        return ec.generate_private_key(_CURVES[algorithm]())
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    raise ValueError(f"{algorithm!r} is no signing algorithm here; known are {', '.join(ALGORITHMS)}")


@dataclass(slots=True)
class SigningKey:
    """One key pair, bound to one algorithm.

    Attributes:
        kid: Its name, unlike any other server's.
        algorithm: The only algorithm it is used with.
        private: The private key.
        published: Whether it is in the key set.
        withdrawn: Whether it was there and is no longer.
    """

    kid: str
    algorithm: str
    private: PrivateKey
    published: bool = True
    withdrawn: bool = False

    @classmethod
    def make(cls, algorithm: str, *, published: bool = True) -> SigningKey:
        """Generate a key.

        Raises:
            ValueError: There is no such algorithm.
        """
        return cls(f"{algorithm.lower()}-{secrets.token_hex(4)}", algorithm, _generate(algorithm), published)

    def sign(self, data: bytes, algorithm: str | None = None) -> bytes:
        """Sign, by this key's algorithm unless another one is named."""
        signer: Any = jwt.get_algorithm_by_name(algorithm or self.algorithm)
        signature: bytes = signer.sign(data, self.private)
        return signature

    def pem(self) -> bytes:
        """Return the public key as PEM."""
        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def jwk(self) -> dict[str, Any]:
        """Return the public key as a JWK (RFC 7517)."""
        converter: Any = jwt.get_algorithm_by_name(self.algorithm)
        members: dict[str, Any] = converter.to_jwk(self.private.public_key(), as_dict=True)
        # PyJWT writes key_ops; with `use` beside it, RFC 7517 section 4.3 advises against.
        members.pop("key_ops", None)
        return {**members, "kid": self.kid, "use": "sig", "alg": self.algorithm}

    def describe(self) -> dict[str, Any]:
        """Return what may be shown."""
        return {
            "kid": self.kid,
            "algorithm": self.algorithm,
            "published": self.published,
            "withdrawn": self.withdrawn,
        }


class KeyRing:
    """All keys of a server, in the order they were made.

    Args:
        algorithms: One key is made for each; the first is the one used where nobody names one.

    Raises:
        ValueError: There is no such algorithm.
    """

    def __init__(self, algorithms: Sequence[str]) -> None:
        self.default: str = algorithms[0]
        self._keys: dict[str, SigningKey] = {}
        self._strangers: dict[str, SigningKey] = {}
        for algorithm in algorithms:
            self.rotate(algorithm)

    @property
    def keys(self) -> list[SigningKey]:
        """All keys, oldest first."""
        return list(self._keys.values())

    def algorithms(self) -> list[str]:
        """The algorithms there are keys for."""
        return list(dict.fromkeys(key.algorithm for key in self.keys))

    def find(self, kid: str) -> SigningKey:
        """Return the key of a name.

        Raises:
            ValueError: There is none.
        """
        try:
            return self._keys[kid]
        except KeyError:
            raise ValueError(f"there is no key {kid!r}; GET keys lists them") from None

    def signing(self, algorithm: str | None = None) -> SigningKey:
        """Return the newest key of an algorithm that was not withdrawn.

        Raises:
            ValueError: There is none.
        """
        wanted = algorithm or self.default
        for key in reversed(self.keys):
            if key.algorithm == wanted and not key.withdrawn:
                return key
        raise ValueError(f"there is no {wanted} key to sign with; POST keys/rotate makes one")

    def withdrawn(self, algorithm: str | None = None) -> SigningKey:
        """Return the newest withdrawn key of an algorithm; if none was, one is made for the purpose."""
        wanted = algorithm or self.default
        for key in reversed(self.keys):
            if key.algorithm == wanted and key.withdrawn:
                return key
        key = self.rotate(wanted)
        self.withdraw(key.kid)
        return key

    def stranger(self, algorithm: str | None = None) -> SigningKey:
        """Return the attacker's key for an algorithm: it is never in the key set."""
        wanted = algorithm or self.default
        if wanted not in self._strangers:
            self._strangers[wanted] = SigningKey.make(wanted, published=False)
        return self._strangers[wanted]

    def strangers(self) -> dict[str, Any]:
        """Return the attacker's key set: a key for every algorithm there are keys for."""
        return {"keys": [self.stranger(algorithm).jwk() for algorithm in self.algorithms()]}

    def rotate(self, algorithm: str | None = None, *, publish: bool = True) -> SigningKey:
        """Make a new key, which signs from now on; the old ones stay published.

        Args:
            algorithm: By default the first one.
            publish: False: it signs before the key set has it, as servers do that rotate in the wrong order.

        Raises:
            ValueError: There is no such algorithm, or there are too many keys.
        """
        if len(self._keys) >= _MAX_KEYS:
            raise ValueError(f"there are {_MAX_KEYS} keys already")
        key = SigningKey.make(algorithm or self.default, published=publish)
        self._keys[key.kid] = key
        return key

    def publish(self, kid: str) -> None:
        """Put a key into the key set."""
        key = self.find(kid)
        key.published, key.withdrawn = True, False

    def withdraw(self, kid: str) -> None:
        """Take a key out of the key set; it signs no more."""
        key = self.find(kid)
        key.published, key.withdrawn = False, True

    def jwks(self) -> dict[str, Any]:
        """Return the key set (RFC 7517 section 5)."""
        return {"keys": [key.jwk() for key in self.keys if key.published]}
