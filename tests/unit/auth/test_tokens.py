"""Reading tokens; the corpus under tests/corpus/jwt has the attacks."""

from __future__ import annotations

import base64
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowcat.auth.cache import TokenCache
from shadowcat.auth.challenges import challenge
from shadowcat.auth.discovery import endpoint_url, may_be_public, well_known
from shadowcat.auth.keys import read_key_set
from shadowcat.auth.metadata import metadata_url
from shadowcat.auth.tokens import Fault, TokenError, bearer, read_jwt
from shadowcat.errors import Refusal
from shadowcat.testing.mock_oauth.keys import SigningKey


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    token = bearer([b"Bearer " + data], b"")
    if isinstance(token, bytes):
        with contextlib.suppress(TokenError):
            read_jwt(token)


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_claims_are_read_or_refused(header: str, payload: str) -> None:
    token = f"{part({'alg': 'RS256'})}.{part({'iss': payload, header: 1})}.AAAA".encode()
    if header != "iss":
        found = read_jwt(token)
        assert found is not None
        assert found.issuer == payload


def test_a_token_has_one_spelling() -> None:
    head = part({"alg": "RS256"})
    whole = f"{head}.{part({'iss': 'x', 'pad': 'y'})}."
    assert read_jwt(f"{whole}AA".encode()) is not None
    for signature in ("AB", "AA=", "AA==", "A", "A-_A=", "A+/A", " AA", "AA\n", "ÄÄ"):
        with pytest.raises((TokenError, UnicodeError)):
            read_jwt((whole + signature).encode("latin-1"))


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (b"?access_token=x", True),
        (b"?a=b&ACCESS_TOKEN=x", True),
        (b"?access_token", True),
        (b"?a&%61ccess%5Ftoken=x", True),
        (b"?my_access_token=x", False),
        (b"?access_tokens=x", False),
        (b"?a=access_token", False),
    ],
)
def test_tokens_in_queries_are_seen(query: bytes, found: bool) -> None:
    assert (bearer([], query) is Fault.IN_QUERY) is found


def test_key_sets_are_reduced_to_what_is_needed() -> None:
    key = SigningKey.make("ES256")
    jwk = key.jwk()
    weak = {"kty": "RSA", "kid": "weak", "n": "wQ", "e": "AQAB"}
    document = {
        "keys": [
            jwk | {"d": "private", "x5c": ["long"]},
            {"kty": "oct", "k": "c2VjcmV0", "kid": "shared"},
            jwk | {"use": "enc"},
            jwk | {"key_ops": ["sign"]},
            jwk | {"alg": "RS256"},
            jwk | {"alg": 7},
            jwk | {"kid": "k" * 300},
            jwk | {"x": "AAAA"},
            weak,
            7,
        ]
    }
    (found,) = read_key_set(document)
    assert found == {name: jwk[name] for name in ("kty", "kid", "alg", "crv", "x", "y")}
    assert len(read_key_set({"keys": [jwk] * 100})) == 64
    for wrong in ([], {}, {"keys": {}}, None):
        with pytest.raises(ValueError, match="no key set"):
            read_key_set(wrong)


def test_discovery_follows_nobody_else() -> None:
    assert well_known("https://a.example/t/1/") == [
        "https://a.example/.well-known/oauth-authorization-server/t/1",
        "https://a.example/.well-known/openid-configuration/t/1",
        "https://a.example/t/1/.well-known/openid-configuration",
    ]
    issuer = "https://a.example"
    assert (
        endpoint_url(issuer, {"issuer": issuer, "jwks_uri": "https://keys.example/k"}, "jwks_uri")
        == "https://keys.example/k"
    )
    for document in (
        {"issuer": "https://b.example", "jwks_uri": "https://a.example/k"},
        {"issuer": issuer},
        {"issuer": issuer, "jwks_uri": 7},
        {"issuer": issuer, "jwks_uri": "http://a.example/k"},
        {"issuer": issuer, "jwks_uri": "file:///etc/passwd"},
        {"issuer": issuer, "jwks_uri": "https://169.254.169.254/latest"},
        {"issuer": issuer, "jwks_uri": "https://10.0.0.1/k"},
        {"issuer": issuer, "jwks_uri": "https://[::1]/k"},
        {"issuer": issuer, "jwks_uri": "http://localhost/k"},
        [],
    ):
        with pytest.raises(ValueError):
            endpoint_url(issuer, document, "jwks_uri")
    assert may_be_public("8.8.8.8")
    assert not may_be_public("127.1.2.3")


def test_challenges_say_what_to_ask_for() -> None:
    assert challenge(Refusal.TOKEN_MISSING, "https://m/x", ["a", "b"]) == (
        b'WWW-Authenticate: Bearer resource_metadata="https://m/x", scope="a b"\r\n'
    )
    assert challenge(Refusal.TOKEN_INVALID, "https://m/x", [], "why") == (
        b'WWW-Authenticate: Bearer error="invalid_token", error_description="why", '
        b'resource_metadata="https://m/x"\r\n'
    )
    assert metadata_url("https://m.example/a/") == "https://m.example/.well-known/oauth-protected-resource/a"


def test_the_cache_is_bounded_and_keeps_what_is_used() -> None:
    cache: TokenCache[int] = TokenCache(b"s" * 32, most=10)
    used = cache.key(b"/mcp", b"used")
    cache.put(used, 1)
    for number in range(100):
        assert cache.get(used) == 1
        cache.put(cache.key(b"/mcp", b"%d" % number), number)
        assert len(cache) <= 20
    assert cache.get(cache.key(b"/mcp", b"0")) is None
    assert cache.key(b"/a", b"b") != cache.key(b"/ab", b"")
    assert cache.key(b"/a", b"b") != TokenCache[int](b"t" * 32).key(b"/a", b"b")
