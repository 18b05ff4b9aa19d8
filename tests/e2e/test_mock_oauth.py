"""The SDK's own OAuth client and server around the mock OAuth server, both eras."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from mcp import MCPError
from mcp.client import Client
from mcp.client.auth import OAuthFlowError, OAuthRegistrationError

from shadowcat.testing.mock_oauth import records
from shadowcat.testing.mock_oauth.lies import Lie
from shadowcat.testing.mock_oauth.options import OAuthOptions
from shadowcat.testing.mock_oauth.server import MockOAuthServer
from tests.e2e.oauth import ADMIN, READ, Login, ProtectedServer
from tests.e2e.sdk import ERAS, LEGACY, MODERN, text_of

CREDENTIALS = ("resource", "server")
RESOURCE_SERVER = records.Client(
    client_id=CREDENTIALS[0], client_secret=CREDENTIALS[1], grant_types=("client_credentials",)
)
DISCOVERY = [
    "POST /mcp 401",
    "GET /.well-known/oauth-protected-resource/mcp 200",
    "GET /.well-known/oauth-authorization-server 200",
]


@pytest.fixture(scope="module", params=["jwt", "opaque"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[MockOAuthServer, ProtectedServer]]:
    opaque = request.param == "opaque"
    options = OAuthOptions(control=True, opaque=opaque, clients=(RESOURCE_SERVER,))
    with (
        MockOAuthServer(options) as oauth,
        ProtectedServer(oauth.issuer, CREDENTIALS if opaque else None) as server,
    ):
        yield oauth, server


@pytest.fixture
def oauth(pair: tuple[MockOAuthServer, ProtectedServer]) -> MockOAuthServer:
    pair[0].lies.clear()
    pair[0].capture.clear()
    pair[0].core.issued.clear()
    return pair[0]


@pytest.fixture
def url(pair: tuple[MockOAuthServer, ProtectedServer]) -> str:
    return pair[1].url


async def echo(client: Client) -> None:
    assert text_of(await client.call_tool("echo", {"text": "hé"})) == "hé"


def run(login: Login, url: str, mode: str, use: Any = echo) -> None:
    asyncio.run(login.use(url, mode, use))


def form(oauth: MockOAuthServer, number: int) -> dict[str, list[str]]:
    """The form of one of the requests to the token endpoint."""
    found = [entry for entry in oauth.capture.requests if entry.target == "/token"]
    return parse_qs(found[number].body.decode())


@pytest.mark.parametrize("mode", ERAS)
def test_from_401_to_a_tool_call(oauth: MockOAuthServer, url: str, mode: str) -> None:
    login = Login(subject="bob")
    run(login, url, mode)
    assert login.answers[:5] == [*DISCOVERY, "POST /register 201", "POST /token 200"]
    assert not any(answer.endswith((" 401", " 403")) for answer in login.answers[5:])
    (opened,) = login.opened
    asked = parse_qs(urlsplit(opened).query)
    assert (asked["resource"], asked["scope"], asked["code_challenge_method"]) == ([url], [READ], ["S256"])
    assert form(oauth, 0)["resource"] == [url]
    assert login.tokens is not None
    claims = oauth.core.examine(login.tokens.access_token)
    assert claims is not None
    assert (claims["sub"], claims["aud"], claims["scope"]) == ("bob", url, READ)
    assert dict(oauth.core.issued) == {"authorization_code": 1}


@pytest.mark.parametrize("mode", ERAS)
def test_a_token_that_ran_out_is_refreshed(oauth: MockOAuthServer, url: str, mode: str) -> None:
    # The client is told that the first token has expired already, so its next request refreshes.
    oauth.lies.add(Lie(endpoint="token", grant="authorization_code", members={"expires_in": -1}))
    login = Login()
    run(login, url, mode)
    assert dict(oauth.core.issued) == {"authorization_code": 1, "refresh_token": 1}
    assert len(login.opened) == 1
    assert form(oauth, 1)["grant_type"] == ["refresh_token"]
    assert login.tokens is not None
    assert login.tokens.refresh_token not in (None, form(oauth, 1)["refresh_token"][0])


def test_a_failed_refresh_asks_the_user_again(oauth: MockOAuthServer, url: str) -> None:
    oauth.lies.add(Lie(endpoint="token", grant="authorization_code", members={"expires_in": -1}, times=1))
    oauth.lies.add(Lie(endpoint="token", grant="refresh_token", error="invalid_grant"))
    login = Login()
    run(login, url, LEGACY)
    assert dict(oauth.core.issued) == {"authorization_code": 2}
    assert len(login.opened) == 2


@pytest.mark.parametrize("mode", ERAS)
def test_a_tool_that_needs_more_steps_up(oauth: MockOAuthServer, url: str, mode: str) -> None:
    async def use(client: Client) -> None:
        await echo(client)
        assert text_of(await client.call_tool("purge", {})) == "purged"
        await echo(client)

    login = Login()
    run(login, url, mode, use)
    assert login.answers.count("POST /mcp 403") == 1
    assert login.answers.count("POST /mcp 401") == 1
    assert [parse_qs(urlsplit(opened).query)["scope"] for opened in login.opened] == [
        [READ],
        [f"{READ} {ADMIN}"],
    ]
    assert login.tokens is not None
    assert login.tokens.scope == f"{READ} {ADMIN}"
    assert dict(oauth.core.issued) == {"authorization_code": 2}


def raised(login: Login, url: str, kind: type[Exception]) -> str:
    """The text of the error that ends a session."""

    def matches(error: BaseException) -> bool:
        return isinstance(error, kind)

    with pytest.raises((kind, BaseExceptionGroup)) as caught:
        run(login, url, MODERN)
    error: BaseException | None = caught.value
    while isinstance(error, BaseExceptionGroup):
        part = error.subgroup(matches)
        assert part is not None, caught.value
        error = part.exceptions[0]
    assert isinstance(error, kind)
    return str(error)


@pytest.mark.parametrize(
    ("lie", "words", "kind"),
    [
        (Lie(endpoint="authorize", members={"iss": "https://evil.example"}), "iss mismatch", OAuthFlowError),
        (Lie(endpoint="authorize", members={"iss": None}), "missing iss", OAuthFlowError),
        (Lie(endpoint="authorize", members={"state": "stale"}), "State parameter", OAuthFlowError),
        (Lie(endpoint="authorize", error="access_denied"), "No authorization code", OAuthFlowError),
        (
            Lie(endpoint="metadata", members={"issuer": "https://evil.example"}),
            "issuer mismatch",
            OAuthFlowError,
        ),
        (Lie(endpoint="register", error="access_denied", status=403), "403", OAuthRegistrationError),
    ],
)
def test_the_sdk_sees_through_lies(
    oauth: MockOAuthServer, url: str, lie: Lie, words: str, kind: type[Exception]
) -> None:
    oauth.lies.add(lie)
    assert words in raised(Login(), url, kind)
    assert not oauth.core.issued


def test_a_forged_token_does_not_get_in(oauth: MockOAuthServer, url: str) -> None:
    if oauth.core.options.opaque:
        oauth.lies.add(Lie(endpoint="introspect", members={"active": False}))
    else:
        oauth.lies.add(Lie(endpoint="token", forgery="wrong_signature"))
    login = Login()
    raised(login, url, MCPError)
    assert "POST /token 200" in login.answers
    assert login.answers[-1] == "POST /mcp 401"
    assert "POST /mcp 200" not in login.answers
