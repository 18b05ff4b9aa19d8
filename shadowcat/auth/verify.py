"""Whether a token is good at a route: everything that is decided without asking anybody else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Final, NamedTuple

from shadowcat.auth.keys import ASYMMETRIC, KeySet, VerificationKey, source_of
from shadowcat.auth.principal import principal_text
from shadowcat.auth.tokens import LONGEST_TOKEN, Jwt, TokenError, check_times, read_jwt, scopes_of
from shadowcat.config.access import spellings
from shadowcat.config.model import Issuer

_NOBODY: Final = "the token was issued by somebody who is not trusted here"


class Identity(NamedTuple):
    """What a good token says."""

    principal: str
    scopes: frozenset[str]
    until: float
    """The token's end, in seconds since 1970, leeway included."""
    claims: Mapping[str, Any]
    """All that it says; of a token that its issuer was asked about, all that was answered, and `iss`."""
    issuer: str = ""
    client: str = ""
    """Empty if the token does not say."""
    subject: str = ""


class Unknown(NamedTuple):
    """What has to be asked first."""

    source: str | None
    """The keys of this source may have changed, or are not there; None: the issuer itself is asked."""
    issuer: Issuer
    missing: bool = False
    """Whether there are no keys at all, so that nothing can be said of the token."""
    login: bool = False
    """Whether it is the token itself that is not known: there is a cookie for it."""


class TrustedIssuer:
    """One issuer, as a route sees it."""

    __slots__ = ("algorithms", "audiences", "keys", "others", "section", "source")

    def __init__(self, section: Issuer, audience: str, keys: KeySet | None) -> None:
        """`keys` are those of its source; None if none were fetched yet, and where there is no source."""
        self.section = section
        self.audiences = spellings(audience)
        self.others = frozenset(section.other_audiences)
        self.source = source_of(section)
        if section.secret is not None:
            keys = KeySet([VerificationKey.secret(section.secret)])
        self.keys = keys
        self.algorithms = None if section.algorithms is None else frozenset(section.algorithms)

    def key_for(self, token: Jwt, now_ns: int) -> VerificationKey | Unknown:
        """The key that verifies a token.

        Raises:
            TokenError: There is none, and asking would not help.
        """
        if self.algorithms is not None and token.algorithm not in self.algorithms:
            raise TokenError("the token's algorithm is not accepted")
        keys = self.keys
        if self.source is not None:
            if token.algorithm not in ASYMMETRIC:
                raise TokenError("the token's algorithm is not accepted")
            if keys is None or now_ns >= keys.until_ns:
                return Unknown(self.source, self.section, missing=True)
            if token.kid is not None and not keys.has(token.kid):
                return Unknown(self.source, self.section)
        assert keys is not None
        # A secret has no name, whatever the issuer calls it.
        key = keys.find(token.kid if self.source is not None else None, token.algorithm)
        if key is None:
            raise TokenError("the token's algorithm does not go with its key")
        return key


class Verifier:
    """The rules of one route."""

    __slots__ = ("_asked", "_issuers", "_leeway")

    def __init__(self, issuers: Sequence[TrustedIssuer], leeway: float) -> None:
        self._issuers = {issuer.section.issuer: issuer for issuer in issuers}
        self._asked = [issuer for issuer in issuers if issuer.section.introspection is not None]
        """Those who may know tokens that say nothing by themselves."""
        self._leeway = leeway
        if issuers:
            # Now, and not when the first client waits for it.
            import_module("shadowcat.auth.signatures")

    def verify(self, token: bytes, now: float, now_ns: int) -> Identity | Unknown:
        """Judge a token.

        Args:
            token: As received.
            now: Seconds since 1970.
            now_ns: CLOCK_MONOTONIC.

        Returns:
            Whose it is, or what has to be asked first.

        Raises:
            TokenError: It is not good, for good.
        """
        if len(token) > LONGEST_TOKEN:
            raise TokenError("the token is too long")
        parsed = self._read(token)
        if parsed is None:
            return Unknown(None, self._asked[0].section)
        issuer = self._issuers.get(parsed.issuer)
        if issuer is None:
            raise TokenError(_NOBODY)
        if issuer.section.introspection is not None:
            return Unknown(None, issuer.section)
        key = issuer.key_for(parsed, now_ns)
        if isinstance(key, Unknown):
            return key
        if not key.verifies(parsed.algorithm, parsed.signed, parsed.signature):
            raise TokenError("the token's signature is wrong")
        return self._judge(issuer, parsed.claims, now)

    def accept(self, section: Issuer, claims: dict[str, Any], now: float) -> Identity:
        """Judge what an issuer has answered about a token that it calls active (RFC 7662 section 2.2).

        Raises:
            TokenError: It is not good here.
        """
        issuer = self._issuers.get(section.issuer)
        if issuer is None or claims.get("iss", section.issuer) != section.issuer:
            raise TokenError(_NOBODY)
        if "exp" not in claims:
            claims = claims | {"exp": now + 60}  # Optional there: it is asked again soon.
        return self._judge(issuer, {"iss": section.issuer} | claims, now)

    def _read(self, token: bytes) -> Jwt | None:
        """The token taken apart; None if somebody has to be asked what it is."""
        try:
            parsed = read_jwt(token)
        except TokenError:
            # With dots in it, an opaque token is no bad JWT where there is somebody who issues such.
            if self._asked:
                return None
            raise
        if parsed is None and not self._asked:
            raise TokenError("the token is not a JWT")
        return parsed

    def _judge(self, issuer: TrustedIssuer, claims: dict[str, Any], now: float) -> Identity:
        until = check_times(claims, now, self._leeway)
        audiences = claims.get("aud")
        if isinstance(audiences, str):
            audiences = [audiences]
        if not isinstance(audiences, list) or not all(isinstance(each, str) for each in audiences):
            raise TokenError("the token does not say for whom it is")
        if issuer.audiences.isdisjoint(audiences):
            raise TokenError("the token is for another resource")
        if not issuer.audiences.union(issuer.others).issuperset(audiences):
            raise TokenError("the token is for other resources, too")
        subject = claims.get("sub")
        client = claims.get("client_id", claims.get("azp", ""))
        if not isinstance(subject, str) or not subject or not isinstance(client, str):
            raise TokenError("the token does not say whose it is")
        name = issuer.section.issuer
        principal = principal_text(name, client, subject)
        return Identity(principal, scopes_of(claims), until, claims, name, client, subject)
