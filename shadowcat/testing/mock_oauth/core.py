"""The authorization server's state and the rules that all its endpoints share."""

from __future__ import annotations

import secrets
from collections import Counter
from typing import Any, Final
from urllib.parse import urlsplit

import jwt

from shadowcat.testing.mock_oauth.clock import Clock
from shadowcat.testing.mock_oauth.keys import KeyRing
from shadowcat.testing.mock_oauth.message import OAuthError
from shadowcat.testing.mock_oauth.mint import Mint
from shadowcat.testing.mock_oauth.options import OAuthOptions
from shadowcat.testing.mock_oauth.records import Client, User
from shadowcat.testing.mock_oauth.registry import Registry
from shadowcat.testing.mock_oauth.store import Access, Grant, Refresh, Store

# Times are compared with the server's own clock.
_SIGNATURE_ONLY: Final[Any] = dict.fromkeys(("verify_aud", "verify_exp", "verify_iat", "verify_nbf"), False)


class Core:
    """One authorization server.

    Args:
        options: Settings.
        base: The URL of the server itself, such as "http://127.0.0.1:43121".

    Raises:
        ValueError: A setting is wrong.
    """

    def __init__(self, options: OAuthOptions, base: str) -> None:
        self.options = options
        self.issuer = issuer_url(options.issuer, base)
        self.path = urlsplit(self.issuer).path
        self.clock = Clock()
        self.ring = KeyRing(options.algorithms)
        self.mint = Mint(self.issuer, self.ring, self.clock, options.access_lifetime)
        self.clients = Registry()
        self.users: dict[str, User] = dict(options.users)
        self.store = Store()
        self.issued: Counter[str] = Counter()
        if options.default_scope not in options.scopes:
            raise ValueError(f"the default scope {options.default_scope!r} is none of the scopes")
        for client in options.clients:
            try:
                self.clients.add(client)
            except OAuthError as error:
                raise ValueError(f"client {client.client_id!r}: {error}") from error

    def scope(self, client: Client, subject: str, wanted: tuple[str, ...]) -> tuple[str, ...]:
        """Return the scope to grant.

        Args:
            client: Whose registered scope counts where `wanted` is empty.
            subject: Whose limits apply.
            wanted: What the request names.

        Raises:
            OAuthError: Nothing can be granted, or a scope does not exist.
        """
        scope = wanted or tuple((client.scope or self.options.default_scope).split())
        unknown = [name for name in scope if name not in self.options.scopes]
        if unknown:
            raise OAuthError("invalid_scope", f"there is no scope {' '.join(unknown)}")
        allowed = self.users.get(subject, User()).scopes
        granted = tuple(name for name in scope if allowed is None or name in allowed)
        if not granted:
            raise OAuthError("access_denied", f"{subject} may have none of these scopes")
        return granted

    def resources(self, wanted: tuple[str, ...]) -> tuple[str, ...]:
        """Check the resources that a request names (RFC 8707 section 2).

        Raises:
            OAuthError: One is not an absolute URI, has a fragment, or is not among the known ones.
        """
        for resource in wanted:
            try:
                parts = urlsplit(resource)
            except ValueError:
                parts = urlsplit("")
            if not parts.scheme or not (parts.netloc or parts.path) or "#" in resource:
                raise OAuthError("invalid_target", f"{resource!r} is no absolute URI without fragment")
            if self.options.resources and resource not in self.options.resources:
                raise OAuthError("invalid_target", f"no tokens for {resource} here")
        return wanted

    def issue(
        self,
        grant: Grant,
        grant_type: str,
        *,
        scope: tuple[str, ...] | None = None,
        audience: tuple[str, ...] | None = None,
        forgery: str | None = None,
        refreshable: bool = False,
        claims: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Make an access token, and what goes with it.

        Args:
            grant: The approval behind it.
            grant_type: How it was asked for.
            scope: By default the grant's.
            audience: By default the grant's resources; where it has none, the issuer (RFC 9068 section 3).
            forgery: What is to be wrong with the token.
            refreshable: Add a refresh token.
            claims: Further claims.

        Returns:
            The members of the token endpoint's answer.
        """
        scope = grant.scope if scope is None else scope
        audience = audience or grant.resources or (self.issuer,)
        now = self.clock.now()
        usual = {
            "iat": now,
            "exp": now + self.options.access_lifetime,
            "sub": grant.subject,
            "client_id": grant.client_id,
            "aud": audience[0] if len(audience) == 1 else list(audience),
            "scope": " ".join(scope),
        }
        of_user = self.users.get(grant.subject, User()).claims
        made = self.mint.claims(**{**of_user, **usual, **(claims or {})})
        if self.options.opaque:
            token = f"opaque-{secrets.token_urlsafe(32)}"
        else:
            token = self.mint.mint(made, forgery=forgery)
        name = token if self.options.opaque else made["jti"]
        self.store.keep_access(name, Access(grant, grant_type, made))
        self.issued[grant_type] += 1
        answer = {
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": made["exp"] - now,
            "scope": made["scope"],
        }
        if refreshable:
            answer["refresh_token"] = f"refresh-{secrets.token_urlsafe(32)}"
            expires = now + self.options.refresh_lifetime
            self.store.keep_refresh(answer["refresh_token"], Refresh(grant, expires))
        if "openid" in scope and grant_type in ("authorization_code", "refresh_token"):
            identity = {"sub": grant.subject, "aud": grant.client_id, "nonce": grant.nonce, "client_id": None}
            answer["id_token"] = self.mint.mint(identity, headers={"typ": "JWT"})
        return answer

    def examine(self, token: str) -> dict[str, Any] | None:
        """Return an access token's claims if it is good now: of this issuer, in time, not revoked."""
        access = self.store.accesses.get(token)
        claims = access.claims if access is not None else self._verified(token)
        if claims is None:
            return None
        access = access or self.store.accesses.get(claims.get("jti", ""))
        now = self.clock.now()
        if access is not None and not access.active(now):
            return None
        expires, begins = claims.get("exp", 0), claims.get("nbf", 0)
        in_time = isinstance(expires, int) and isinstance(begins, int) and begins <= now < expires
        return claims if in_time and claims.get("iss") == self.issuer else None

    def _verified(self, token: str) -> dict[str, Any] | None:
        try:
            key = self.ring.find(jwt.get_unverified_header(token).get("kid", ""))
            if key.withdrawn:
                return None
            public: Any = key.private.public_key()
            claims: dict[str, Any] = jwt.decode(token, public, [key.algorithm], options=_SIGNATURE_ONLY)
        except (jwt.InvalidTokenError, ValueError):
            return None
        return claims if isinstance(claims.get("jti", ""), str) else None


def issuer_url(given: str, base: str) -> str:
    """Return the issuer of a server at `base`: `given` itself, or below `base` if it is a path.

    Raises:
        ValueError: RFC 8414 section 2 does not allow it.
    """
    issuer = base + given if not given or given.startswith("/") else given
    parts = urlsplit(issuer)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"issuer {issuer!r}: give an http(s) URL without query and fragment, or a path")
    if issuer.endswith("/"):
        raise ValueError(f"issuer {issuer!r} ends in a slash; leave it out")
    return issuer
