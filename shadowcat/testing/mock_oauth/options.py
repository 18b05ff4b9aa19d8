"""Settings of the mock OAuth server."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from shadowcat.testing.mock_oauth.records import Client, User


@dataclass(frozen=True, slots=True)
class OAuthOptions:
    """How one mock authorization server behaves. Lifetimes are in seconds.

    Attributes:
        issuer: The issuer: a URL where clients reach this server (behind a TLS proxy, say), or only the path
            of one, such as "/tenant". The endpoints are below that path.
        algorithms: A signing key is made for each; the first signs access tokens.
        scopes: What can be asked for.
        default_scope: Granted where neither a request nor the client's registration names a scope.
        resources: The resources (RFC 8707) tokens can be asked for; empty for any.
        subject: Who approves where a request has no login_hint.
        users: Extra claims and allowed scopes of users; others need no entry.
        clients: Registered from the start.
        registration: Let clients register themselves (RFC 7591).
        opaque: Issue access tokens that only introspection explains, instead of JWTs.
        access_lifetime: Of access tokens and ID tokens.
        code_lifetime: Of authorization codes. RFC 6749 section 4.1.2 recommends at most 600.
        refresh_lifetime: Of each refresh token.
        control: Serve request capture, fault switches and lies under /_control.
        certificate: PEM file with a certificate chain: speak TLS.
        key: PEM file with its private key.
        keep_alive: Seconds an idle connection stays open.
        grace: Seconds that running requests get to finish after SIGTERM.
    """

    issuer: str = ""
    algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA", "PS256")
    scopes: tuple[str, ...] = ("mcp:read", "mcp:write", "mcp:admin", "openid")
    default_scope: str = "mcp:read"
    resources: tuple[str, ...] = ()
    subject: str = "alice"
    users: dict[str, User] = field(default_factory=dict)
    clients: tuple[Client, ...] = ()
    registration: bool = True
    opaque: bool = False
    access_lifetime: int = 300
    code_lifetime: int = 60
    refresh_lifetime: int = 86400
    control: bool = False
    certificate: Path | None = None
    key: Path | None = None
    keep_alive: int = 5
    grace: int = 1
