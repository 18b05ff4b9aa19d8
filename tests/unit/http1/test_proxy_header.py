"""The header of the PROXY protocol: every form that is taken, and what is not."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from shadowcat.http1.proxy_header import ProxyHeaderError, parse_proxy_header

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
BEHIND = b"POST /mcp HTTP/1.1\r\n"


def binary(command: int, family: int, content: bytes) -> bytes:
    return SIGNATURE + bytes((command, family)) + len(content).to_bytes(2) + content


def addresses(source: str, target: str) -> bytes:
    return ip_address(source).packed + ip_address(target).packed + b"\x12\x34\x01\xbb"


V4 = addresses("192.0.2.1", "10.0.0.1")
V6 = addresses("2001:db8::1", "fd00::1")
CRC = b"\x03\x00\x04abcd"

GOOD = {
    "v1 IPv4": (b"PROXY TCP4 192.0.2.1 10.0.0.1 56324 443\r\n", "192.0.2.1"),
    "v1 IPv6": (b"PROXY TCP6 2001:DB8::1 fd00::1 0 65535\r\n", "2001:db8::1"),
    "v1 IPv4 in IPv6": (b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:10.0.0.1 1 2\r\n", "192.0.2.1"),
    "v1 unknown": (b"PROXY UNKNOWN\r\n", None),
    "v1 unknown with addresses": (
        b"PROXY UNKNOWN " + b"f" * 39 + b" " + b"f" * 39 + b" 65535 65535\r\n",
        None,
    ),
    "v2 IPv4": (binary(0x21, 0x11, V4), "192.0.2.1"),
    "v2 IPv6": (binary(0x21, 0x21, V6), "2001:db8::1"),
    "v2 IPv4 in IPv6": (binary(0x21, 0x21, addresses("::ffff:192.0.2.1", "::1")), "192.0.2.1"),
    "v2 TLVs": (binary(0x21, 0x11, V4 + CRC), "192.0.2.1"),
    "v2 longest": (binary(0x21, 0x11, V4 + b"\x04" * 508), "192.0.2.1"),
    "v2 Unix socket": (binary(0x21, 0x31, b"/" * 216), None),
    "v2 unspecified": (binary(0x21, 0x00, b"whatever"), None),
    "v2 local": (binary(0x20, 0x00, b""), None),
    "v2 local with addresses": (binary(0x20, 0x11, V4), None),
    "v2 local with less": (binary(0x20, 0x11, b"x"), None),
}

BAD = {
    "a request": BEHIND,
    "TLS": b"\x16\x03\x01\x02\x00",
    "one wrong byte": b"Q",
    "another letter case": b"proxy TCP4 192.0.2.1 10.0.0.1 1 2\r\n",
    "signature broken off": b"\r\n\r\nPOST",
    "v1 UDP": b"PROXY UDP4 192.0.2.1 10.0.0.1 1 2\r\n",
    "v1 wrong family": b"PROXY TCP4 2001:db8::1 fd00::1 1 2\r\n",
    "v1 other family": b"PROXY TCP6 192.0.2.1 10.0.0.1 1 2\r\n",
    "v1 leading zero in the address": b"PROXY TCP4 192.0.2.01 10.0.0.1 1 2\r\n",
    "v1 zone": b"PROXY TCP6 fe80::1%eth0 fe80::2 1 2\r\n",
    "v1 two blanks": b"PROXY TCP4  192.0.2.1 10.0.0.1 1 2\r\n",
    "v1 blank at the end": b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2 \r\n",
    "v1 tab": b"PROXY TCP4\t192.0.2.1 10.0.0.1 1 2\r\n",
    "v1 without ports": b"PROXY TCP4 192.0.2.1 10.0.0.1\r\n",
    "v1 port too large": b"PROXY TCP4 192.0.2.1 10.0.0.1 65536 2\r\n",
    "v1 port with leading zero": b"PROXY TCP4 192.0.2.1 10.0.0.1 1 02\r\n",
    "v1 signed port": b"PROXY TCP4 192.0.2.1 10.0.0.1 +1 2\r\n",
    "v1 bare LF": b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\nX\r\n",
    "v1 NUL": b"PROXY UNKNOWN \0\r\n",
    "v1 unknown and more": b"PROXY UNKNOWNX\r\n",
    "v1 no end": b"PROXY UNKNOWN " + b"x" * 93,
    "v1 one byte too long": b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
    "v2 version 1": binary(0x11, 0x11, V4),
    "v2 version 3": binary(0x31, 0x11, V4),
    "v2 unknown command": binary(0x22, 0x11, V4),
    "v2 UDP": binary(0x21, 0x12, V4),
    "v2 unknown family": binary(0x21, 0x41, V4),
    "v2 stream of nothing": binary(0x21, 0x01, V4),
    "v2 too short for IPv4": binary(0x21, 0x11, V4[:-1]),
    "v2 too short for IPv6": binary(0x21, 0x21, V4),
    "v2 too short for a Unix socket": binary(0x21, 0x31, b"/" * 215),
    "v2 too long": binary(0x21, 0x11, V4 + b"\x04" * 509),
    "v2 far too long": SIGNATURE + b"\x21\x11\xff\xff",
}


@pytest.mark.parametrize("name", GOOD)
def test_good_headers(name: str) -> None:
    header, source = GOOD[name]
    for behind in (b"", BEHIND, header):
        assert parse_proxy_header(header + behind) == (source, len(header))
    for end in range(len(header)):
        assert parse_proxy_header(header[:end]) is None, end


@pytest.mark.parametrize("name", BAD)
def test_bad_headers(name: str) -> None:
    with pytest.raises(ProxyHeaderError):
        parse_proxy_header(BAD[name])
    with pytest.raises(ProxyHeaderError):
        parse_proxy_header(BAD[name] + BEHIND)


def test_the_longest_line() -> None:
    longest = b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n"
    assert len(longest) == 107
    assert parse_proxy_header(longest) == (None, 107)
