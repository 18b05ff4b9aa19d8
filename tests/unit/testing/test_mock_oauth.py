"""The mock OAuth server as clients see it: discovery, codes with PKCE, tokens, introspection, revocation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
import pytest
from mcp.shared.auth import OAuthMetadata

from shadowcat.testing.mock_oauth.flow import REDIRECT_URI, OAuthClient, pkce
from shadowcat.testing.mock_oauth.options import OAuthOptions
from shadowcat.testing.mock_oauth.records import TOKEN_EXCHANGE, Client, User
from shadowcat.testing.mock_oauth.server import MockOAuthServer

RESOURCE = "https://mcp.example/mcp"
OTHER = "https://mcp.example/other"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
SERVICE = Client(
    client_id="service",
    client_secret="s3:cret%",
    grant_types=("client_credentials", TOKEN_EXCHANGE),
    scope="mcp:write",
)


@pytest.fixture(scope="module")
def running() -> Iterator[MockOAuthServer]:
    users = {"carol": User(claims={"roles": ["admin"]}, scopes=["mcp:read"])}
    with MockOAuthServer(OAuthOptions(control=True, clients=(SERVICE,), users=users)) as server:
        yield server


@pytest.fixture
def server(running: MockOAuthServer) -> MockOAuthServer:
    running.core.clock.offset = 0
    return running


@pytest.fixture
def client(server: MockOAuthServer) -> OAuthClient:
    client = OAuthClient(server.issuer)
    client.register()
    return client


@pytest.fixture
def service(server: MockOAuthServer) -> OAuthClient:
    client = OAuthClient(server.issuer)
    client.use("service", "s3:cret%")
    return client


def claims_of(server: MockOAuthServer, token: str, audience: str = RESOURCE) -> dict[str, Any]:
    """Verify a token as a resource server does: with the key that the key set has under its kid."""
    keys = {key["kid"]: jwt.PyJWK(key) for key in OAuthClient(server.issuer).get(jwks(server)).body["keys"]}
    key = keys[jwt.get_unverified_header(token)["kid"]]
    required = ["exp", "iat", "aud", "iss", "sub", "jti", "client_id"]
    claims: dict[str, Any] = jwt.decode(
        token,
        key,
        [key.algorithm_name],
        audience=audience,
        issuer=server.issuer,
        options={"require": required},
    )
    return claims


def jwks(server: MockOAuthServer) -> str:
    return f"{server.issuer}/jwks"


def redeem(client: OAuthClient, code: str, verifier: str, **more: str) -> Any:
    return client.token("authorization_code", code=code, code_verifier=verifier, **more)


@pytest.mark.parametrize(
    ("issuer", "paths"),
    [
        ("", ["/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"]),
        (
            "/tenant",
            [
                "/.well-known/oauth-authorization-server/tenant",
                "/.well-known/openid-configuration/tenant",
                "/tenant/.well-known/openid-configuration",
            ],
        ),
    ],
)
def test_discovery_at_every_path_clients_try(issuer: str, paths: list[str]) -> None:
    with MockOAuthServer(OAuthOptions(issuer=issuer, algorithms=("ES256",))) as server:
        client = OAuthClient(server.issuer)
        assert server.issuer == server.base + issuer
        for path in paths:
            found = OAuthMetadata.model_validate(client.get(server.base + path).body)
            assert str(found.issuer) == server.issuer
            assert found.code_challenge_methods_supported == ["S256"]
            assert found.authorization_response_iss_parameter_supported
        assert client.login(resource=RESOURCE)["token_type"] == "Bearer"


def test_a_public_issuer_is_named_everywhere() -> None:
    with MockOAuthServer(OAuthOptions(issuer="https://idp.example", algorithms=("ES256",))) as server:
        metadata = OAuthClient(server.base).metadata
        assert metadata["token_endpoint"] == "https://idp.example/token"
        assert jwt.decode(server.mint(), options={"verify_signature": False})["iss"] == "https://idp.example"


@pytest.mark.parametrize("issuer", ["ftp://idp", "https://idp.example/?a=1", "/tenant/", "nonsense"])
def test_a_bad_issuer_is_explained(issuer: str) -> None:
    with pytest.raises(ValueError, match="issuer"):
        MockOAuthServer(OAuthOptions(issuer=issuer))


def test_code_flow_with_pkce(server: MockOAuthServer, client: OAuthClient) -> None:
    verifier, challenge = pkce()
    sent = client.authorize(challenge, state="a b&c", scope="mcp:read mcp:write", resource=RESOURCE)
    assert (sent["state"], sent["iss"]) == ("a b&c", server.issuer)
    answer = redeem(client, sent["code"], verifier, redirect_uri=REDIRECT_URI, resource=RESOURCE)
    assert (answer.status, answer.headers["cache-control"]) == (200, "no-store")
    assert (answer.body["token_type"], answer.body["scope"]) == ("Bearer", "mcp:read mcp:write")
    assert answer.body["expires_in"] == 300
    claims = claims_of(server, answer.body["access_token"])
    assert (claims["sub"], claims["aud"], claims["client_id"]) == ("alice", RESOURCE, client.client_id)
    assert jwt.get_unverified_header(answer.body["access_token"])["typ"] == "at+jwt"


@pytest.mark.parametrize("algorithm", ["RS256", "PS384", "ES256", "ES384", "ES512", "EdDSA"])
def test_every_kind_of_key_signs_what_the_key_set_verifies(algorithm: str) -> None:
    with MockOAuthServer(OAuthOptions(algorithms=(algorithm,))) as server:
        token = OAuthClient(server.issuer).login(resource=RESOURCE)["access_token"]
        assert jwt.get_unverified_header(token)["alg"] == algorithm
        assert claims_of(server, token)["sub"] == "alice"
        (key,) = OAuthClient(server.issuer).get(jwks(server)).body["keys"]
        assert (key["alg"], key["use"]) == (algorithm, "sig")
        assert not {"d", "p", "q"} & set(key)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_type": ""}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge_method": ""}, "invalid_request"),
        ({"code_challenge": ""}, "invalid_request"),
        ({"code_challenge": "short"}, "invalid_request"),
        ({"scope": "mcp:read nonsense"}, "invalid_scope"),
        ({"scope": "mcp:admin", "login_hint": "carol"}, "access_denied"),
        ({"resource": "mcp.example"}, "invalid_target"),
        ({"resource": RESOURCE + "#part"}, "invalid_target"),
    ],
)
def test_authorization_errors_go_back_to_the_client(
    server: MockOAuthServer, client: OAuthClient, change: dict[str, str], error: str
) -> None:
    _, challenge = pkce()
    sent = client.authorize(**{"challenge": challenge, "state": "s", **change})
    assert (sent["error"], sent["state"], sent["iss"]) == (error, "s", server.issuer)
    assert "code" not in sent


@pytest.mark.parametrize(
    "change",
    [
        {"redirect_uri": REDIRECT_URI + "/"},
        {"redirect_uri": REDIRECT_URI + "?a=1"},
        {"redirect_uri": REDIRECT_URI.replace(":1/", ":2/")},
        {"redirect_uri": REDIRECT_URI.upper()},
        {"client_id": "nobody"},
        {"client_id": ""},
    ],
)
def test_nobody_is_sent_to_an_address_that_is_not_registered(
    client: OAuthClient, change: dict[str, str]
) -> None:
    with pytest.raises(ValueError, match=r"authorization: 40[01]"):
        client.authorize(pkce()[1], **change)


def test_a_parameter_given_twice_is_refused(server: MockOAuthServer, client: OAuthClient) -> None:
    query = urlencode({"client_id": client.client_id, "redirect_uri": REDIRECT_URI, "response_type": "code"})
    challenge = f"&code_challenge={pkce()[1]}&code_challenge_method=S256"
    twice = client.get(f"{server.issuer}/authorize?{query}{challenge}&scope=mcp:read&scope=mcp:admin")
    assert parse_qs(urlsplit(twice.headers["location"]).query)["error"] == ["invalid_request"]


def test_a_registered_query_stays_in_the_redirect(server: MockOAuthServer) -> None:
    client = OAuthClient(server.issuer)
    uri = "http://localhost:1/cb?app=7"
    client.register(redirect_uris=[uri])
    sent = client.authorize(pkce()[1], redirect_uri=uri)
    assert sent["app"] == "7"
    assert "code" in sent


def test_a_code_is_good_once_and_its_replay_revokes_what_came_of_it(
    server: MockOAuthServer, client: OAuthClient
) -> None:
    verifier, challenge = pkce()
    code = client.authorize(challenge, resource=RESOURCE)["code"]
    tokens = redeem(client, code, verifier).body
    assert server.core.examine(tokens["access_token"]) is not None
    assert redeem(client, code, verifier).body["error"] == "invalid_grant"
    assert server.core.examine(tokens["access_token"]) is None
    refreshed = client.token("refresh_token", refresh_token=tokens["refresh_token"])
    assert (refreshed.status, refreshed.body["error"]) == (400, "invalid_grant")


def test_a_code_ends_with_its_time(server: MockOAuthServer, client: OAuthClient) -> None:
    verifier, challenge = pkce()
    in_time, too_late = (client.authorize(challenge)["code"] for _ in range(2))
    server.core.clock.offset = 50
    assert redeem(client, in_time, verifier).status == 200
    server.core.clock.offset = 61
    assert redeem(client, too_late, verifier).body["error"] == "invalid_grant"


@pytest.mark.parametrize(
    "change",
    [
        {"code_verifier": pkce()[0]},
        {"code_verifier": ""},
        {"redirect_uri": REDIRECT_URI + "2"},
        {"code": "code-guessed"},
        {"resource": OTHER},
    ],
)
def test_a_code_needs_all_that_belongs_to_it(client: OAuthClient, change: dict[str, str]) -> None:
    verifier, challenge = pkce()
    code = client.authorize(challenge, resource=RESOURCE)["code"]
    answer = client.token("authorization_code", **{"code": code, "code_verifier": verifier, **change})
    assert answer.status == 400
    assert answer.body["error"] in ("invalid_grant", "invalid_request", "invalid_target")


def test_another_clients_code_is_refused_and_stays_good(server: MockOAuthServer, client: OAuthClient) -> None:
    verifier, challenge = pkce()
    code = client.authorize(challenge)["code"]
    thief = OAuthClient(server.issuer)
    thief.register()
    assert redeem(thief, code, verifier).body["error"] == "invalid_grant"
    assert redeem(client, code, verifier).status == 200


def test_refresh_rotates_and_reuse_revokes_the_family(server: MockOAuthServer, client: OAuthClient) -> None:
    first = client.login(scope="mcp:read mcp:write", resource=RESOURCE)
    narrow = client.token("refresh_token", refresh_token=first["refresh_token"], scope="mcp:read").body
    assert narrow["scope"] == "mcp:read"
    assert narrow["refresh_token"] != first["refresh_token"]
    assert claims_of(server, narrow["access_token"])["aud"] == RESOURCE
    # RFC 6749 section 6: the new refresh token is still good for all that was granted.
    wide = client.token("refresh_token", refresh_token=narrow["refresh_token"]).body
    assert wide["scope"] == "mcp:read mcp:write"
    more = client.token("refresh_token", refresh_token=wide["refresh_token"], scope="mcp:admin")
    assert more.body["error"] == "invalid_scope"
    elsewhere = client.token("refresh_token", refresh_token=wide["refresh_token"], resource=OTHER)
    assert elsewhere.body["error"] == "invalid_target"
    assert (
        client.token("refresh_token", refresh_token=first["refresh_token"]).body["error"] == "invalid_grant"
    )
    assert client.token("refresh_token", refresh_token=wide["refresh_token"]).body["error"] == "invalid_grant"
    assert server.core.examine(wide["access_token"]) is None


def test_refresh_tokens_belong_to_a_client_and_expire(server: MockOAuthServer, client: OAuthClient) -> None:
    tokens = client.login()
    thief = OAuthClient(server.issuer)
    thief.register()
    stolen = thief.token("refresh_token", refresh_token=tokens["refresh_token"])
    assert stolen.body["error"] == "invalid_grant"
    server.core.clock.offset = 86401
    late = client.token("refresh_token", refresh_token=tokens["refresh_token"])
    assert late.body["error"] == "invalid_grant"
    once = OAuthClient(server.issuer)
    once.register(grant_types=["authorization_code"])
    assert "refresh_token" not in once.login()


def test_token_exchange(server: MockOAuthServer, client: OAuthClient, service: OAuthClient) -> None:
    subject = client.login(scope="mcp:read mcp:write", resource=RESOURCE)["access_token"]
    actor = service.token("client_credentials").body["access_token"]
    wish = {
        "subject_token": subject,
        "subject_token_type": ACCESS_TOKEN,
        "actor_token": actor,
        "actor_token_type": ACCESS_TOKEN,
        "resource": OTHER,
        "scope": "mcp:read",
    }
    answer = service.token(TOKEN_EXCHANGE, **wish)
    assert (answer.status, answer.body["issued_token_type"]) == (200, ACCESS_TOKEN)
    assert "refresh_token" not in answer.body
    claims = claims_of(server, answer.body["access_token"], OTHER)
    assert (claims["sub"], claims["client_id"], claims["scope"]) == ("alice", "service", "mcp:read")
    assert claims["act"] == {"sub": "service"}
    held = jwt.decode(subject, options={"verify_signature": False})
    assert claims["exp"] <= held["exp"]
    assert service.token(TOKEN_EXCHANGE, **{**wish, "scope": "mcp:admin"}).body["error"] == "invalid_scope"
    for spoilt in (
        {"subject_token": subject[:-4] + "AAAA"},
        {"subject_token_type": "x"},
        {"actor_token": ""},
    ):
        assert service.token(TOKEN_EXCHANGE, **{**wish, **spoilt}).body["error"] == "invalid_request"
    server.core.clock.offset = 301
    assert service.token(TOKEN_EXCHANGE, **wish).body["error"] == "invalid_request"


def test_introspection_and_revocation(
    server: MockOAuthServer, client: OAuthClient, service: OAuthClient
) -> None:
    tokens = client.login(resource=RESOURCE)
    said = service.post("introspection", token=tokens["access_token"]).body
    assert (said["active"], said["sub"], said["aud"]) == (True, "alice", RESOURCE)
    assert service.post("introspection", token=tokens["refresh_token"]).body["active"]
    assert service.post("introspection", token="unheard-of").body == {"active": False}
    assert client.post("introspection", token=tokens["access_token"]).status == 401
    assert service.post("revocation", token=tokens["access_token"]).body["error"] == "invalid_grant"
    assert client.post("revocation", token="unheard-of").status == 200
    assert client.post("revocation", token=tokens["access_token"]).status == 200
    assert service.post("introspection", token=tokens["access_token"]).body == {"active": False}
    new = client.token("refresh_token", refresh_token=tokens["refresh_token"]).body
    assert client.post("revocation", token=new["refresh_token"]).status == 200
    assert service.post("introspection", token=new["access_token"]).body == {"active": False}
    assert server.core.examine(server.mint()) is not None
    assert server.core.examine(server.mint(forgery="expired")) is None
    assert server.core.examine(server.mint(forgery="withdrawn_key")) is None


def test_opaque_tokens_are_explained_by_introspection_only() -> None:
    with MockOAuthServer(OAuthOptions(opaque=True, algorithms=("ES256",), clients=(SERVICE,))) as server:
        client, service = OAuthClient(server.issuer), OAuthClient(server.issuer)
        service.use("service", "s3:cret%")
        token = client.login(resource=RESOURCE)["access_token"]
        assert token.count(".") == 0
        said = service.post("introspection", token=token).body
        assert (said["sub"], said["aud"], said["iss"]) == ("alice", RESOURCE, server.issuer)
        assert client.post("revocation", token=token).status == 200
        assert service.post("introspection", token=token).body == {"active": False}


def test_users_have_claims_and_limits(server: MockOAuthServer, client: OAuthClient) -> None:
    tokens = client.login(scope="mcp:read mcp:admin", login_hint="carol", resource=RESOURCE)
    claims = claims_of(server, tokens["access_token"])
    assert (claims["sub"], claims["roles"], claims["scope"]) == ("carol", ["admin"], "mcp:read")


def test_step_up_beyond_what_was_registered(server: MockOAuthServer) -> None:
    client = OAuthClient(server.issuer)
    client.register(scope="mcp:read")
    assert client.login()["scope"] == "mcp:read"
    assert client.login(scope="mcp:read mcp:admin")["scope"] == "mcp:read mcp:admin"


def test_an_id_token_for_openid(server: MockOAuthServer, client: OAuthClient) -> None:
    tokens = client.login(scope="openid", nonce="n-1")
    claims = jwt.decode(tokens["id_token"], options={"verify_signature": False})
    assert (claims["aud"], claims["nonce"], claims["iss"]) == (client.client_id, "n-1", server.issuer)
    assert "id_token" not in client.login(scope="mcp:read")
