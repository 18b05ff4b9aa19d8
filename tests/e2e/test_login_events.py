"""Logins in the audit file: who, from where, and how they end."""

from __future__ import annotations

from pathlib import Path

from shadowcat.testing.mock_oauth.lies import Lie
from shadowcat.testing.mock_oauth.options import OAuthOptions
from shadowcat.testing.mock_oauth.server import MockOAuthServer
from tests.e2e.browser import LOGOUT, Browser, parameters
from tests.e2e.harness import EchoUpstream, Shadowcat, eventually
from tests.e2e.test_audit import events, with_audit
from tests.e2e.test_login import CLIENT, PING, SECRET, config


def test_logins_are_in_the_audit_file(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    options = OAuthOptions(algorithms=("ES256",), control=True, clients=(CLIENT,), access_lifetime=4)
    with (
        EchoUpstream() as echo,
        MockOAuthServer(options) as oauth,
        Shadowcat(with_audit(config(oauth, echo), path)) as cat,
    ):
        browser = Browser(cat, "ann")
        back = browser.approve(browser.begin())
        assert browser.come_back(back).status == 200
        assert browser.come_back(back).status == 400
        assert browser.log_in().status == 200
        assert browser.ask("POST", LOGOUT).status == 200
        assert browser.ask("POST", LOGOUT).status == 200, "nobody is logged in: that is no event"
        other = Browser(cat, "bob")
        oauth.lies.add(Lie(endpoint="token", error="server_error", status=500))
        assert other.log_in().status == 502
        oauth.lies.clear()
        assert other.log_in().status == 200
        oauth.lies.add(Lie(endpoint="token", grant="refresh_token", error="invalid_grant"))
        eventually(lambda: other.post(PING).status == 401, what="the end of the login")
        eventually(lambda: len(events(path, "login")) == 8, what="all events")
        issuer = oauth.issuer
    ann, bob = f"{issuer} shadowcat ann", f"{issuer} shadowcat bob"
    found = [
        (event["outcome"], event["reason"], event["principal"], event["client"], event["route"])
        for event in events(path, "login")
    ]
    assert found == [
        ("succeeded", None, ann, "127.0.0.1", "/mcp"),
        ("failed", "refused", None, "127.0.0.1", None),
        ("succeeded", None, ann, "127.0.0.1", "/mcp"),
        ("ended", "replaced", ann, "127.0.0.1", "/mcp"),
        ("ended", "logout", ann, "127.0.0.1", "/mcp"),
        ("failed", "unavailable", None, "127.0.0.1", None),
        ("succeeded", None, bob, "127.0.0.1", "/mcp"),
        ("ended", "not_renewed", bob, None, "/mcp"),
    ]
    whole = path.read_text()
    secrets = [SECRET, *browser.cookies.values(), *other.cookies.values()]
    secrets += [parameters(back)[name] for name in ("state", "code")]
    for secret in secrets:
        assert secret not in whole
