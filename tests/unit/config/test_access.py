"""What an `auth` section must say, and which listeners it opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from shadowcat.config import load
from shadowcat.config.access import canonical, check_issuer_url, resource_of, spellings
from shadowcat.config.changes import differences
from shadowcat.config.model import Auth, Config, Credential, Introspection, Issuer, Route, Upstream
from shadowcat.config.units import Duration
from shadowcat.config.validate import validate
from shadowcat.errors import ConfigError

IDP = Issuer(issuer="https://idp.example")
SECRET = "s" * 32
RESOURCE = "https://mcp.example/mcp"
ASKED = Introspection(url="https://idp.example/introspect", client_id="a", client_secret="b")


def config(auth: Auth | None, *upstreams: Upstream, **more: Any) -> Config:
    route = Route(upstreams=list(upstreams) or [Upstream(url="http://a/")], auth=auth)
    return Config(routes=[route], **{"public_url": "https://mcp.example", **more})


def problems(auth: Auth, *upstreams: Upstream, **more: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        validate(config(auth, *upstreams, **more))
    return str(caught.value)


def test_good_sections() -> None:
    for auth in (
        Auth(issuers=[IDP], scopes=["mcp:read", "a/b"], leeway=Duration(0)),
        Auth(issuers=[IDP, Issuer(issuer="https://other.example", audience="x")]),
        Auth(issuers=[Issuer(issuer="http://127.0.0.1:9/a"), Issuer(issuer="http://localhost")]),
        Auth(issuers=[Issuer(issuer="me", secret=SECRET, algorithms=["HS256"])]),
        Auth(issuers=[Issuer(issuer="me", introspection=ASKED)]),
        Auth(issuers=[Issuer(issuer="urn:any", jwks_url="https://idp.example/keys")]),
    ):
        validate(config(auth))
    validate(config(Auth(issuers=[Issuer(issuer="https://i", audience="x")]), public_url=None))
    validate(config(Auth(issuers=[IDP], resource=RESOURCE), public_url=None))
    validate(config(Auth(mode="passthrough", resource="https://MCP.example/mcp/")))


def by(issuer: str, **keys: Any) -> Auth:
    return Auth(issuers=[Issuer(issuer=issuer, **keys)])


@pytest.mark.parametrize(
    ("auth", "message"),
    [
        (Auth(), "routes[0].auth.issuers: nobody could get in"),
        (Auth(issuers=[IDP, IDP]), "issuers[1].issuer: https://idp.example is already the issuer"),
        (Auth(issuers=[IDP], scopes=['a"b']), "auth.scopes[0]: 'a\"b' is no scope"),
        (Auth(issuers=[IDP], scopes=[""]), "auth.scopes[0]: '' is no scope"),
        (Auth(issuers=[IDP], resource="mcp"), "auth.resource: not an http(s) URL"),
        (by("http://idp.example"), "issuers[0].issuer: 'http://idp.example' is not e"),
        (by("idp"), "issuers[0].issuer: not an http(s) URL"),
        (by(""), "issuers[0].issuer: 1 to 512 characters"),
        (by("x", jwks_url="ftp://x"), "issuers[0].jwks_url: not an http(s) URL"),
        (by("x", jwks_url="http://10.0.0.1/k"), "jwks_url: 'http://10.0.0.1/k' is not"),
        (by("x", secret=SECRET, jwks_url="https://x"), "jwks_url and secret are diff"),
        (by("x", secret=SECRET, introspection=ASKED), "secret and introspection are"),
        (by("x", secret="s" * 31), "secret: 31 bytes can be guessed: at least 32"),
        (by("x", secret=SECRET, algorithms=["HS512"]), "too few for HS512: at least 64"),
        (by("x", secret=SECRET, algorithms=["RS256"]), "RS256 is not used with a secret"),
        (by("x", secret=SECRET, refresh=Duration(9)), "refresh: only keys that are f"),
        (by("https://x", algorithms=["HS256"]), "HS256, HS384 and HS512 need a secret"),
        (by("https://x", algorithms=[]), "algorithms: none is accepted"),
        (by("https://x", audience=""), "audience: it is empty"),
        (by("https://x", refresh=Duration(0.9)), "refresh: 900ms is a load of its own: write 1s or more"),
        (by("https://x", stale=Duration(1)), "stale: 1s is less than refresh (5m)"),
        (
            by("x", introspection=ASKED, algorithms=["RS256"]),
            "algorithms: with introspection the issuer judges",
        ),
        (
            by("x", introspection=msgspec.structs.replace(ASKED, url="http://x/")),
            "introspection.url: 'http://x/' is not encrypted",
        ),
        (Auth(mode="passthrough"), "auth.resource: passthrough hands tokens to the upstream"),
        (Auth(mode="passthrough", resource="https://other.example/mcp"), "clients call this route https://mcp.ex"),
        (
            Auth(mode="passthrough", resource=RESOURCE, issuers=[Issuer(issuer="https://x", audience="y")]),
            "issuers[0].audience: with passthrough the upstream judges",
        ),
        (Auth(mode="passthrough", resource=RESOURCE, leeway=Duration(1)), "auth.leeway: with passthrough"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(auth: Auth, message: str) -> None:
    assert message in problems(auth)


def test_an_audience_is_needed() -> None:
    assert "audience: tokens for other servers must not be good" in problems(
        Auth(issuers=[IDP]), public_url=None
    )


def test_passthrough_is_for_one_upstream_without_a_token_of_its_own() -> None:
    auth = Auth(mode="passthrough", resource=RESOURCE)
    assert "keep one upstream" in problems(auth, Upstream(url="http://a/"), Upstream(url="http://b/"))
    own = Upstream(url="http://a/", credential=Credential(headers={"authorization": "x"}))
    assert "has an Authorization of its own" in problems(auth, own)


def test_a_public_listener_needs_auth_on_every_route() -> None:
    validate(config(Auth(issuers=[IDP]), listen="0.0.0.0:80"))
    for auth in (None, Auth(mode="passthrough", resource=RESOURCE)):
        with pytest.raises(ConfigError, match="/mcp asks nobody for a token"):
            validate(config(auth, listen="0.0.0.0:80"))
        validate(config(auth, listen="0.0.0.0:80", insecure=True))
    guarded = config(Auth(issuers=[IDP]), listen="0.0.0.0:80")
    free = Route(path="/free", upstreams=[Upstream(url="http://a/")])
    with pytest.raises(ConfigError, match="/free asks nobody"):
        validate(msgspec.structs.replace(guarded, routes=[*guarded.routes, free]))


def test_the_resource_is_spelled_in_one_way() -> None:
    assert canonical("HTTPS://MCP.Example/Mcp/") == "https://mcp.example/Mcp"
    route = Route(path="/b", upstreams=[])
    assert resource_of(Config(routes=[], public_url="https://X.example/a/"), route) == "https://x.example/a/b"
    assert resource_of(Config(routes=[]), route) is None
    for url in ("http://127.0.0.2:1/a", "http://[::1]/", "https://anything"):
        check_issuer_url(url)
    with pytest.raises(ValueError, match="not encrypted"):
        check_issuer_url("http://127.0.0.1.example/")


def test_a_host_alone_has_two_spellings() -> None:
    assert spellings("https://x.example") == spellings("https://x.example/") == {
        "https://x.example", "https://x.example/",
    }  # fmt: skip
    assert spellings("https://x.example/a") == {"https://x.example/a"}
    assert spellings("mcp") == {"mcp"}


def test_secrets_come_from_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "public_url: https://mcp.example\n"
        "routes:\n"
        "  - upstreams: [{url: http://a/}]\n"
        "    auth:\n"
        "      issuers: [{issuer: me, secret: '${KEY}', algorithms: [HS256]}]\n"
        "      scopes: [mcp:read]\n"
        "      cache: 1m\n"
    )
    loaded = load.load_config(file, {"KEY": SECRET}, {})
    auth = loaded.routes[0].auth
    assert auth is not None
    assert auth.issuers[0].secret == SECRET
    assert auth.cache == 60
    again = tmp_path / "again.yaml"
    again.write_bytes(load.dump(loaded, "yaml"))
    assert load.load_config(again, {}, {}) == loaded
    with pytest.raises(ConfigError, match=r"31 bytes") as caught:
        load.load_config(file, {"KEY": "K" * 31}, {})
    assert "K" * 31 not in str(caught.value)


def test_a_changed_secret_is_named_and_not_shown() -> None:
    one, other = (config(Auth(issuers=[Issuer(issuer="x", secret=letter * 32)])) for letter in "ab")
    assert "a" * 32 not in str(differences(one, other))
    assert "b" * 32 not in str(differences(one, other))
