"""Rules of a route and the SDK's own clients: what they may, how they step up; other rules while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest
from mcp.client import Client
from mcp.shared.auth import OAuthToken

from shadowcat.testing.mock_oauth.options import OAuthOptions
from shadowcat.testing.mock_oauth.server import MockOAuthServer
from shadowcat.testing.scripted import refused_port
from tests.e2e.admin import call
from tests.e2e.harness import Shadowcat, eventually
from tests.e2e.oauth import ADMIN, READ, Login
from tests.e2e.sdk import ERAS, text_of
from tests.e2e.upstreams import Upstream

PROTOCOL = {
    "name": "protocol",
    "allow": True,
    "methods": ["initialize", "ping", "server/discover", "*/list", "GET", "DELETE"],
}
ECHO = {"name": "echo", "allow": True, "tools": ["echo"], "scopes": [ADMIN]}


class Scene(NamedTuple):
    oauth: MockOAuthServer
    upstream: Upstream
    cat: Shadowcat
    settings: dict[str, Any]

    @property
    def url(self) -> str:
        return f"{self.cat.url}/mcp"

    def login(self, scope: str, subject: str = "carol") -> Login:
        login = Login(subject=subject)
        token = self.oauth.mint({"aud": self.url, "scope": scope, "sub": subject, "roles": [subject]})
        login.tokens = OAuthToken(access_token=token, scope=scope)
        return login


def settings_for(port: int, oauth: MockOAuthServer, upstream: Upstream, rules: list[Any]) -> dict[str, Any]:
    return {
        "listen": f"127.0.0.1:{port}",
        "public_url": f"http://127.0.0.1:{port}",
        "routes": [
            {
                "path": "/mcp",
                "upstreams": [{"name": "one", "url": upstream.url}],
                "auth": {"issuers": [{"issuer": oauth.issuer}], "scopes": [READ]},
                "policy": {"rules": rules},
            }
        ],
    }


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    options = OAuthOptions(control=True)
    with refused_port() as port, MockOAuthServer(options) as oauth, Upstream("one") as upstream:
        settings = settings_for(port, oauth, upstream, [PROTOCOL, ECHO])
        with Shadowcat(settings) as cat:
            yield Scene(oauth, upstream, cat, settings)


@pytest.fixture(autouse=True)
def _fresh(scene: Scene) -> None:
    scene.oauth.core.issued.clear()
    scene.upstream.control.clear()


async def echo(client: Client) -> None:
    listed = await client.list_tools()
    assert "echo" in {tool.name for tool in listed.tools}
    assert text_of(await client.call_tool("echo", {"text": "hé"})) == "hé"


async def refused(client: Client) -> None:
    await client.list_tools()
    with pytest.raises(Exception, match="no rule of the policy allows this"):
        await client.call_tool("echo", {"text": "hé"})


@pytest.mark.parametrize("mode", ERAS)
def test_a_rule_that_wants_more_scopes_is_stepped_up_to(scene: Scene, mode: str) -> None:
    login = Login(subject="carol")
    asyncio.run(login.use(scene.url, mode, echo))
    # The first token does for everything but the call; in the legacy era that goes on in the same session.
    assert login.answers[0] == "POST /mcp 401"
    assert login.answers.count("POST /mcp 401") == login.answers.count("POST /mcp 403") == 1
    first, second = ({*parse_qs(urlsplit(opened).query)["scope"][0].split()} for opened in login.opened)
    assert (first, second) == ({READ}, {READ, ADMIN})
    assert login.tokens is not None
    assert set((login.tokens.scope or "").split()) == {READ, ADMIN}


@pytest.mark.parametrize("mode", ERAS)
def test_a_refusal_by_rule_is_no_reason_for_another_login(scene: Scene, mode: str) -> None:
    login = scene.login(f"{READ} {ADMIN}")

    async def other(client: Client) -> None:
        with pytest.raises(Exception, match="no rule of the policy allows this"):
            await client.call_tool("add", {"a": 1, "b": 2})

    asyncio.run(login.use(scene.url, mode, other))
    assert login.answers.count("POST /mcp 403") == 1
    assert login.opened == []


def test_what_nobody_may_is_said_at_the_start(scene: Scene) -> None:
    eventually(lambda: "policy.rules refuse" in scene.cat.stderr, what="the notice")
    (line,) = [each for each in scene.cat.stderr.splitlines() if "policy.rules refuse" in each]
    assert "/mcp: policy.rules refuse prompts/get, resources/read" in line
    assert "tools/call" not in line


@pytest.mark.parametrize("mode", ERAS)
def test_other_rules_while_it_runs(scene: Scene, mode: str) -> None:
    """Both workers go by them, also for tokens that they know."""
    alice, bob = scene.login(READ, "alice"), scene.login(READ, "bob")
    when = {
        "name": "when",
        "allow": True,
        "tools": ["*"],
        "when": "'alice' in roles && arguments.text == 'hé'",
    }
    try:
        change(scene, [PROTOCOL, when])
        for _ in range(2):
            asyncio.run(alice.use(scene.url, mode, echo))
            asyncio.run(bob.use(scene.url, mode, refused))
        change(scene, [PROTOCOL, when | {"when": "subject == 'bob'"}])
        asyncio.run(alice.use(scene.url, mode, refused))
        asyncio.run(bob.use(scene.url, mode, echo))
        page = scene.cat.admin("/metrics")[1].decode()
        assert 'shadowcat_policy_denied_total{route="/mcp"}' in page
    finally:
        change(scene, [PROTOCOL, ECHO])


def change(scene: Scene, rules: list[Any]) -> None:
    """Reload with these rules, by the command."""
    scene.settings["routes"][0]["policy"] = {"rules": rules}
    scene.cat.write(scene.settings)
    status, document = call(scene.cat, "POST", "/api/reload")
    assert (status, document["changed"]) == (200, ["routes[/mcp].policy.rules"])
