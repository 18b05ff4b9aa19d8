"""Addresses to listen on, as a configuration writes them: ``host:port``, ``[v6]:port``, ``unix:/path``."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from shadowcat.config.model import Config

UNIX_PATH_LIMIT: Final = 107
"""Longest path of a Unix socket in bytes: ``sun_path`` is 108 with its NUL (unix(7))."""

_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_PORT: Final = re.compile(r"[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: either `host` and `port`, or `unix_path`."""

    host: str = ""
    """IP address without brackets, or host name; empty for a Unix socket."""
    port: int = 0
    """TCP port; 0 lets the kernel choose."""
    unix_path: str | None = None

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the address. A name other than localhost may be anything."""
        if self.unix_path is not None or self.host.lower().rstrip(".") == "localhost":
            return True
        try:
            ip = ipaddress.ip_address(self.host)
        except ValueError:
            return False
        mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
        return (mapped or ip).is_loopback

    def __str__(self) -> str:
        if self.unix_path is not None:
            return f"unix:{self.unix_path}"
        return f"{bracketed(self.host)}:{self.port}"


def bracketed(host: str) -> str:
    """The host as it stands before a port: IPv6 addresses in brackets (RFC 3986 section 3.2.2)."""
    return f"[{host}]" if ":" in host else host


def parse_listen(text: str) -> Address:
    """Read an address to listen on.

    Raises:
        ValueError: It is no address; the message says what to write.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        check_unix_path(path)
        return Address(unix_path=path)
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ValueError(f"{text!r} names no host: write 127.0.0.1:8080, or 0.0.0.0:8080 for every interface")
    return Address(parse_host(host), parse_port(port, lowest=0))


def listen_addresses(config: Config) -> list[Address]:
    """The addresses of the public listener, in the order of the configuration.

    Raises:
        ValueError: One of them is no address.
    """
    texts = [config.listen] if isinstance(config.listen, str) else config.listen
    return [parse_listen(text) for text in texts]


def parse_host(text: str) -> str:
    """Read a host that may be a name, an IPv4 address or an IPv6 address in brackets.

    Returns:
        The host without brackets, addresses in their canonical form, names in lower case.

    Raises:
        ValueError: It is none of these.
    """
    if text.startswith("[") and text.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(text[1:-1]))
        except ValueError:
            raise ValueError(f"{text!r} is no IPv6 address") from None
    if ":" in text:
        raise ValueError(f"an IPv6 address goes into brackets: [{text}]")
    if re.fullmatch(r"[0-9.]+", text):
        try:
            return str(ipaddress.IPv4Address(text))
        except ValueError:
            raise ValueError(f"{text!r} is no IPv4 address") from None
    if _HOST_NAME.fullmatch(text) is None or len(text) > 253:
        raise ValueError(
            f"{text!r} is no host name (names with other than ASCII letters: write the xn-- form)"
        )
    return text.lower()


def parse_port(text: str, *, lowest: int) -> int:
    """Read a TCP port from `lowest` to 65535.

    Raises:
        ValueError: It is not such a number.
    """
    if _PORT.fullmatch(text) is None or not lowest <= int(text) <= 65535:
        raise ValueError(f"{text!r} is no port: write a number from {lowest} to 65535")
    return int(text)


def check_unix_path(path: str) -> None:
    """Accept what the kernel takes as the path of a Unix socket.

    Raises:
        ValueError: The path is relative, too long, or has a NUL.
    """
    if not path.startswith("/"):
        raise ValueError(f"{path!r} is no absolute path: write the whole path of the Unix socket")
    if "\0" in path:
        raise ValueError("the path of a Unix socket has no NUL character")
    if len(path.encode("utf-8", "surrogateescape")) > UNIX_PATH_LIMIT:
        raise ValueError(f"the path of a Unix socket has at most {UNIX_PATH_LIMIT} bytes: {path!r}")
