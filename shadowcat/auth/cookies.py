"""The cookies by which browsers are known: how they are named, read, and when they count (RFC 6265bis).

A login's cookie is opaque: the number of its slot (shm/logins.py) and 256 random bits. Tokens never leave the
proxy.
"""

from __future__ import annotations

import binascii
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Collection, Sequence
from hashlib import blake2b
from typing import Final

RANDOM: Final = 32
"""Bytes that nobody can guess, in each value."""
_SLOT: Final = 2
_VALUE: Final = re.compile(rb"[A-Za-z0-9_-]{46}")
_BROWSER: Final = re.compile(rb"[A-Za-z0-9_-]{43}")
_PREFIX: Final = "__Host-"
"""Browsers take such a cookie only over https, from the host itself, for all its paths: no other host of the
domain can plant one."""
_SAFE: Final = frozenset({b"GET", b"HEAD"})


def is_secure(public_url: str) -> bool:
    """Whether browsers reach the proxy over https; plain http is only for this machine."""
    return public_url.lower().startswith("https:")


def login_cookie(route: str, *, secure: bool) -> str:
    """The name of the cookie for logins to a route: a browser may be logged in to several of them."""
    name = f"shadowcat-{blake2b(route.encode(), digest_size=4).hexdigest()}"
    return _PREFIX + name if secure else name


def browser_cookie(*, secure: bool) -> str:
    """The name of the cookie that ties a login to the browser that has begun it."""
    return f"{_PREFIX}shadowcat-browser" if secure else "shadowcat-browser"


def set_cookie(name: str, value: str, lifetime: int, *, secure: bool) -> str:
    """The value of Set-Cookie; with a `lifetime` of 0 s the cookie goes.

    Lax, as the issuer's page sends the browser back here with a GET, and nothing else from elsewhere may.
    """
    end = "; Secure" if secure else ""
    return f"{name}={value}; Path=/; Max-Age={lifetime}; HttpOnly; SameSite=Lax{end}"


def make_value(slot: int, random: bytes) -> str:
    """The value of a login's cookie."""
    return urlsafe_b64encode(slot.to_bytes(_SLOT, "big") + random).rstrip(b"=").decode()


def slot_of(value: bytes) -> int | None:
    """The slot that a login's cookie names; None if it is no such cookie."""
    if _VALUE.fullmatch(value) is None:
        return None
    try:
        content = urlsafe_b64decode(value + b"==")
    except binascii.Error:
        return None
    # Another spelling of the same bytes is another cookie.
    if urlsafe_b64encode(content).rstrip(b"=") != value:
        return None
    return int.from_bytes(content[:_SLOT], "big")


def digest_of(value: bytes) -> int:
    """What is kept of a login's cookie in place of it; fits a word, and is never 0."""
    return int.from_bytes(blake2b(value, digest_size=8).digest(), "big") | 1


def is_browser(value: bytes) -> bool:
    """Whether this is how the proxy names browsers."""
    return _BROWSER.fullmatch(value) is not None


def find(fields: Sequence[bytes], name: bytes) -> bytes | None:
    """The value of a cookie; None without one, and if it stands twice: one of the two was planted."""
    found = [
        value
        for field in fields
        for part in field.split(b";")
        for key, _, value in [part.strip(b" \t").partition(b"=")]
        if key == name
    ]
    return found[0] if len(found) == 1 else None


def counts(method: bytes, origins: Sequence[bytes], sites: Sequence[bytes], own: Collection[bytes]) -> bool:
    """Whether a cookie says on whose behalf a request is made: not if a page from elsewhere may have sent it.

    Args:
        method: Of the request.
        origins: All values of its Origin.
        sites: All values of its Sec-Fetch-Site.
        own: The origins whose pages may, as browsers write them.
    """
    if origins:
        return len(origins) == 1 and origins[0].lower() in own
    if sites:
        return list(sites) == [b"same-origin"] or (method in _SAFE and list(sites) == [b"none"])
    return method in _SAFE  # Neither a browser of today, nor one that would change anything.
