"""What an OAuth client may believe of what comes through a browser."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from shadowcat.auth.code_grant import (
    Answer,
    GrantError,
    authorization_url,
    challenge_of,
    check_issuer,
    check_return,
    describe_error,
    read_answer,
    read_query,
    read_server,
)

ISSUER = "https://idp.example"
GOOD = {
    "issuer": ISSUER,
    "authorization_endpoint": f"{ISSUER}/authorize?tenant=1",
    "code_challenge_methods_supported": ["plain", "S256"],
}


def test_the_challenge_is_the_one_of_rfc_7636_appendix_b() -> None:
    verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    assert challenge_of(verifier) == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


@pytest.mark.parametrize(
    ("endpoint", "joint"), [("https://a/b", "?"), ("https://a/b?c=d", "&"), ("https://a/b?", "")]
)
def test_an_authorization_url_keeps_the_endpoints_own_query(endpoint: str, joint: str) -> None:
    url = authorization_url(
        endpoint, client_id="c&d", redirect_uri="https://p/c?x", state="s", verifier="v" * 43,
        scopes=["a", "b"], resource="https://p/mcp",
    )  # fmt: skip
    assert url.startswith(endpoint + joint)
    found = parse_qs(urlsplit(url).query)
    assert found["client_id"] == ["c&d"]
    assert found["redirect_uri"] == ["https://p/c?x"]
    assert found["scope"] == ["a b"]
    assert found["resource"] == ["https://p/mcp"]
    assert found["code_challenge_method"] == ["S256"]
    assert "v" * 43 not in url


@pytest.mark.parametrize(
    "members",
    [
        {"code_challenge_methods_supported": ["plain"]},
        {"code_challenge_methods_supported": None},
        {"code_challenge_methods_supported": "S256"},
        {"authorization_endpoint": None},
        {"authorization_endpoint": "http://idp.example/authorize"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"authorization_endpoint": "https://idp.example/a?b\r\nSet-Cookie: c=d"},
        {"authorization_endpoint": "https://idp.example/a#b"},
    ],
    ids=str,
)
def test_a_server_that_cannot_be_used_safely_is_not_used(members: dict[str, Any]) -> None:
    assert read_server(GOOD).names_itself is False
    assert read_server(GOOD | {"authorization_response_iss_parameter_supported": True}).names_itself
    with pytest.raises(GrantError):
        read_server(GOOD | members)


@pytest.mark.parametrize("query", [b"?a=1&a=2", b"?a=%ff", b"?state", b"?a=\xc3\xa9", b"?" + b"a=1&" * 40])
def test_a_query_that_can_be_read_in_two_ways_is_refused(query: bytes) -> None:
    with pytest.raises(GrantError):
        read_query(query)
    assert read_query(b"") == {}
    assert read_query(b"?") == {}


@pytest.mark.parametrize(
    "given",
    [{}, {"code": "c"}, {"state": "s"}, {"state": "s", "code": "c", "error": "e"}, {"state": "s", "code": ""},
     {"state": "", "code": "c"}, {"state": "s", "code": "c" * 2049}],
)  # fmt: skip
def test_what_is_no_answer_is_refused(given: dict[str, str]) -> None:
    with pytest.raises(GrantError):
        read_answer(given)


def test_the_issuer_is_compared_as_text() -> None:
    check_issuer(Answer("s", "c", None, ISSUER), ISSUER, names_itself=True)
    check_issuer(Answer("s", "c", None, None), ISSUER, names_itself=False)
    for other in (f"{ISSUER}/", "https://IDP.example", "https://idp.example:443", ""):
        with pytest.raises(GrantError):
            check_issuer(Answer("s", "c", None, other), ISSUER, names_itself=False)
    with pytest.raises(GrantError):
        check_issuer(Answer("s", "c", None, None), ISSUER, names_itself=True)


@pytest.mark.parametrize("path", ["/", "/app", "/app?x=1&y=%20", "/a/../b", "/a//b"])
def test_a_login_may_return_to_a_path(path: str) -> None:
    assert check_return(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "a",
        "//a",
        "///a",
        "/\\a",
        "\\/a",
        "/a\n",
        "/a b",
        "/a#b",
        "/\u00e9",
        "/%zz",
        "http:/a",
        "/" * 1100,
        " /a",
    ],
)
def test_a_login_returns_nowhere_else(path: str) -> None:
    with pytest.raises(GrantError):
        check_return(path)


def test_an_error_is_shown_only_if_it_is_a_code() -> None:
    assert "server_error" in describe_error("server_error")
    for hostile in ("<script>", "Visit https://evil.example", "x" * 65, ""):
        assert describe_error(hostile) == "the authorization server answers with an error"
