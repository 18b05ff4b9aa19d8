"""Clients of the mock OAuth server: how they register, authenticate, and get tokens for themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jwt
import pytest

from shadowcat.testing.mock_oauth.flow import OAuthClient
from shadowcat.testing.mock_oauth.options import OAuthOptions
from shadowcat.testing.mock_oauth.records import Client
from shadowcat.testing.mock_oauth.server import MockOAuthServer

RESOURCE = "https://mcp.example/mcp"
OTHER = "https://mcp.example/other"
SERVICE = Client(
    client_id="service", client_secret="s3:cret%", grant_types=("client_credentials",), scope="mcp:write"
)


@pytest.fixture(scope="module")
def server() -> Iterator[MockOAuthServer]:
    with MockOAuthServer(OAuthOptions(algorithms=("ES256",), clients=(SERVICE,))) as running:
        yield running


@pytest.fixture
def service(server: MockOAuthServer) -> OAuthClient:
    client = OAuthClient(server.issuer)
    client.use("service", "s3:cret%")
    return client


def said(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
def test_client_credentials(server: MockOAuthServer, method: str) -> None:
    client = OAuthClient(server.issuer)
    client.register(token_endpoint_auth_method=method, grant_types=["client_credentials"])
    answer = client.token("client_credentials", scope="mcp:write", resource=RESOURCE)
    assert "refresh_token" not in answer.body
    claims = said(answer.body["access_token"])
    assert (claims["sub"], claims["scope"]) == (client.client_id, "mcp:write")


def test_a_registered_scope_is_what_is_granted_when_none_is_named(service: OAuthClient) -> None:
    assert service.token("client_credentials").body["scope"] == "mcp:write"


def test_several_resources_make_a_list(server: MockOAuthServer, service: OAuthClient) -> None:
    answer = service.token("client_credentials", resource=[RESOURCE, OTHER])
    assert said(answer.body["access_token"])["aud"] == [RESOURCE, OTHER]


@pytest.mark.parametrize(
    ("secret", "method", "more", "error"),
    [
        ("wrong", "client_secret_basic", {}, "invalid_client"),
        ("s3:cret%", "client_secret_post", {}, "invalid_client"),
        (None, "none", {}, "invalid_client"),
        ("s3:cret%", "client_secret_basic", {"client_secret": "s3:cret%"}, "invalid_request"),
        ("s3:cret%", "client_secret_basic", {"client_id": "other"}, "invalid_request"),
    ],
)
def test_a_client_authenticates_in_the_one_way_it_registered(
    server: MockOAuthServer, secret: str | None, method: str, more: dict[str, str], error: str
) -> None:
    client = OAuthClient(server.issuer)
    client.use("service", secret, method)
    answer = client.token("client_credentials", **more)
    assert answer.body["error"] == error
    if error == "invalid_client":
        assert answer.status == 401
        assert ("www-authenticate" in answer.headers) == (method == "client_secret_basic")


@pytest.mark.parametrize("grant", ["password", "authorization_code"])
def test_a_grant_the_client_did_not_register_for(service: OAuthClient, grant: str) -> None:
    error = service.token(grant).body["error"]
    assert error == ("unauthorized_client" if grant == "authorization_code" else "unsupported_grant_type")


@pytest.mark.parametrize(
    ("metadata", "error"),
    [
        ({"redirect_uris": []}, "invalid_redirect_uri"),
        ({"redirect_uris": ["http://mcp.example/cb"]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["https://mcp.example/cb#x"]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["javascript:alert(1)"]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["https://["]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["https://mcp.example/\r\nSet-Cookie: a=b"]}, "invalid_redirect_uri"),
        ({"redirect_uris": "https://mcp.example/cb"}, "invalid_client_metadata"),
        ({"grant_types": ["password"]}, "invalid_client_metadata"),
        ({"grant_types": ["client_credentials"]}, "invalid_client_metadata"),
        ({"grant_types": ["refresh_token"]}, "invalid_client_metadata"),
        ({"response_types": ["token"]}, "invalid_client_metadata"),
        ({"token_endpoint_auth_method": "private_key_jwt"}, "invalid_client_metadata"),
    ],
)
def test_registration_refuses_what_the_server_does_not_do(
    server: MockOAuthServer, metadata: dict[str, Any], error: str
) -> None:
    with pytest.raises(ValueError, match=rf"registration: 400.*{error}"):
        OAuthClient(server.issuer).register(**metadata)


def test_registration_gives_ids_and_secrets_and_ignores_those_offered(server: MockOAuthServer) -> None:
    client = OAuthClient(server.issuer).register(
        client_id="service",
        client_secret="mine",
        software_id="x",
        token_endpoint_auth_method="client_secret_post",
    )
    assert client["client_id"] != "service"
    assert client["client_secret"] != "mine"
    assert (client["client_secret_expires_at"], "software_id" in client) == (0, False)


def test_registration_and_resources_can_be_limited() -> None:
    options = OAuthOptions(
        registration=False, resources=(RESOURCE,), algorithms=("ES256",), clients=(SERVICE,)
    )
    with MockOAuthServer(options) as server:
        client = OAuthClient(server.issuer)
        assert "registration_endpoint" not in client.metadata
        client.use("service", "s3:cret%")
        assert client.token("client_credentials", resource=RESOURCE).status == 200
        assert client.token("client_credentials", resource=OTHER).body["error"] == "invalid_target"


def test_methods_and_content_types(server: MockOAuthServer, service: OAuthClient) -> None:
    wrong = service.get(f"{server.issuer}/token")
    assert (wrong.status, wrong.headers["allow"]) == (405, "POST")
    json = service._send("POST", f"{server.issuer}/token", b"{}", {"Content-Type": "application/json"})
    assert json.body["error"] == "invalid_request"
    plain = service._send("POST", f"{server.issuer}/register", b"{}", {"Content-Type": "text/plain"})
    assert plain.body["error"] == "invalid_client_metadata"
    assert service.get(f"{server.issuer}/nothing").status == 404
