"""How the mock OAuth server misbehaves: forged tokens, lies, HTTP faults, keys, clock; its control page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import trustme

from shadowcat.testing.mock_mcp.faults import Fault
from shadowcat.testing.mock_oauth.client import OAuthMockControl
from shadowcat.testing.mock_oauth.flow import OAuthClient, pkce
from shadowcat.testing.mock_oauth.forgeries import FORGERIES
from shadowcat.testing.mock_oauth.lies import Lie
from shadowcat.testing.mock_oauth.options import OAuthOptions
from shadowcat.testing.mock_oauth.records import Client
from shadowcat.testing.mock_oauth.server import MockOAuthServer
from shadowcat.testing.raw_client import RawClient
from shadowcat.testing.wire import PeerClosedError, request

RESOURCE = "https://mcp.example/mcp"
MEMBERS = {"aud": RESOURCE, "nbf": 0}
REQUIRED = ["exp", "iat", "nbf", "aud", "iss", "sub", "jti", "client_id"]


@pytest.fixture(scope="module")
def running() -> Iterator[MockOAuthServer]:
    with MockOAuthServer() as server:
        yield server


@pytest.fixture
def server(running: MockOAuthServer) -> MockOAuthServer:
    running.capture.clear()
    running.faults.clear()
    running.lies.clear()
    running.core.clock.offset = 0
    return running


@pytest.fixture
def client(server: MockOAuthServer) -> OAuthClient:
    client = OAuthClient(server.issuer)
    client.register()
    return client


@pytest.fixture
def control(server: MockOAuthServer) -> OAuthMockControl:
    return OAuthMockControl(f"{server.base}/_control")


def key_set(server: MockOAuthServer) -> dict[str, Any]:
    return OAuthClient(server.issuer).get(f"{server.issuer}/jwks").body


def verify(server: MockOAuthServer, token: str) -> dict[str, Any]:
    """What a resource server built on PyJWT alone makes of a token."""
    header = jwt.get_unverified_header(token)
    if header.get("typ") != "at+jwt":
        raise jwt.InvalidTokenError("no access token")
    keys = {key["kid"]: jwt.PyJWK(key) for key in key_set(server)["keys"]}
    if header.get("kid") not in keys:
        raise jwt.InvalidKeyError("unknown kid")
    key = keys[header["kid"]]
    claims: dict[str, Any] = jwt.decode(
        token,
        key,
        [key.algorithm_name],
        audience=RESOURCE,
        issuer=server.issuer,
        options={"require": REQUIRED},
    )
    return claims


# What PyJWT 2.15 lets through: a resource server needs checks of its own for these.
UNNOTICED = {"duplicate_subject", "oversized", "padded", "text_expiry"}


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA", "PS256"])
@pytest.mark.parametrize("forgery", sorted(FORGERIES))
def test_each_forgery_is_refused_and_its_good_twin_is_not(
    server: MockOAuthServer, forgery: str, algorithm: str
) -> None:
    assert verify(server, server.mint(MEMBERS, algorithm=algorithm))["sub"] == "alice"
    if forgery == "other_padding" and algorithm in ("ES256", "EdDSA"):
        with pytest.raises(ValueError, match="needs an RSA key"):
            server.mint(MEMBERS, algorithm=algorithm, forgery=forgery)
        return
    token = server.mint(MEMBERS, algorithm=algorithm, forgery=forgery)
    if forgery in UNNOTICED:
        verify(server, token)
        return
    with pytest.raises(jwt.PyJWTError):
        verify(server, token)


def test_what_pyjwt_does_not_notice_is_there(server: MockOAuthServer) -> None:
    good = server.mint(MEMBERS)

    def payload(forgery: str) -> bytes:
        middle = server.mint(MEMBERS, forgery=forgery).split(".")[1]
        return jwt.utils.base64url_decode(middle)

    assert payload("duplicate_subject").count(b'"sub"') == 2
    assert b'"exp":"' in payload("text_expiry")
    assert len(payload("oversized")) > 64 * 1024
    assert server.mint(MEMBERS, forgery="padded").endswith("==")
    assert not good.endswith("=")


def test_forged_signatures_are_what_their_names_say(server: MockOAuthServer) -> None:
    attacker = {
        key["kid"]: key
        for key in OAuthClient(server.issuer).get(f"{server.issuer}/stranger/jwks").body["keys"]
    }
    by_url = server.mint(MEMBERS, forgery="key_url")
    header = jwt.get_unverified_header(by_url)
    assert header["jku"] == f"{server.issuer}/stranger/jwks"
    key = jwt.PyJWK(attacker[header["kid"]])
    assert jwt.decode(by_url, key, ["RS256"], audience=RESOURCE)["sub"] == "alice"
    embedded = server.mint(MEMBERS, forgery="embedded_key")
    inside = jwt.PyJWK(jwt.get_unverified_header(embedded)["jwk"])
    assert jwt.decode(embedded, inside, ["RS256"], audience=RESOURCE)["sub"] == "alice"
    padding = server.mint(MEMBERS, forgery="other_padding")
    public: Any = server.core.ring.signing().private.public_key()
    assert jwt.decode(padding, public, ["PS256"], audience=RESOURCE)["sub"] == "alice"
    withdrawn = server.core.ring.find(
        jwt.get_unverified_header(server.mint(MEMBERS, forgery="withdrawn_key"))["kid"]
    )
    assert (withdrawn.withdrawn, withdrawn.published) == (True, False)


def test_mint_signs_whatever_is_asked(server: MockOAuthServer) -> None:
    secret = "0123456789abcdef0123456789abcdef"
    symmetric = server.mint({"aud": RESOURCE}, secret=secret)
    assert jwt.decode(symmetric, secret, ["HS256"], audience=RESOURCE)["iss"] == server.issuer
    assert "kid" not in jwt.get_unverified_header(symmetric)
    odd = server.mint({"sub": None, "roles": ["a"]}, headers={"typ": None, "x": 1}, algorithm="ES256")
    assert jwt.get_unverified_header(odd)["x"] == 1
    assert "typ" not in jwt.get_unverified_header(odd)
    claims = jwt.decode(odd, options={"verify_signature": False})
    assert (claims["roles"], "sub" in claims) == (["a"], False)
    raw = server.mint(payload=b'{"a":1,"a":2}')
    assert jwt.utils.base64url_decode(raw.split(".")[1]) == b'{"a":1,"a":2}'
    for wrong in (
        {"forgery": "nonsense"},
        {"algorithm": "RS1"},
        {"kid": "nobody"},
        {"secret": "s", "forgery": "expired"},
        {"payload": b"{}", "forgery": "expired"},
    ):
        with pytest.raises(ValueError, match=r"forgery|key"):
            server.mint(**wrong)


def test_keys_rotate_and_are_withdrawn() -> None:
    with MockOAuthServer(OAuthOptions(algorithms=("ES256",), control=True)) as server:
        control = OAuthMockControl(f"{server.base}/_control")
        (first,) = (key["kid"] for key in key_set(server)["keys"])
        old = server.mint(MEMBERS)
        second = control.rotate()
        assert jwt.get_unverified_header(server.mint(MEMBERS))["kid"] == second
        assert [key["kid"] for key in key_set(server)["keys"]] == [first, second]
        assert verify(server, old)["sub"] == "alice"
        control.withdraw(first)
        assert [key["kid"] for key in key_set(server)["keys"]] == [second]
        with pytest.raises(jwt.InvalidKeyError):
            verify(server, old)
        hidden = control.rotate(publish=False)
        early = server.mint(MEMBERS)
        assert jwt.get_unverified_header(early)["kid"] == hidden
        with pytest.raises(jwt.InvalidKeyError):
            verify(server, early)
        control.publish(hidden)
        assert verify(server, early)["sub"] == "alice"
        assert jwt.get_unverified_header(server.mint(kid=first))["kid"] == first
        control.withdraw(second)
        control.withdraw(hidden)
        assert [key["withdrawn"] for key in control.signing_keys()] == [True, True, True]
        with pytest.raises(ValueError, match="keys/rotate"):
            server.mint()
        eddsa = control.rotate("EdDSA")
        assert eddsa.startswith("eddsa-")
        with pytest.raises(ValueError, match="no signing algorithm"):
            control.rotate("HS256")
        with pytest.raises(ValueError, match="no key 'nobody'"):
            control.withdraw("nobody")


def test_a_lie_forges_tokens_as_often_as_asked(server: MockOAuthServer, client: OAuthClient) -> None:
    server.lies.add(Lie(endpoint="token", grant="refresh_token", forgery="wrong_audience", after=1, times=1))
    tokens, audiences = client.login(resource=RESOURCE), []
    for _ in range(3):
        tokens = client.token("refresh_token", refresh_token=tokens["refresh_token"]).body
        audiences.append(jwt.decode(tokens["access_token"], options={"verify_signature": False})["aud"])
    assert audiences == [RESOURCE, "https://elsewhere.example/mcp", RESOURCE]
    assert (server.lies.rules[0].matched, server.lies.rules[0].applied) == (3, 1)


def test_a_failed_refresh_uses_nothing_up(server: MockOAuthServer, client: OAuthClient) -> None:
    tokens = client.login()
    server.lies.add(Lie(endpoint="token", grant="refresh_token", error="server_error", status=500, times=1))
    failed = client.token("refresh_token", refresh_token=tokens["refresh_token"])
    assert (failed.status, failed.body["error"]) == (500, "server_error")
    assert client.token("refresh_token", refresh_token=tokens["refresh_token"]).status == 200


def test_lies_in_redirects(server: MockOAuthServer, client: OAuthClient) -> None:
    server.lies.add(Lie(endpoint="authorize", error="access_denied", times=1))
    server.lies.add(Lie(endpoint="authorize", members={"iss": "https://evil.example"}, times=1))
    server.lies.add(Lie(endpoint="authorize", members={"iss": None, "state": "other"}))
    _, challenge = pkce()
    denied, mixed_up, bare = (client.authorize(challenge, state="s") for _ in range(3))
    assert (denied["error"], denied["state"], "code" in denied) == ("access_denied", "s", False)
    assert mixed_up["iss"] == "https://evil.example"
    assert (bare["state"], "iss" in bare, "code" in bare) == ("other", False, True)


def test_lies_in_documents(server: MockOAuthServer) -> None:
    server.lies.add(Lie(endpoint="metadata", members={"issuer": "https://evil.example", "jwks_uri": None}))
    server.lies.add(Lie(endpoint="jwks", padding=2_000_000))
    lied = OAuthClient(server.issuer).metadata
    assert lied["issuer"] == "https://evil.example"
    assert "jwks_uri" not in lied
    huge = key_set(server)
    assert len(json.dumps(huge)) > 2_000_000
    assert huge["keys"] == server.core.ring.jwks()["keys"]
    server.lies.clear()
    assert OAuthClient(server.issuer).metadata["issuer"] == server.issuer


def test_http_faults_at_one_endpoint(server: MockOAuthServer, client: OAuthClient) -> None:
    stranger = {"Location": f"{server.issuer}/stranger/jwks"}
    server.faults.add(Fault(fault="status", path="/jwks", status=503, times=1))
    server.faults.add(Fault(fault="status", path="/jwks", status=302, headers=stranger, times=1))
    server.faults.add(Fault(fault="truncate", path="/jwks", bytes=10, times=1))
    jwks = f"{server.issuer}/jwks"
    assert client.get(jwks).status == 503
    redirected = client.get(jwks)
    assert (redirected.status, redirected.headers["location"]) == (302, stranger["Location"])
    with RawClient(server.port) as raw:
        raw.send(request("GET", "/jwks"))
        raw.read_head()
        assert len(raw.read_exactly(10)) == 10
        with pytest.raises(PeerClosedError):
            raw.read_exactly(1)
    assert client.get(jwks).status == 200
    assert client.login()["access_token"]
    seen = [entry for entry in server.capture.requests if entry.target == "/jwks"]
    assert [entry.outcome for entry in seen] == ["fault", "fault", "fault", "answered"]


def test_the_clock_can_be_off(
    server: MockOAuthServer, control: OAuthMockControl, client: OAuthClient
) -> None:
    control.set_clock(-3600)
    token = client.login(resource=RESOURCE)["access_token"]
    claims = jwt.decode(token, options={"verify_signature": False})
    with pytest.raises(jwt.ExpiredSignatureError):
        jwt.decode(token, server.core.ring.signing().private.public_key(), ["RS256"], audience=RESOURCE)  # type: ignore[arg-type]
    assert control.state()["now"] - claims["iat"] <= 60
    assert server.core.examine(token) is not None


def test_control_page(server: MockOAuthServer, control: OAuthMockControl) -> None:
    control.set_user("bob", {"roles": ["dev"]}, ["mcp:read"])
    added = control.add_client(
        client_id="fixed", client_secret="known", grant_types=["client_credentials"], redirect_uris=[]
    )
    assert (added["client_id"], added["client_secret"]) == ("fixed", "known")
    client = OAuthClient(server.issuer)
    token = client.login(login_hint="bob", scope="mcp:read mcp:write")["access_token"]
    assert jwt.decode(token, options={"verify_signature": False})["roles"] == ["dev"]
    fixed = OAuthClient(server.issuer)
    fixed.use("fixed", "known")
    assert fixed.token("client_credentials").status == 200
    mine = [entry for entry in control.tokens() if entry["client_id"] in (client.client_id, "fixed")]
    assert [(entry["grant_type"], entry["sub"], entry["active"]) for entry in mine] == [
        ("authorization_code", "bob", True),
        ("client_credentials", "fixed", True),
    ]
    control.revoke_all()
    assert not any(entry["active"] for entry in control.tokens())
    minted = control.mint({"sub": "dave"}, algorithm="ES256", headers={"x": "y"})
    assert jwt.get_unverified_header(minted)["alg"] == "ES256"
    assert jwt.decode(minted, options={"verify_signature": False})["sub"] == "dave"
    state = control.state()
    assert state["issuer"] == server.issuer
    assert state["issued"]["client_credentials"] >= 1
    control.add_lie("token", error="slow_down", status=400)
    assert [rule["error"] for rule in control.lies()] == ["slow_down"]
    control.clear_lies()
    assert control.lies() == []
    control.add_fault("status", status=500, path="/token")
    assert fixed.token("client_credentials").status == 500
    for endpoint, fields, words in (
        ("token", {"forgery": "nonsense"}, "no forgery"),
        ("jwks", {"forgery": "expired"}, "endpoint token"),
        ("token", {}, "how to lie"),
        ("nowhere", {"error": "x"}, "Invalid enum"),
        ("token", {"eror": "x"}, "unknown field"),
        ("jwks", {"padding": 10**9}, "padding"),
    ):
        with pytest.raises(ValueError, match=words):
            control.add_lie(endpoint, **fields)
    with pytest.raises(ValueError, match="redirect"):
        control.add_client(client_id="x")


def test_the_capture_hides_secrets_unless_asked(
    server: MockOAuthServer, control: OAuthMockControl, client: OAuthClient
) -> None:
    server.core.clients.add(
        Client(client_id="c", client_secret="hush-hush", grant_types=("client_credentials",))
    )
    tokens = client.login(state="visible")
    client.token("refresh_token", refresh_token=tokens["refresh_token"])
    service = OAuthClient(server.issuer)
    service.use("c", "hush-hush")
    basic = "YzpodXNoLWh1c2g="
    service.token("client_credentials")
    service.use("c", "hush-hush", "client_secret_post")
    service.token("client_credentials")
    service.post("introspection", token=tokens["access_token"])
    hidden, shown = json.dumps(control.requests()), json.dumps(control.requests(secrets=True))
    for secret in ("hush-hush", basic, tokens["refresh_token"], tokens["access_token"], "code-"):
        assert secret not in hidden
        assert secret in shown
    assert "grant_type=refresh_token" in hidden
    assert "state=visible" in hidden
    assert "Basic ***" in hidden
    assert all(
        secret not in json.dumps(control.tokens()) for secret in tokens.values() if len(str(secret)) > 40
    )


def test_without_control_nothing_is_kept() -> None:
    with MockOAuthServer(OAuthOptions(algorithms=("ES256",))) as server:
        client = OAuthClient(server.issuer)
        assert client.get(f"{server.base}/_control/state").status == 404
        assert client.get(f"{server.base}/_control/keys").status == 404
        assert server.capture.requests == []


def test_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    leaf = authority.issue_cert("127.0.0.1")
    certificate, key, trusted = (tmp_path / name for name in ("cert.pem", "key.pem", "ca.pem"))
    leaf.cert_chain_pems[0].write_to_path(str(certificate))
    leaf.private_key_pem.write_to_path(str(key))
    authority.cert_pem.write_to_path(str(trusted))
    options = OAuthOptions(algorithms=("ES256",), certificate=certificate, key=key, control=True)
    with MockOAuthServer(options) as server:
        assert server.issuer == f"https://127.0.0.1:{server.port}"
        client = OAuthClient(server.issuer, certificate=str(trusted))
        assert client.login(resource=RESOURCE)["token_type"] == "Bearer"
        control = OAuthMockControl(f"{server.base}/_control", certificate=str(trusted))
        assert control.state()["issued"] == {"authorization_code": 1}
    with pytest.raises(ValueError, match="go together"):
        MockOAuthServer(OAuthOptions(certificate=certificate))
