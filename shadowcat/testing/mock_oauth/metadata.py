"""What the server says of itself: RFC 8414, OpenID Connect Discovery, and where everything is."""

from __future__ import annotations

from typing import Any

from shadowcat.testing.mock_oauth.core import Core
from shadowcat.testing.mock_oauth.records import AUTH_METHODS, GRANT_TYPES


def well_known(path: str) -> list[str]:
    """Return the paths of the metadata of an issuer whose URL has this path.

    RFC 8414 section 3.1 puts the well-known part first, OpenID Connect Discovery section 4 last, and MCP
    clients try both.
    """
    found = [f"/.well-known/oauth-authorization-server{path}", f"/.well-known/openid-configuration{path}"]
    return found + ([f"{path}/.well-known/openid-configuration"] if path else [])


def metadata(core: Core) -> dict[str, Any]:
    """Return the metadata document, the same for both protocols."""
    issuer = core.issuer
    confidential = [method for method in AUTH_METHODS if method != "none"]
    document: dict[str, Any] = {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/authorize",
        "token_endpoint": f"{issuer}/token",
        "jwks_uri": f"{issuer}/jwks",
        "introspection_endpoint": f"{issuer}/introspect",
        "revocation_endpoint": f"{issuer}/revoke",
        "scopes_supported": list(core.options.scopes),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": list(GRANT_TYPES),
        "token_endpoint_auth_methods_supported": list(AUTH_METHODS),
        "introspection_endpoint_auth_methods_supported": confidential,
        "revocation_endpoint_auth_methods_supported": list(AUTH_METHODS),
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": True,
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [core.ring.default],
    }
    if core.options.registration:
        document["registration_endpoint"] = f"{issuer}/register"
    return document
