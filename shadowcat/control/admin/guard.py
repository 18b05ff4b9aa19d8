"""Who may speak to the admin listener: nobody that a web page has talked a browser into calling it.

A page of another site can make a browser send requests to a loopback port, and by DNS rebinding can read
the answers under its own host name. So the Host must name this machine by itself, and so must
the Origin where there is one. Reads may come from a local page, such as a dashboard being developed; nothing
may be changed by any page: a browser marks every such request with an Origin, and over a loopback address
with Sec-Fetch-Site too (https://www.w3.org/TR/fetch-metadata/).

And every user of this machine can connect to a loopback port, so a caller shows that it is the one who runs
Shadowcat, by a token that this user alone can read. A Unix socket has permissions for that.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Sequence
from typing import Final, NamedTuple

_SAFE: Final = frozenset(("GET", "HEAD", "OPTIONS"))
"""RFC 9110 section 9.2.1."""
_REALM: Final = 'Bearer realm="shadowcat admin"'
"""RFC 6750 section 3."""
_AUTHORITY: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:\[\]/@?#\s]+)(?::[0-9]*)?")


class Denial(NamedTuple):
    """An HTTP status and what to do about it."""

    status: int
    message: str
    challenge: str | None = None
    """For WWW-Authenticate."""


def check(
    method: str, hosts: Sequence[str], origins: Sequence[str], local: bool, sites: Sequence[str] = ()
) -> Denial | None:
    """Judge a request by its method and its Host, Origin and Sec-Fetch-Site fields.

    Args:
        method: The request's method.
        hosts: All Host fields of the request.
        origins: All Origin fields of the request.
        local: Whether it came over a Unix socket, where Host says nothing and no browser can be behind it.
        sites: All Sec-Fetch-Site fields.

    Returns:
        None if it may pass; else 421 for the Host (RFC 9110 section 15.5.20), 403 for what a page has sent.
    """
    if not local and not (len(hosts) == 1 and _is_this_machine(hosts[0])):
        return Denial(421, "the Host must be localhost, 127.0.0.1 or [::1]")
    if any(not _is_local_origin(origin) for origin in origins):
        return Denial(403, "the Origin must be absent or http://localhost, http://127.0.0.1 or http://[::1]")
    if method not in _SAFE and (origins or sites):
        return Denial(403, "a web page may not change anything here: use the command line")
    return None


def admit(token: str | None, authorizations: Sequence[str], local: bool) -> Denial | None:
    """Judge a request by its Authorization fields.

    Args:
        token: What it must show; None if nobody has made one.
        authorizations: All Authorization fields of the request.
        local: Whether it came over a Unix socket, which needs a token only if there is one.

    Returns:
        None if it may pass; else 401.
    """
    if token is None and local:
        return None
    if not authorizations:
        return Denial(
            401,
            "this needs the admin token, as Authorization: Bearer TOKEN; it is admin_token of the"
            " configuration, or in the file that the ready line names",
            _REALM,
        )
    scheme, _, given = authorizations[0].partition(" ")
    # Compared whatever the scheme is, in a time that does not depend on where it differs.
    same = hmac.compare_digest(given.strip(" ").encode("utf-8", "surrogateescape"), (token or "").encode())
    if token is None or len(authorizations) > 1 or scheme.lower() != "bearer" or not same:
        return Denial(
            401,
            "this is not the admin token; each start makes another one, unless admin_token is configured",
            f'{_REALM}, error="invalid_token"',
        )
    return None


def _is_local_origin(origin: str) -> bool:
    scheme, separator, authority = origin.partition("://")
    return bool(separator) and scheme in ("http", "https") and _is_this_machine(authority)


def _is_this_machine(authority: str) -> bool:
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        return False
    host = match["host"]
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
