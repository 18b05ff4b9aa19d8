"""What the proxy itself presents to an upstream, in place of whatever its client has."""

from __future__ import annotations

from typing import Literal

from shadowcat.config.sections.auth import Algorithm
from shadowcat.config.sections.base import Section
from shadowcat.config.units import Duration

SubjectTokenType = Literal["access_token", "jwt"]


class OAuthClient(Section, frozen=True, kw_only=True):
    """The proxy as a client of an authorization server."""

    issuer: str | None = None
    """Of the authorization server, whose metadata (RFC 8414, OpenID Connect Discovery) say where tokens
    are."""
    token_url: str | None = None
    """The token endpoint, in place of `issuer`; https, or http on this machine."""
    client_id: str
    client_secret: str
    """By which the proxy authenticates there; write ${NAME} to take it from the environment."""
    auth_method: Literal["basic", "post"] = "basic"
    """How: basic: in the header; post: in the form (RFC 6749 section 2.3.1)."""
    scopes: list[str] = []
    """What the token is to allow; default: what the authorization server thinks right."""
    resource: str | None = None
    """The URL of the upstream for which the token is to be (RFC 8707)."""
    audience: str | None = None
    """For whom the token is to be, where the authorization server takes a name in place of a URL."""


class ClientCredentials(OAuthClient, frozen=True, kw_only=True):
    """A token of the proxy's own, the same for all clients (RFC 6749 section 4.4)."""


class AuthorizationCode(OAuthClient, frozen=True, kw_only=True):
    """A token that a user has consented to, once, the same for all clients (OAuth 2.1 section 4.1).

    `shadowcat upstream login NAME` says where; the redirect URI is `public_url` and /.shadowcat/callback.
    """

    client_secret: str = ""
    """By which the proxy authenticates there; without one it is a public client."""


class TokenExchange(OAuthClient, frozen=True, kw_only=True):
    """A token for each client, which the authorization server gives for the client's one (RFC 8693)."""

    subject_token_type: SubjectTokenType = "access_token"  # noqa: S105  a name
    """What the client's token is called there."""


class Assertion(Section, frozen=True, kw_only=True):
    """A short-lived JWT, signed by the proxy, that tells the upstream who the client is."""

    key: str | None = None
    """PEM file of the private key. Its public part is at /.well-known/jwks.json of the public listener."""
    secret: str | None = None
    """In place of `key`: shared with the upstream (HS256, HS384, HS512); write ${NAME} to take it from the
    environment."""
    algorithm: Algorithm = "ES256"
    """It has to fit the key."""
    kid: str | None = None
    """The key's name; default: its thumbprint (RFC 7638). A secret has none unless it is given here."""
    issuer: str
    """`iss`: the proxy, as the upstream knows it."""
    audience: str
    """`aud`: the upstream, as it knows itself."""
    lifetime: Duration = Duration(60)
    """From `iat` to `exp`. Each assertion is used for half of it."""
    header: str = "Authorization"
    """Where it is put: in Authorization as a bearer token, elsewhere as it is."""


class Credential(Section, frozen=True, kw_only=True):
    """What the proxy itself presents to an upstream; a client's own credentials are never forwarded.

    At most one of `client_credentials`, `authorization_code`, `token_exchange` and `assertion`.
    """

    headers: dict[str, str] = {}
    """Header fields set on each request to this upstream, replacing the client's of the same name."""
    client_credentials: ClientCredentials | None = None
    authorization_code: AuthorizationCode | None = None
    """Needs an operator to log in once."""
    token_exchange: TokenExchange | None = None
    """Only where the route itself authenticates (`auth`)."""
    assertion: Assertion | None = None
    """Only where the route itself authenticates (`auth`)."""
