"""Who may speak to the admin listener: nobody that a web page has talked a browser into calling it.

A page of another site can make a browser send requests to a loopback port, and by DNS rebinding can read
the answers under its own host name. So the Host must name this machine by itself, and so must
the Origin where there is one. Reads may come from a local page, such as a dashboard being developed; nothing
may be changed by any page: a browser marks every such request with an Origin, and over a loopback address
with Sec-Fetch-Site too (https://www.w3.org/TR/fetch-metadata/).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Final, NamedTuple

_SAFE: Final = frozenset(("GET", "HEAD", "OPTIONS"))
"""RFC 9110 section 9.2.1."""
_AUTHORITY: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:\[\]/@?#\s]+)(?::[0-9]*)?")


class Denial(NamedTuple):
    """An HTTP status and what to do about it."""

    status: int
    message: str


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
