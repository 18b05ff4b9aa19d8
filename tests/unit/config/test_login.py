"""What `auth.login` and `credential.authorization_code` must say, and which pages there are."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from shadowcat.config.model import Auth, AuthorizationCode, Config, Credential, Issuer, Login, Route, Upstream
from shadowcat.config.pages import PageKind, page_paths
from shadowcat.config.validate import validate
from shadowcat.errors import ConfigError

IDP = Issuer(issuer="https://idp.example")
SECRET = Issuer(issuer="me", audience="x", secret="s" * 32)


def config(auth: Auth | None = None, credential: Credential | None = None, **more: Any) -> Config:
    route = Route(upstreams=[Upstream(url="http://127.0.0.1:1/mcp", credential=credential)], auth=auth)
    return Config(**{"public_url": "https://mcp.example", "routes": [route]} | more)


def with_login(*issuers: Issuer, **keys: Any) -> Auth:
    login = Login(**{"issuer": IDP.issuer, "client_id": "c"} | keys)
    return Auth(issuers=list(issuers or (IDP,)), login=login)


def problems(found: Config) -> str:
    with pytest.raises(ConfigError) as error:
        validate(found)
    return str(error.value)


@pytest.mark.parametrize("url", ["https://mcp.example", "http://127.0.0.1:8080", "https://mcp.example/front"])
def test_a_login_is_possible_where_browsers_can_be_sent_back_to(url: str) -> None:
    validate(config(with_login(), public_url=url))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (config(with_login(Issuer(issuer=IDP.issuer, audience="x")), public_url=None), "set public_url"),
        (config(with_login(), public_url="http://mcp.example"), "'http://mcp.example' is not encrypted"),
        (config(with_login(issuer="https://other.example")), "login.issuer: its tokens are not accepted"),
        (config(with_login(SECRET, issuer="me")), "login.issuer: not an http(s) URL"),
        (config(with_login(client_id="")), "login.client_id: it is empty"),
        (config(with_login(client_secret="")), "login.client_secret: it is empty"),
        (config(with_login(scopes=["a b"])), "login.scopes[0]: 'a b' is no scope"),
        (
            config(Auth(mode="passthrough", resource="https://mcp.example/mcp",
                        login=Login(issuer=IDP.issuer, client_id="c"))),
            "login: with passthrough the proxy verifies no tokens",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_login_is_said(found: Config, message: str) -> None:
    assert message in problems(found)


def consent(**keys: Any) -> Credential:
    return Credential(authorization_code=AuthorizationCode(**{"client_id": "c", "issuer": IDP.issuer} | keys))


def test_an_upstream_may_need_consent_with_and_without_a_secret() -> None:
    validate(config(credential=consent()))
    validate(config(credential=consent(client_secret="s", resource="https://far.example/mcp")))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (config(credential=consent(), public_url=None), "authorization_code: issuers send browsers back"),
        (config(credential=consent(issuer=None)), "authorization_code: write either issuer"),
        (config(credential=consent(issuer=None, token_url="https://x/t")), "token_url: the issuer's"),
        (config(credential=consent(issuer="http://x.example")), "issuer: 'http://x.example' is not"),
        (config(credential=consent(client_id="")), "authorization_code.client_id: it is empty"),
        (
            config(credential=replace(consent(), headers={"authorization": "x"})),
            "authorization_code sets this field",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_consent_is_said(found: Config, message: str) -> None:
    assert message in problems(found)


def test_there_are_pages_only_for_those_who_need_them() -> None:
    assert page_paths(config(Auth(issuers=[IDP]))) == {}
    assert page_paths(config(credential=consent())) == {b"/.shadowcat/callback": PageKind.CALLBACK}
    assert page_paths(config(with_login())) == {
        b"/.shadowcat/login": PageKind.LOGIN,
        b"/.shadowcat/callback": PageKind.CALLBACK,
        b"/.shadowcat/logout": PageKind.LOGOUT,
    }
    # A proxy in front may cut off its part of the path, or not.
    behind = page_paths(config(with_login(), public_url="https://mcp.example/front/"))
    assert {b"/.shadowcat/login", b"/front/.shadowcat/login"} <= behind.keys()
