"""Token requests as an authorization server gets them, and answers that nobody should act upon."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from shadowcat.config.model import OAuthClient
from shadowcat.control.oauth.fetch import Fetcher, FetchError
from shadowcat.control.oauth.tokens import LONGEST, UNSAID, OAuthError, TokenClient, TokenResponse
from shadowcat.testing.mock_oauth import records
from shadowcat.testing.mock_oauth.options import OAuthOptions
from shadowcat.testing.mock_oauth.server import MockOAuthServer

CLIENT = OAuthClient(token_url="https://as.example/token", client_id="proxy", client_secret="s3cret")
GOOD = {"access_token": "abc", "token_type": "Bearer", "expires_in": 60}


class Canned:
    """Answers every form in the same way."""

    def __init__(self, status: int, content: bytes) -> None:
        self.answer = status, content
        self.forms: list[str] = []

    async def endpoint(self, issuer: str, name: str) -> str:
        return f"{issuer}/{name}"

    async def post(self, url: str, form: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
        self.forms.append(form)
        return self.answer

    def trust_urls(self, urls: Sequence[str]) -> None:
        pass


def ask(status: int, said: Any) -> TokenResponse:
    content = said if isinstance(said, bytes) else json.dumps(said).encode()
    return asyncio.run(TokenClient(Canned(status, content)).token(CLIENT, "client_credentials"))


def test_a_good_answer() -> None:
    assert ask(200, GOOD) == TokenResponse("abc", 60.0, None, None)
    found = ask(200, {**GOOD, "refresh_token": "r", "scope": "a b"})
    assert (found.refresh_token, found.scope) == ("r", "a b")
    assert ask(200, {"access_token": "abc", "token_type": "bearer"}).lifetime == UNSAID
    assert ask(200, {**GOOD, "expires_in": 10**9}).lifetime == LONGEST


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (200, b""),
        (200, b"access_token=abc&token_type=bearer"),
        (200, [1]),
        (200, {"token_type": "Bearer"}),
        (200, {"access_token": "abc"}),
        (200, {**GOOD, "token_type": "N_A"}),
        (200, {**GOOD, "access_token": "a\r\nX-Evil: 1"}),
        (200, {**GOOD, "access_token": "a" * 9000}),
        (200, {**GOOD, "access_token": 7}),
        (200, {**GOOD, "expires_in": -1}),
        (200, {**GOOD, "expires_in": "soon"}),
        (200, b"\xff\xfe{}"),
        (302, GOOD),
        (400, GOOD),
        (500, {"error": "server_error"}),
    ],
)
def test_what_is_no_token_response_is_none(status: int, said: Any) -> None:
    with pytest.raises(FetchError) as caught:
        ask(status, said)
    assert not isinstance(caught.value, OAuthError)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "is_about_grant"), [("invalid_grant", True), ("access_denied", True), ("invalid_client", False)]
)
def test_errors_have_their_code(code: str, is_about_grant: bool) -> None:
    with pytest.raises(OAuthError) as caught:
        ask(400, {"error": code, "error_description": "abc s3cret"})
    assert caught.value.is_about_grant is is_about_grant
    assert str(caught.value) == f"https://as.example/token refuses: {code}"


def test_an_error_code_cannot_forge_a_log_line() -> None:
    with pytest.raises(OAuthError) as caught:
        ask(400, {"error": "a\nERROR b"})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["basic", "post"])
def test_a_real_server_knows_the_client(method: str) -> None:
    """Found by discovery; id and secret have what has to be encoded."""
    auth = f"client_secret_{method}"
    known = records.Client(
        client_id="pro/xy",
        client_secret="s:e%c r+t",
        grant_types=("client_credentials",),
        auth_method=auth,
    )
    with MockOAuthServer(OAuthOptions(algorithms=("ES256",), clients=(known,))) as server:
        client = OAuthClient(
            issuer=server.issuer,
            client_id="pro/xy",
            client_secret="s:e%c r+t",
            auth_method=method,
            scopes=["mcp:read"],
            resource="https://up.example/mcp",
        )

        async def run() -> tuple[TokenResponse, str]:
            fetcher = Fetcher()
            try:
                tokens = TokenClient(fetcher)
                found = await tokens.token(client, "client_credentials")
                try:
                    await tokens.token(replace(client, client_secret="wrong"), "client_credentials")
                except OAuthError as error:
                    return found, error.code
                return found, ""
            finally:
                await fetcher.close()

        found, code = asyncio.run(run())
        assert (found.scope, code) == ("mcp:read", "invalid_client")
