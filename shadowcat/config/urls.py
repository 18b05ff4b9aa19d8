"""Upstream URLs: ``http://host:port/path``, ``https://…`` and ``http+unix://%2Frun%2Fserver.sock/path``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, cast
from urllib.parse import unquote_to_bytes

from shadowcat.config.addresses import bracketed, check_unix_path, parse_host, parse_port

if TYPE_CHECKING:
    from shadowcat.config.model import Upstream

Scheme = Literal["http", "https", "http+unix"]

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_URL: Final = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/]*)(?P<path>/.*)?", re.DOTALL
)
# RFC 3986 section 3.3: what a path may hold as it stands.
_PATH: Final = re.compile(r"(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*)*")
# Parsers disagree on these after decoding (RFC 3986 section 6.2.2), and a proxy must not choose for them.
_ENCODED: Final = re.compile(r"%(?:2e|2f|5c|00)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class UpstreamAddress:
    """Where an upstream is, taken apart once."""

    scheme: Scheme
    host: str
    """Name or IP address without brackets; empty for a Unix socket."""
    port: int
    """TCP port; 0 for a Unix socket."""
    unix_path: str | None
    authority: bytes
    """Value of Host: the port stands there unless it is the scheme's default (RFC 9110 section 7.2)."""
    base_path: str
    """Path as the URL has it, "/" if it has none."""


def parse_upstream(url: str) -> UpstreamAddress:
    """Take an upstream's URL apart.

    Raises:
        ValueError: The URL cannot be used; the message says why. It never repeats what may be a password.
    """
    if "?" in url or "#" in url:
        raise ValueError("a query or fragment cannot be sent: remove it; a key goes into credential.headers")
    parts = _URL.fullmatch(url)
    if parts is None:
        raise ValueError(f"not a URL: write http://host:port/path, not {url.rpartition('@')[2]!r}")
    scheme, authority, path = parts["scheme"].lower(), parts["authority"], parts["path"] or "/"
    if scheme not in {"http", "https", "http+unix"}:
        raise ValueError(f"unknown scheme {scheme!r}: use http, https or http+unix")
    if "@" in authority:
        raise ValueError("user and password do not belong into a URL: use credential.headers")
    check_path(path)
    if scheme == "http+unix":
        return UpstreamAddress("http+unix", "", 0, _unix_path(authority), b"localhost", path)
    host, port = _host_and_port(authority, _DEFAULT_PORTS[scheme])
    shown = bracketed(host) if port == _DEFAULT_PORTS[scheme] else f"{bracketed(host)}:{port}"
    return UpstreamAddress(cast("Scheme", scheme), host, port, None, shown.encode("ascii"), path)


def check_public_url(url: str) -> None:
    """Accept the URL by which clients know the proxy.

    Raises:
        ValueError: It is not http or https, or has what no client sends; the message says what to write.
    """
    parts = _URL.fullmatch(url)
    if parts is None or parts["scheme"].lower() not in _DEFAULT_PORTS:
        raise ValueError(f"not an http(s) URL: write https://mcp.example, not {url.rpartition('@')[2]!r}")
    if "?" in url or "#" in url:
        raise ValueError("a query or fragment has no meaning here: remove it")
    if "@" in parts["authority"]:
        raise ValueError("user and password do not belong into a URL: remove them")
    check_path(parts["path"] or "/")
    check_authority(parts["authority"])


def check_authority(text: str) -> None:
    """Accept a host that clients may ask for, with or without a port.

    Raises:
        ValueError: It is none; the message says why.
    """
    if not text or "/" in text or text.endswith(":"):
        raise ValueError(f"{text!r} is no host: write mcp.example or mcp.example:8443")
    if text.count(":") > 1 and not text.startswith("["):
        raise ValueError(f"an IPv6 address goes into brackets: [{text}]")
    _host_and_port(text, 0)


def upstream_name(upstream: Upstream) -> str:
    """The label of an upstream in metrics, logs and errors: its name, else ``host:port`` or the socket path.

    Raises:
        ValueError: It has no name and its URL cannot be used.
    """
    if upstream.name:
        return upstream.name
    address = parse_upstream(upstream.url)
    return address.unix_path or f"{bracketed(address.host)}:{address.port}"


def check_path(path: str) -> None:
    """Accept a path that every parser reads the same way.

    Raises:
        ValueError: Dot segments, empty segments, encoded slashes, or characters that must be encoded.
    """
    if _PATH.fullmatch(path) is None:
        raise ValueError(
            f"{path!r} is no path: other than ASCII letters, digits and -._~!$&'()*+,;=:@ write as %XX"
        )
    if "//" in path or _ENCODED.search(path) or {".", ".."} & set(path.split("/")):
        raise ValueError(
            f"{path!r} has a dot segment, an empty segment or an encoded slash: write it plainly"
        )


def _host_and_port(authority: str, default: int) -> tuple[str, int]:
    host, port = authority, ""
    # The last colon parts the port, unless it stands inside an IPv6 address.
    if authority.rpartition("]")[2].count(":"):
        host, _, port = authority.rpartition(":")
    if not host:
        raise ValueError("no host: write http://host:port/path")
    if "%" in host:
        raise ValueError(f"{host!r} is no host name")
    return parse_host(host), parse_port(port, lowest=1) if port else default


def _unix_path(authority: str) -> str:
    if not authority:
        raise ValueError("no socket path: write http+unix://%2Frun%2Fserver.sock/path, its slashes as %2F")
    try:
        path = unquote_to_bytes(authority).decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"the socket path {authority!r} is not UTF-8") from None
    if not path.startswith("/"):
        raise ValueError(
            f"the socket path {path!r} is not absolute: write http+unix://%2Frun%2Fserver.sock/path"
        )
    check_unix_path(path)
    return path
