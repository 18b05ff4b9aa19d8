"""The SDK's own OAuth client walks from a 401 to a tool call through the proxy; and what it leaves behind."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest
from mcp.client import Client
from mcp.shared.auth import OAuthToken

from shadowcat.testing.mock_oauth.lies import Lie
from shadowcat.testing.mock_oauth.options import OAuthOptions
from shadowcat.testing.mock_oauth.server import MockOAuthServer
from shadowcat.testing.scripted import refused_port
from tests.e2e.harness import Shadowcat, eventually
from tests.e2e.oauth import ADMIN, READ, Login
from tests.e2e.sdk import ERAS, text_of
from tests.e2e.upstreams import Upstream, header

DISCOVERY = [
    "POST /mcp 401",
    "GET /.well-known/oauth-protected-resource/mcp 200",
    "GET /.well-known/oauth-authorization-server 200",
]
WHO = {"name": "t", "version": "1"}
PARAMS = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": WHO}
INITIALIZE = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": PARAMS})


class Scene(NamedTuple):
    oauth: MockOAuthServer
    upstream: Upstream
    cat: Shadowcat
    log: Path

    @property
    def url(self) -> str:
        return f"{self.cat.url}/mcp"

    @property
    def admin_url(self) -> str:
        return f"{self.cat.url}/admin"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    log = tmp_path_factory.mktemp("logs") / "access.log"
    with (
        refused_port() as port,  # The public URL has to be known before the proxy starts.
        MockOAuthServer(OAuthOptions(control=True)) as oauth,
        Upstream("one") as upstream,
    ):
        upstreams = [{"name": "one", "url": upstream.url}]
        trusted = [{"issuer": oauth.issuer}]
        settings = {
            "listen": f"127.0.0.1:{port}",
            "public_url": f"http://127.0.0.1:{port}",
            "access_log": {"path": str(log), "format": "json"},
            "log": {"level": "debug"},
            "routes": [
                {"path": "/mcp", "upstreams": upstreams, "auth": {"issuers": trusted, "scopes": [READ]}},
                {
                    "path": "/admin",
                    "upstreams": upstreams,
                    "auth": {"issuers": trusted, "scopes": [READ, ADMIN]},
                },
            ],
        }
        with Shadowcat(settings) as cat:
            yield Scene(oauth, upstream, cat, log)


@pytest.fixture(autouse=True)
def _fresh(scene: Scene) -> None:
    scene.oauth.lies.clear()
    scene.oauth.capture.clear()
    scene.oauth.core.issued.clear()
    scene.upstream.control.clear()


async def echo(client: Client) -> None:
    assert text_of(await client.call_tool("echo", {"text": "hé"})) == "hé"


def run(login: Login, url: str, mode: str) -> None:
    asyncio.run(login.use(url, mode, echo))


def leaves_no_trace(scene: Scene, *logins: Login) -> None:
    """Whether no token is anywhere but with its client, and with its issuer."""
    seen = scene.upstream.control.requests()
    assert seen
    assert not [entry for entry in seen if header(entry, "authorization") or header(entry, "cookie")]
    pages = [scene.cat.admin(path)[1].decode() for path in ("/metrics", "/api/status", "/api/sessions")]
    written = "\n".join([*pages, scene.log.read_text(), scene.cat.stderr, json.dumps(seen)])
    for login in logins:
        assert login.tokens is not None
        secrets = [*login.tokens.access_token.split("."), login.tokens.refresh_token or ""]
        assert [secret for secret in secrets if len(secret) > 8]
        assert not [secret for secret in secrets if secret and secret in written]


@pytest.mark.parametrize("mode", ERAS)
def test_from_401_to_a_tool_call(scene: Scene, mode: str) -> None:
    login = Login(subject="bob")
    run(login, scene.url, mode)
    assert login.answers[:5] == [*DISCOVERY, "POST /register 201", "POST /token 200"]
    assert not any(answer.endswith((" 401", " 403")) for answer in login.answers[5:])
    (opened,) = login.opened
    asked = parse_qs(urlsplit(opened).query)
    assert asked["resource"] == [scene.url]
    assert asked["scope"] == [READ]
    assert asked["code_challenge_method"] == ["S256"]
    assert login.tokens is not None
    claims = scene.oauth.core.examine(login.tokens.access_token)
    assert claims is not None
    assert (claims["sub"], claims["aud"]) == ("bob", scene.url)
    eventually(lambda: scene.log.exists() and "tools/call" in scene.log.read_text(), what="the access log")
    leaves_no_trace(scene, login)


@pytest.mark.parametrize("mode", ERAS)
def test_a_token_that_ran_out_is_refreshed(scene: Scene, mode: str) -> None:
    scene.oauth.lies.add(Lie(endpoint="token", grant="authorization_code", members={"expires_in": -1}))
    login = Login()
    run(login, scene.url, mode)
    assert dict(scene.oauth.core.issued) == {"authorization_code": 1, "refresh_token": 1}
    leaves_no_trace(scene, login)


@pytest.mark.parametrize("mode", ERAS)
def test_a_token_that_allows_too_little_steps_up(scene: Scene, mode: str) -> None:
    login = Login(subject="carol")
    narrow = scene.oauth.mint({"aud": scene.admin_url, "scope": READ, "sub": "carol"})
    login.tokens = OAuthToken(access_token=narrow, scope=READ)
    run(login, scene.admin_url, mode)
    assert login.answers[0] == "POST /admin 403"
    assert login.answers.count("POST /admin 403") == 1
    (opened,) = login.opened
    assert set(parse_qs(urlsplit(opened).query)["scope"][0].split()) == {READ, ADMIN}
    assert login.tokens is not None
    assert set((login.tokens.scope or "").split()) == {READ, ADMIN}
    leaves_no_trace(scene, login)


def test_a_token_of_one_route_is_none_of_another(scene: Scene) -> None:
    token = scene.oauth.mint({"aud": scene.url, "scope": f"{READ} {ADMIN}"})
    assert post(scene, "/mcp", token, INITIALIZE)[0] == 200
    assert post(scene, "/admin", token, INITIALIZE)[0] == 401


def post(
    scene: Scene, path: str, token: str, body: str, method: str = "POST", **more: str
) -> tuple[int, dict[str, Any], bytes]:
    connection = http.client.HTTPConnection(*scene.cat.address, timeout=30)
    fields = {
        "Authorization": f"Bearer {token}",
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        **more,
    }
    try:
        connection.request(method, path, body if method == "POST" else None, fields)
        response = connection.getresponse()
        return response.status, dict(response.headers), response.read()
    finally:
        connection.close()


def test_two_principals_and_one_session(scene: Scene) -> None:
    alice, bob = (
        scene.oauth.mint({"aud": scene.url, "scope": READ, "sub": name}) for name in ("alice", "bob")
    )
    status, headers, _ = post(scene, "/mcp", alice, INITIALIZE)
    assert status == 200
    session = next(value for name, value in headers.items() if name.lower() == "mcp-session-id")
    ping = '{"jsonrpc":"2.0","id":2,"method":"ping"}'
    before = len(scene.upstream.control.requests())
    for method in ("POST", "GET", "DELETE"):
        # Each over a connection of its own, so that every worker gets some.
        for _ in range(6):
            theirs = post(scene, "/mcp", bob, ping, method, **{"Mcp-Session-Id": session})
            unknown = post(scene, "/mcp", bob, ping, method, **{"Mcp-Session-Id": "A" * 28})
            assert theirs[0] == unknown[0] == 404
            assert theirs[2] == unknown[2]
    assert len(scene.upstream.control.requests()) == before
    assert post(scene, "/mcp", alice, ping, **{"Mcp-Session-Id": session})[0] == 200
    listed = json.loads(scene.cat.admin("/api/sessions")[1])["sessions"]
    mine = [entry for entry in listed if entry["principal"].endswith(" alice")]
    assert mine
    assert all(entry["owner"] == entry["principal"] for entry in mine)
