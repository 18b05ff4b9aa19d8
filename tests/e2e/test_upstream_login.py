"""Upstreams whose tokens an operator consents to: the real supervisor, a real issuer, the real command."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import msgspec
import pytest

from shadowcat.testing.mock_mcp.server import MockMcpServer
from shadowcat.testing.mock_oauth import records
from shadowcat.testing.mock_oauth.lies import Lie
from shadowcat.testing.mock_oauth.options import OAuthOptions
from shadowcat.testing.mock_oauth.server import MockOAuthServer
from tests.e2e.browser import CALLBACK, LOGIN, PUBLIC, Answer, Browser, parameters, without
from tests.e2e.harness import Shadowcat, eventually
from tests.e2e.test_audit import events, with_audit
from tests.e2e.test_login import kill_control

COMMAND = Path(sys.executable).with_name("shadowcat")
RESOURCE = "https://upstream.example/mcp"
CLIENT = records.Client(
    client_id="proxy",
    client_secret="its secret",
    redirect_uris=(CALLBACK,),
    grant_types=("authorization_code", "refresh_token"),
)


@pytest.fixture
def oauth(request: pytest.FixtureRequest) -> Iterator[MockOAuthServer]:
    """Its tokens last longer than a test, unless that says for how many seconds they do."""
    lifetime = getattr(request, "param", 600)
    options = OAuthOptions(algorithms=("ES256",), control=True, clients=(CLIENT,), access_lifetime=lifetime)
    with MockOAuthServer(options) as server:
        yield server


@pytest.fixture(scope="module")
def upstream() -> Iterator[MockMcpServer]:
    with MockMcpServer() as server:
        yield server


def config(oauth: MockOAuthServer, upstream: MockMcpServer, **more: Any) -> dict[str, Any]:
    section = {
        "issuer": oauth.issuer, "client_id": "proxy", "client_secret": "its secret",
        "resource": RESOURCE, "scopes": ["mcp:read"], **more,
    }  # fmt: skip
    entry = {"name": "far", "url": upstream.url, "credential": {"authorization_code": section}}
    return {"public_url": PUBLIC, "routes": [{"path": "/mcp", "upstreams": [entry]}]}


def operate(cat: Shadowcat, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(COMMAND), *arguments, "--admin", cat.ready["admin"]],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip


def begin(cat: Shadowcat) -> str:
    done = operate(cat, "upstream", "login", "far", "--json")
    assert done.returncode == 0, done
    return json.loads(done.stdout)["url"]


def log_in(cat: Shadowcat) -> Browser:
    """Whoever has the address may use any browser: there is no cookie in this one."""
    browser = Browser(cat)
    answer = browser.come_back(browser.approve(begin(cat)))
    assert (answer.status, browser.set) == (200, []), answer
    return browser


def ask(browser: Browser) -> Answer:
    """A request of the modern era, which needs no session."""
    version = "2026-07-28"
    about = {
        "io.modelcontextprotocol/protocolVersion": version,
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    message = {"jsonrpc": "2.0", "id": 7, "method": "tools/list", "params": {"_meta": about}}
    return browser.post(json.dumps(message).encode(), MCP_Protocol_Version=version, Mcp_Method="tools/list")


def presented(upstream: MockMcpServer) -> list[str]:
    return [entry.header("authorization") or "" for entry in upstream.capture.requests]


def test_an_operator_logs_in_and_requests_go_on(oauth: MockOAuthServer, upstream: MockMcpServer) -> None:
    upstream.capture.clear()
    with Shadowcat(config(oauth, upstream)) as cat:
        browser = Browser(cat)
        waiting = ask(browser)
        assert waiting.status == 503
        assert b"login" not in waiting.body
        assert not upstream.capture.requests
        shown = operate(cat, "upstream", "list", "--json")
        assert [row["login"] for row in json.loads(shown.stdout)] == ["needed"]
        assert "login needed" in operate(cat, "status").stdout
        assert "login needed" in operate(cat, "upstream", "list").stdout
        url = begin(cat)
        sent = parameters(url)
        assert (sent["resource"], sent["scope"], sent["redirect_uri"]) == (RESOURCE, "mcp:read", CALLBACK)
        assert sent["code_challenge_method"] == "S256"
        # Control dies between this and that, and once more when all is done.
        kill_control(cat)
        back = browser.approve(url)
        answer = browser.come_back(back)
        assert answer.status == 200, answer
        eventually(lambda: ask(browser).status == 200, what="the first answer")
        shown = operate(cat, "upstream", "list", "--json")
        assert [row["login"] for row in json.loads(shown.stdout)] == ["done"]
        assert "login needed" not in operate(cat, "upstream", "list").stdout
        kill_control(cat)
        assert {ask(browser).status for _ in range(6)} == {200}
        (issued,) = oauth.core.store.accesses.values()
        assert issued.claims["aud"] == RESOURCE
        assert all(line.startswith("Bearer ey") for line in presented(upstream))
        assert browser.come_back(back).status == 400
        # A page for browsers to log in is another thing.
        assert browser.ask("GET", LOGIN).status == 404


def test_it_is_asked_for_as_the_configuration_says(upstream: MockMcpServer) -> None:
    by_form = msgspec.structs.replace(CLIENT, auth_method="client_secret_post")
    with MockOAuthServer(OAuthOptions(algorithms=("ES256",), control=True, clients=(by_form,))) as oauth:
        keys = {"auth_method": "post", "audience": "somebody"}
        with Shadowcat(config(oauth, upstream, **keys)) as cat:
            log_in(cat)
        (entry,) = [entry for entry in list(oauth.capture.requests) if entry.target == "/token"]
    assert entry.header("authorization") is None
    form = parse_qs(entry.body.decode())
    assert (form["client_id"], form["client_secret"]) == (["proxy"], ["its secret"])
    assert (form["audience"], form["resource"]) == (["somebody"], [RESOURCE])


@pytest.mark.parametrize("oauth", [20], indirect=True)
def test_tokens_are_renewed_and_a_grant_that_is_over_needs_another_login(
    oauth: MockOAuthServer, upstream: MockMcpServer, tmp_path: Path
) -> None:
    audit = tmp_path / "audit.jsonl"
    with Shadowcat(with_audit(config(oauth, upstream), audit)) as cat:
        browser = log_in(cat)
        eventually(lambda: ask(browser).status == 200, what="the first answer")
        first = presented(upstream)[-1]

        def renewed() -> bool:
            assert ask(browser).status == 200
            return presented(upstream)[-1] != first

        eventually(renewed, 30, "another token")
        assert oauth.core.issued["refresh_token"] == 1
        kill_control(cat)
        oauth.lies.add(Lie(endpoint="token", error="invalid_grant"))
        eventually(lambda: ask(browser).status == 503, 40, "the end of the token")
        eventually(lambda: "login needed" in operate(cat, "status").stdout, what="the end of the grant")
        oauth.lies.clear()
        log_in(cat)
        eventually(lambda: ask(browser).status == 200, what="an answer after another login")
        eventually(lambda: len(events(audit, "login")) == 3, what="the events")
    found = events(audit, "login")
    assert [(event["outcome"], event["reason"], event["upstream"]) for event in found] == [
        ("succeeded", None, "far"),
        ("ended", "not_renewed", None),
        ("succeeded", None, "far"),
    ]
    assert found[1]["data"] == {"issuer": oauth.issuer, "client_id": "proxy"}


def test_what_cannot_be_logged_in_for_is_said(oauth: MockOAuthServer, upstream: MockMcpServer) -> None:
    text = config(oauth, upstream)
    text["routes"][0]["upstreams"].append({"name": "near", "url": "http://127.0.0.1:9/mcp"})
    with Shadowcat(text | {"workers": 1}) as cat:
        plain = operate(cat, "upstream", "login", "near")
        assert plain.returncode != 0
        assert "authorization_code" in plain.stderr
        unknown = operate(cat, "upstream", "login", "nowhere")
        assert "no upstream nowhere" in unknown.stderr
        oauth.lies.add(Lie(endpoint="metadata", members={"code_challenge_methods_supported": ["plain"]}))
        assert "S256" in operate(cat, "upstream", "login", "far").stderr
        oauth.lies.clear()
        shown = operate(cat, "upstream", "login", "far").stdout
        assert f"{oauth.issuer}/authorize?" in shown
        oauth.lies.add(Lie(endpoint="token", error="invalid_client", status=401))
        browser = Browser(cat)
        assert browser.come_back(browser.approve(begin(cat))).status == 502
        assert browser.come_back(without(browser.approve(begin(cat)), "iss")).status == 400
