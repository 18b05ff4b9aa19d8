"""The header with which a balancer says for whom it opened a connection: PROXY protocol, versions 1 and 2.

It stands before the first request, once. What it claims is believed or not by who sends it, and nothing in
here decides that (HAProxy, doc/proxy-protocol.txt).
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final, NamedTuple

_TEXT: Final = b"PROXY "
_BINARY: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_LONGEST_TEXT: Final = 107
"""Bytes with the CRLF (section 2.1)."""
_LONGEST_BINARY: Final = 536
"""Bytes with all TLVs: what fits into the smallest segment (section 2), and several times the addresses."""
_FIXED: Final = 16
_LOCAL: Final = 0x20
_PROXIED: Final = 0x21
_TCP4: Final = 0x11
_TCP6: Final = 0x21
_ADDRESSES: Final = {_TCP4: 12, _TCP6: 36, 0x31: 216}
"""Least bytes behind the fixed part, by family and protocol; 0x31 is a stream over a Unix socket."""
_UNSPECIFIED: Final = 0x00
_LINE: Final = re.compile(rb"PROXY (TCP4|TCP6) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) ([0-9]{1,5}) ([0-9]{1,5})")
_UNKNOWN: Final = re.compile(rb"PROXY UNKNOWN(?: [\x20-\x7e]*)?")
_PORTS: Final = 65_536


class ProxyHeaderError(ValueError):
    """The connection does not begin with such a header."""


class ProxyHeader(NamedTuple):
    """What stands at the beginning of a connection."""

    source: str | None
    """The numeric address of the client; None if the balancer speaks for itself, or cannot say."""
    length: int
    """Bytes that the header takes."""


def parse_proxy_header(data: bytes) -> ProxyHeader | None:
    """Read the header at the beginning of `data`; None if more bytes are needed.

    Raises:
        ProxyHeaderError: There is none, or it is malformed, or too long.
    """
    if data.startswith(_BINARY):
        return _read_binary(data)
    if data.startswith(_TEXT):
        return _read_text(data)
    if _BINARY.startswith(data) or _TEXT.startswith(data):
        return None
    raise ProxyHeaderError("neither the signature of version 1 nor that of version 2")


def _read_text(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, _LONGEST_TEXT)
    if end < 0:
        if len(data) >= _LONGEST_TEXT:
            raise ProxyHeaderError(f"version 1: no line of at most {_LONGEST_TEXT} bytes")
        return None
    line, length = data[:end], end + 2
    if _UNKNOWN.fullmatch(line):
        return ProxyHeader(None, length)
    fields = _LINE.fullmatch(line)
    if fields is None:
        raise ProxyHeaderError("version 1: malformed line")
    kind = IPv4Address if fields[1] == b"TCP4" else IPv6Address
    try:
        source, _ = kind(fields[2].decode()), kind(fields[3].decode())
    except AddressValueError as error:
        raise ProxyHeaderError(f"version 1: {error}") from None
    for port in fields[4], fields[5]:
        if int(port) >= _PORTS or (port != b"0" and port.startswith(b"0")):
            raise ProxyHeaderError("version 1: malformed port")
    return ProxyHeader(_plain(source), length)


def _read_binary(data: bytes) -> ProxyHeader | None:
    if len(data) < _FIXED:
        return None
    command, family = data[12], data[13]
    size = int.from_bytes(data[14:_FIXED])
    length = _FIXED + size
    if length > _LONGEST_BINARY:
        raise ProxyHeaderError(f"version 2: {length} bytes, more than {_LONGEST_BINARY}")
    if command not in (_LOCAL, _PROXIED):
        raise ProxyHeaderError("version 2: unknown version or command")
    if command == _PROXIED and family != _UNSPECIFIED:
        least = _ADDRESSES.get(family)
        if least is None:
            raise ProxyHeaderError("version 2: not a stream over IPv4, IPv6 or a Unix socket")
        if size < least:
            raise ProxyHeaderError("version 2: too short for its addresses")
    if len(data) < length:
        return None
    source = None
    if command == _PROXIED and family == _TCP4:
        source = _plain(IPv4Address(data[16:20]))
    elif command == _PROXIED and family == _TCP6:
        source = _plain(IPv6Address(data[16:32]))
    return ProxyHeader(source, length)


def _plain(address: IPv4Address | IPv6Address) -> str:
    """The address as text, of IPv4 always in its own form: limits know it by one name."""
    return str(getattr(address, "ipv4_mapped", None) or address)
