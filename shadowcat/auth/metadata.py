"""Protected resource metadata (RFC 9728): where a client that has no token finds out how to get one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

WELL_KNOWN: Final = "/.well-known/oauth-protected-resource"


def metadata_url(resource: str) -> str:
    """Where the metadata of a resource is: the well-known path before its own (RFC 9728 section 3.1)."""
    parts = urlsplit(resource)
    return f"{parts.scheme}://{parts.netloc}{WELL_KNOWN}{parts.path.rstrip('/')}"


def metadata_paths(resource: str | None, path: str, *, alone: bool) -> set[str]:
    """The paths at which the metadata of a route is served.

    Args:
        resource: The canonical URI of the route; None if it depends on how it is called.
        path: Of the route: a proxy in front may cut something off the path of the public URL.
        alone: Whether there is no other such route: then its metadata are also those of the whole host.
    """
    paths = {WELL_KNOWN + path.rstrip("/")}
    if resource is not None:
        paths.add(urlsplit(metadata_url(resource)).path)
    if alone:
        paths |= {WELL_KNOWN, f"{WELL_KNOWN}/"}
    return paths


def metadata_document(resource: str, issuers: Sequence[str], scopes: Sequence[str]) -> bytes:
    """The document itself."""
    document: dict[str, Any] = {
        "resource": resource,
        "authorization_servers": list(issuers),
        "bearer_methods_supported": ["header"],
    }
    if scopes:
        document["scopes_supported"] = list(scopes)
    return orjson.dumps(document)
