"""Where an issuer has its keys (RFC 8414, OpenID Connect Discovery), and which URLs are followed."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from shadowcat.config.access import check_issuer_url


def well_known(issuer: str) -> list[str]:
    """The URLs of an issuer's metadata, in the order in which MCP has them tried.

    Those of RFC 8414 section 3.1 stand before the issuer's path, the one of OpenID Connect behind it.
    """
    parts = urlsplit(issuer)
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    found = [
        f"{origin}/.well-known/oauth-authorization-server{path}",
        f"{origin}/.well-known/openid-configuration{path}",
    ]
    return [*found, f"{origin}{path}/.well-known/openid-configuration"] if path else found


def endpoint_url(issuer: str, document: Any, name: str) -> str:
    """A URL that an issuer's metadata name: `jwks_uri`, `token_endpoint`, `authorization_endpoint`.

    Raises:
        ValueError: It is somebody else's metadata (RFC 8414 section 3.3), or names no URL to be followed.
    """
    if not isinstance(document, dict) or document.get("issuer") != issuer:
        raise ValueError("it is not the metadata of this issuer")
    url = document.get(name)
    if not isinstance(url, str):
        raise ValueError(f"it does not name {name}")
    check_issuer_url(url)
    if urlsplit(url).hostname != urlsplit(issuer).hostname and not may_be_public(
        urlsplit(url).hostname or ""
    ):
        raise ValueError(f"it names an address that is not public ({name})")
    return url


def may_be_public(host: str) -> bool:
    """Whether a host that nobody has configured may be asked: no address of a network of one's own.

    A name may be; what it leads to is for whoever resolves it to look at.
    """
    try:
        return ip_address(host.strip("[]")).is_global
    except ValueError:
        return host != "localhost" and not host.endswith(".localhost")
