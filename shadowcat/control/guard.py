"""Who may speak to the admin listener: nobody that a web page has talked a browser into calling it.

A page of another site can make a browser send requests to a loopback port, and by DNS rebinding can read
the answers under its own host name. So the Host must name this machine by itself, and so must
the Origin where there is one.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Final, NamedTuple

_AUTHORITY: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:\[\]/@?#\s]+)(?::[0-9]*)?")


class Denial(NamedTuple):
    """An HTTP status and what to do about it."""

    status: int
    message: str


def check(hosts: Sequence[str], origins: Sequence[str], local: bool) -> Denial | None:
    """Judge a request by its Host and Origin fields.

    Args:
        hosts: All Host fields of the request.
        origins: All Origin fields of the request.
        local: Whether it came over a Unix socket, where Host says nothing and no browser can be behind it.

    Returns:
        None if it may pass; else 421 for the Host (RFC 9110 section 15.5.20), 403 for the Origin.
    """
    if not local and not (len(hosts) == 1 and _is_this_machine(hosts[0])):
        return Denial(421, "the Host must be localhost, 127.0.0.1 or [::1]")
    if any(not _is_local_origin(origin) for origin in origins):
        return Denial(403, "the Origin must be absent or http://localhost, http://127.0.0.1 or http://[::1]")
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
