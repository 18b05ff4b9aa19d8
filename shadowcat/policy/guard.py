"""Which Host and Origin are answered: the defence against DNS rebinding and hostile web pages.

The proxy sends its upstreams their own authority as Host, so their checks no longer see the client's: the
duty is the proxy's (MCP 2025-11-25 basic/transports, "Security Warning").
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final
from urllib.parse import urlsplit

from shadowcat.errors import Refusal

LOOPBACK_HOSTS: Final = ("localhost", "127.0.0.1", "[::1]")
_MOST_KNOWN: Final = 64
_PORT: Final = re.compile(rb":[0-9]*\Z")
_ORIGIN: Final = re.compile(rb"(https?)://([^/?#@\s]+)")
_DEFAULT_PORTS: Final = (("http://", ":80"), ("https://", ":443"))


class Guard:
    """The hosts and origins of one kind of listener."""

    __slots__ = ("_any_host", "_any_origin", "_hosts", "_known", "_origins")

    def __init__(
        self,
        public_url: str | None,
        allowed_hosts: Collection[str],
        allowed_origins: Collection[str],
        *,
        loopback: bool,
    ) -> None:
        """`loopback` adds the names of this machine: such a listener cannot be reached by other names."""
        hosts = [host.lower().encode() for host in allowed_hosts if host != "*"]
        origins = [_serialise(origin) for origin in allowed_origins if origin != "*"]
        if public_url is not None:
            parts = urlsplit(public_url)
            public = _serialise(f"{parts.scheme}://{parts.netloc}")
            hosts.append(public.partition(b"://")[2])
            origins.append(public)
        if loopback:
            hosts += [host.encode() for host in LOOPBACK_HOSTS]
        self._any_host = "*" in allowed_hosts
        self._any_origin = "*" in allowed_origins
        self._hosts = frozenset(hosts)
        self._known: set[bytes] = set()
        """Hosts found to be accepted, as they were spelled."""
        self._origins = frozenset(origins)

    def check(self, host: bytes, origins: Sequence[bytes]) -> Refusal | None:
        """Judge a request head.

        Args:
            host: Its Host; empty in HTTP/1.0 without one, which no browser sends.
            origins: All its Origin values.
        """
        if host and host not in self._known and not self._is_host(host):
            return Refusal.WRONG_HOST
        if origins and (len(origins) > 1 or not self._is_origin(origins[0].lower())):
            return Refusal.WRONG_ORIGIN
        return None

    def _is_host(self, host: bytes) -> bool:
        """An entry without a port stands for all ports."""
        lower = host.lower()
        if not (self._any_host or lower in self._hosts or _PORT.sub(b"", lower) in self._hosts):
            return False
        if len(self._known) < _MOST_KNOWN:
            self._known.add(host)
        return True

    def _is_origin(self, origin: bytes) -> bool:
        if origin in self._origins:
            return True
        parts = _ORIGIN.fullmatch(origin)
        if parts is None:
            return False  # "null", and whatever else is no web origin.
        host = parts[2]
        return self._any_origin or host in self._hosts or _PORT.sub(b"", host) in self._hosts


def own_origins(public_url: str | None, allowed: Collection[str]) -> frozenset[bytes]:
    """The origins whose pages may act for somebody who is logged in: those that are named, and no others."""
    named = [origin for origin in allowed if origin != "*"]
    if public_url is not None:
        parts = urlsplit(public_url)
        named.append(f"{parts.scheme}://{parts.netloc}")
    return frozenset(_serialise(origin) for origin in named)


def _serialise(origin: str) -> bytes:
    """An origin as browsers send it: in lower case, without the scheme's own port (RFC 6454 section 6.2)."""
    text = origin.lower()
    for scheme, port in _DEFAULT_PORTS:
        if text.startswith(scheme):
            text = text.removesuffix(port)
    return text.encode()
