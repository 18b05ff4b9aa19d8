"""Cookies: how they are named and read, and for whose requests they count."""

from __future__ import annotations

import pytest

from shadowcat.auth import cookies

VALUE = cookies.make_value(513, bytes(range(32)))
OWN = frozenset({b"https://mcp.example"})


def test_a_value_names_its_slot_and_has_one_spelling() -> None:
    value = VALUE.encode()
    assert cookies.slot_of(value) == 513
    last = value[:-1] + (b"_" if not value.endswith(b"_") else b"-")
    for other in (b"", value[:-1], value + b"A", value + b"==", b"=" * 46, b"\xff" * 46, last):
        assert cookies.slot_of(other) is None, other
    assert cookies.digest_of(value) != cookies.digest_of(value[:-1] + b"A")
    assert 0 < cookies.digest_of(value) < 2**64


def test_names_are_bound_to_the_host_where_there_is_tls() -> None:
    assert cookies.login_cookie("/mcp", secure=True).startswith("__Host-shadowcat-")
    assert not cookies.login_cookie("/mcp", secure=False).startswith("__")
    assert cookies.login_cookie("/a", secure=True) != cookies.login_cookie("/b", secure=True)
    assert cookies.is_secure("HTTPS://mcp.example")
    assert not cookies.is_secure("http://localhost")
    text = cookies.set_cookie("n", "v", 5, secure=True)
    assert text == "n=v; Path=/; Max-Age=5; HttpOnly; SameSite=Lax; Secure"
    assert "Secure" not in cookies.set_cookie("n", "v", 5, secure=False)


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ([b"a=1; n=v; b=2"], b"v"),
        ([b"a=1", b"n=v"], b"v"),
        ([b"n=v=w"], b"v=w"),
        ([b"n=v; n=w"], None),
        ([b"n=v", b"n=v"], None),
        ([b"nn=v; xn=v; N=v"], None),
        ([b"a=\"; n=v"], b"v"),
        ([], None),
        ([b";;;"], None),
    ],
)  # fmt: skip
def test_a_cookie_is_found_by_its_name_and_never_twice(fields: list[bytes], found: bytes | None) -> None:
    assert cookies.find(fields, b"n") == found


@pytest.mark.parametrize(
    ("method", "origins", "sites", "expected"),
    [
        (b"POST", [], [b"same-origin"], True),
        (b"POST", [b"https://mcp.example"], [], True),
        (b"POST", [b"HTTPS://MCP.example"], [], True),
        (b"POST", [b"https://mcp.example"], [b"same-origin"], True),
        (b"POST", [], [], False),
        (b"DELETE", [], [], False),
        (b"POST", [], [b"none"], False),
        (b"POST", [], [b"same-site"], False),
        (b"POST", [], [b"cross-site"], False),
        (b"POST", [b"null"], [b"same-origin"], False),
        (b"POST", [b"https://other.example"], [b"same-origin"], False),
        (b"POST", [b"https://mcp.example", b"https://mcp.example"], [], False),
        (b"POST", [], [b"same-origin", b"same-origin"], False),
        (b"GET", [], [], True),
        (b"GET", [], [b"none"], True),
        (b"GET", [], [b"same-origin"], True),
        (b"GET", [], [b"cross-site"], False),
        (b"GET", [], [b"same-site"], False),
        (b"GET", [b"https://other.example"], [], False),
    ],
)
def test_a_cookie_counts_only_where_no_other_page_can_have_sent_it(
    method: bytes, origins: list[bytes], sites: list[bytes], expected: bool
) -> None:
    assert cookies.counts(method, origins, sites, OWN) is expected
