"""Who may use a route: issuers, their keys, and what a token must say."""

from __future__ import annotations

from typing import Literal

from shadowcat.config.sections.base import Section
from shadowcat.config.units import Duration

Algorithm = Literal[
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
    "HS256",
    "HS384",
    "HS512",
]


class Introspection(Section, frozen=True, kw_only=True):
    """Asking the issuer about each token that is new to a worker (RFC 7662)."""

    url: str
    """The introspection endpoint; https, or http on this machine."""
    client_id: str
    client_secret: str
    """By which the proxy authenticates there (HTTP Basic); write ${NAME} to take it from the environment."""


class Issuer(Section, frozen=True, kw_only=True):
    """Somebody whose tokens are accepted. Its keys are found by discovery, unless another key says how."""

    issuer: str
    """Exactly as in the tokens' `iss`, and in the issuer's metadata (RFC 8414)."""
    audience: str | None = None
    """What `aud` must name; default: the route's own URL, `public_url` and path (RFC 8707)."""
    other_audiences: list[str] = []
    """What `aud` may name besides. A token that is good elsewhere, too, can be used here by whoever gets it
    there: it is refused unless all of its other audiences are in this list."""
    jwks_url: str | None = None
    """Where the keys are; default: what the issuer's metadata (RFC 8414, OpenID Connect Discovery) says."""
    algorithms: list[Algorithm] | None = None
    """Those that are accepted; default: all that fit the key. Each key is used with its own ones alone."""
    secret: str | None = None
    """Shared with the issuer, which signs with it (HS256, HS384, HS512) instead of with a key of its own;
    write ${NAME} to take it from the environment."""
    introspection: Introspection | None = None
    """Ask the issuer about every token instead of verifying it; also for tokens that are no JWTs. About those
    the first such issuer of a route is asked: nobody else is to see them."""
    refresh: Duration = Duration(300)
    """How often the keys are fetched again. A key that was withdrawn is accepted until then."""
    stale: Duration = Duration(86_400)
    """How long keys are used after they were fetched last, if the issuer cannot be reached."""


class Login(Section, frozen=True, kw_only=True):
    """Logging in with a browser: the proxy is the OAuth client and keeps the tokens; browsers get a cookie.

    At /.shadowcat/login, /.shadowcat/callback and /.shadowcat/logout of the public listener.
    """

    issuer: str
    """One of the route's `issuers`, where users log in."""
    client_id: str
    """By which the issuer knows the proxy; its redirect URI is `public_url` and /.shadowcat/callback."""
    client_secret: str | None = None
    """Write ${NAME} to take it from the environment; default: a public client, which has none."""
    scopes: list[str] = []
    """What is asked for; default: the route's `scopes`."""
    lifetime: Duration = Duration(28_800)
    """How long a login lasts at most, however often its token is refreshed."""


class Auth(Section, frozen=True, kw_only=True):
    """Who may use a route: the proxy is an OAuth 2.1 resource server, or passes tokens on to one."""

    mode: Literal["resource", "passthrough"] = "resource"
    """resource: tokens are verified here, and never forwarded. passthrough: they are forwarded unread; only
    where the route's one upstream and the proxy are the same `resource`."""
    issuers: list[Issuer] = []
    """Whose tokens are accepted; with passthrough only named to clients."""
    resource: str | None = None
    """The URL by which clients and issuers know the route (RFC 8707); default: `public_url` and its path."""
    scopes: list[str] = []
    """What a token must allow; all of them."""
    leeway: Duration = Duration(30)
    """By how much an issuer's clock may differ from this machine's."""
    cache: Duration = Duration(300)
    """How long a token that was verified is taken for good, at most; never beyond its own end."""
    login: Login | None = None
    """Off by default: browsers cannot log in."""
