"""The SDK's own OAuth client, where TLS ends in front of the proxy: every URL that it is told is https."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme
from mcp.client import Client
from mcp.shared.auth import OAuthToken

from shadowcat.testing.mock_oauth.options import OAuthOptions
from shadowcat.testing.mock_oauth.server import MockOAuthServer
from tests.e2e.harness import Shadowcat
from tests.e2e.oauth import ADMIN, READ, Login
from tests.e2e.sdk import ERAS, text_of
from tests.e2e.tls_front import ABSENT, PATH, TlsFront, trusting
from tests.e2e.upstreams import Upstream, header

pytestmark = pytest.mark.skipif(PATH is None, reason=ABSENT)
TOLD = ("public_url", "forwarded")
"""How the proxy knows what it is called: by its configuration, or from the proxy that it trusts."""
WELL_KNOWN = "/.well-known/oauth-protected-resource"


class Scene(NamedTuple):
    told: str
    origin: str
    oauth: MockOAuthServer
    upstream: Upstream
    trust: ssl.SSLContext
    cat: Shadowcat

    def login(self, subject: str) -> Login:
        return Login(subject=subject, trust=self.trust)

    def ask(
        self, method: str, path: str, **fields: str
    ) -> tuple[int, http.client.HTTPMessage, dict[str, Any]]:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", urlsplit(self.origin).port, timeout=10, context=self.trust
        )
        try:
            connection.request(method, path, b"{}" if method == "POST" else None, fields)
            answer = connection.getresponse()
            return answer.status, answer.headers, json.loads(answer.read())
        finally:
            connection.close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def issuer(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MockOAuthServer]:
    """It speaks TLS, too."""
    folder = tmp_path_factory.mktemp("issuer")
    made = authority.issue_cert("127.0.0.1")
    chain, key = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(b"".join(part.bytes() for part in made.cert_chain_pems))
    made.private_key_pem.write_to_path(str(key))
    with MockOAuthServer(OAuthOptions(control=True, certificate=chain, key=key)) as oauth:
        yield oauth


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream("one") as running:
        yield running


@pytest.fixture(scope="module", params=TOLD)
def scene(
    request: pytest.FixtureRequest,
    authority: trustme.CA,
    issuer: MockOAuthServer,
    upstream: Upstream,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Scene]:
    roots: Path = tmp_path_factory.mktemp("roots") / "ca.pem"
    authority.cert_pem.write_to_path(str(roots))
    with TlsFront(authority) as front:

        def route(path: str, *scopes: str) -> dict[str, Any]:
            trusted = {"issuer": issuer.issuer}
            if request.param == "forwarded":
                trusted["audience"] = f"{front.origin}{path}"
            auth = {"issuers": [trusted], "scopes": list(scopes)}
            return {"path": path, "upstreams": [{"name": "one", "url": upstream.url}], "auth": auth}

        settings: dict[str, Any] = {
            "trusted_proxies": ["127.0.0.0/8"],
            "routes": [route("/mcp", READ), route("/admin", READ, ADMIN)],
        }
        if request.param == "public_url":
            settings["public_url"] = front.origin
        # OpenSSL's own variable: control asks the issuer, whose certificate nobody else vouches for.
        with Shadowcat(settings, environ={"SSL_CERT_FILE": str(roots)}) as cat:
            # With nothing but X-Forwarded-Host the proxy has to find out what the client has called it.
            front.serve(cat.url, "$http_host" if request.param == "public_url" else "localhost")
            yield Scene(request.param, front.origin, issuer, upstream, trusting(authority), cat)


@pytest.fixture(autouse=True)
def _fresh(scene: Scene) -> None:
    scene.oauth.core.issued.clear()
    scene.upstream.control.clear()


async def echo(client: Client) -> None:
    assert text_of(await client.call_tool("echo", {"text": "hé"})) == "hé"


def went_through(scene: Scene) -> None:
    """Whether what arrived came from here, over TLS, without the token."""
    seen = scene.upstream.control.requests()
    assert {entry["rpc_method"] for entry in seen} >= {"tools/call"}
    for entry in seen:
        assert header(entry, "authorization") is None
        assert header(entry, "x-forwarded-proto") == "https"
        assert header(entry, "x-forwarded-host") == urlsplit(scene.origin).netloc


@pytest.mark.parametrize("mode", ERAS)
def test_from_401_to_a_tool_call(scene: Scene, mode: str) -> None:
    login = scene.login("bob")
    asyncio.run(login.use(f"{scene.origin}/mcp", mode, echo))
    assert login.answers[:3] == [
        "POST /mcp 401",
        f"GET {WELL_KNOWN}/mcp 200",
        "GET /.well-known/oauth-authorization-server 200",
    ]
    assert not [answer for answer in login.answers[1:] if answer.endswith((" 401", " 403"))]
    (opened,) = login.opened
    assert opened.startswith("https://")
    assert parse_qs(urlsplit(opened).query)["resource"] == [f"{scene.origin}/mcp"]
    assert login.tokens is not None
    claims = scene.oauth.core.examine(login.tokens.access_token)
    assert claims is not None
    assert (claims["sub"], claims["aud"]) == ("bob", f"{scene.origin}/mcp")
    assert dict(scene.oauth.core.issued) == {"authorization_code": 1}
    went_through(scene)


@pytest.mark.parametrize("mode", ERAS)
def test_a_token_that_allows_too_little_steps_up(scene: Scene, mode: str) -> None:
    login = scene.login("carol")
    url = f"{scene.origin}/admin"
    narrow = scene.oauth.mint({"aud": url, "scope": READ, "sub": "carol"})
    login.tokens = OAuthToken(access_token=narrow, scope=READ)
    asyncio.run(login.use(url, mode, echo))
    assert login.answers[0] == "POST /admin 403"
    assert login.answers.count("POST /admin 403") == 1
    (opened,) = login.opened
    assert {*parse_qs(urlsplit(opened).query)["scope"][0].split()} == {READ, ADMIN}
    went_through(scene)


@pytest.mark.parametrize("path", ["/mcp", "/admin"])
def test_every_url_that_is_told_is_the_public_one(scene: Scene, path: str) -> None:
    narrow = scene.oauth.mint({"aud": f"{scene.origin}{path}", "scope": ""})
    for method in ("POST", "GET", "DELETE"):
        for token, status in ((None, 401), ("x.y.z", 401), (narrow, 403)):
            fields = {} if token is None else {"Authorization": f"Bearer {token}"}
            found, headers, _ = scene.ask(method, path, **fields)
            assert found == status
            told = re.search(r'resource_metadata="([^"]*)"', headers["WWW-Authenticate"])
            assert told is not None
            assert told[1] == f"{scene.origin}{WELL_KNOWN}{path}"
    status, _, document = scene.ask("GET", f"{WELL_KNOWN}{path}")
    assert status == 200
    assert document["resource"] == f"{scene.origin}{path}"
    assert document["authorization_servers"] == [scene.oauth.issuer]


def test_who_comes_past_the_front_is_told_what_it_has_called(scene: Scene) -> None:
    """Unless the configuration says how the proxy is called."""
    connection = http.client.HTTPConnection(*scene.cat.address, timeout=30)
    try:
        connection.request("GET", "/mcp")
        answer = connection.getresponse()
        answer.read()
    finally:
        connection.close()
    origin = {"public_url": scene.origin, "forwarded": scene.cat.url}[scene.told]
    assert answer.status == 401
    assert f'resource_metadata="{origin}{WELL_KNOWN}/mcp"' in answer.headers["WWW-Authenticate"]
