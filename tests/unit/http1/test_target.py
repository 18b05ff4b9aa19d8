from __future__ import annotations

import pytest

from shadowcat.errors import Refusal
from shadowcat.http1.target import Target, is_host, parse_target


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"/mcp", Target(b"/mcp", b"", None)),
        (b"/", Target(b"/", b"", None)),
        (b"/mcp?", Target(b"/mcp", b"?", None)),
        (b"/mcp?a=//..%2f", Target(b"/mcp", b"?a=//..%2f", None)),
        (b"/a..b/.../.c", Target(b"/a..b/.../.c", b"", None)),
        (b"http://h", Target(b"/", b"", b"h")),
        (b"http://h?x", Target(b"/", b"?x", b"h")),
        (b"HTTPS://h:1/x?y", Target(b"/x", b"?y", b"h:1")),
        (b"http://[::1]:80/x", Target(b"/x", b"", b"[::1]:80")),
    ],
)
def test_accepted(raw: bytes, expected: Target) -> None:
    assert parse_target(b"POST", raw) == expected


def test_asterisk_belongs_to_options() -> None:
    assert parse_target(b"OPTIONS", b"*") == Target(b"*", b"", None)
    assert parse_target(b"GET", b"*") is Refusal.BAD_TARGET


@pytest.mark.parametrize(
    "path",
    [
        b"//",
        b"/a//b",
        b"/.",
        b"/./a",
        b"/..",
        b"/a/..",
        b"/a/../b",
        b"/%2e",
        b"/a/%2E%2e",
        b"/.%2e/",
        b"/..;/a",
        b"/%2e%2e;a=b/c",
        b"/.;",
        b"/a%2fb",
        b"/a%2Fb",
        b"/a%5cb",
        b"/a%00",
    ],
)
def test_paths_that_servers_read_in_two_ways(path: bytes) -> None:
    assert parse_target(b"GET", path) is Refusal.AMBIGUOUS_PATH
    assert parse_target(b"GET", b"http://h" + path) is Refusal.AMBIGUOUS_PATH


@pytest.mark.parametrize("byte", [*range(0x21), *b'"#<>[\\]^`{|}', *range(0x7F, 0x100)])
def test_bytes_that_no_path_may_have(byte: int) -> None:
    assert parse_target(b"GET", b"/a%cb" % byte) is Refusal.BAD_TARGET


@pytest.mark.parametrize(
    "host", [b"a", b"a.b-c", b"a:1", b"127.0.0.1:65535", b"[::1]", b"[fe80::1%25eth0]:1", b"a_b"]
)
def test_hosts(host: bytes) -> None:
    assert is_host(host)


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"a:",
        b":1",
        b"a:b",
        b"a:123456",
        b"a,b",
        b"a b",
        b"u@a",
        b"a/b",
        b"::1",
        b"[::1",
        b"[]",
        b"[g]",
        b"a\n",
        b"a#",
        b"a?",
        b"\xe4",
        b"[::1]x",
    ],
)
def test_what_is_no_host(host: bytes) -> None:
    assert not is_host(host)
