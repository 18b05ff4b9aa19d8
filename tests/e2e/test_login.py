"""Logging in with a browser: the real supervisor, a real issuer, and a browser that is up to something."""

from __future__ import annotations

import json
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from shadowcat.testing.mock_mcp.server import MockMcpServer
from shadowcat.testing.mock_oauth import records
from shadowcat.testing.mock_oauth.lies import Lie
from shadowcat.testing.mock_oauth.options import OAuthOptions
from shadowcat.testing.mock_oauth.server import MockOAuthServer
from tests.e2e.browser import CALLBACK, LOGIN, LOGOUT, PUBLIC, Browser, parameters, without
from tests.e2e.harness import EchoUpstream, Shadowcat, eventually

PING = b'{"jsonrpc":"2.0","id":7,"method":"ping","params":{}}'
SECRET = "the secret of the proxy"
CLIENT = records.Client(
    client_id="shadowcat",
    client_secret=SECRET,
    redirect_uris=(CALLBACK,),
    grant_types=("authorization_code", "refresh_token"),
)
PUBLIC_CLIENT = records.Client(
    client_id="open", redirect_uris=(CALLBACK,), auth_method="none",
    grant_types=("authorization_code", "refresh_token"),
)  # fmt: skip
LIFETIME = 300


@pytest.fixture(scope="module")
def issuer() -> Iterator[MockOAuthServer]:
    options = OAuthOptions(
        algorithms=("ES256",), control=True, clients=(CLIENT, PUBLIC_CLIENT), access_lifetime=LIFETIME
    )
    with MockOAuthServer(options) as server:
        yield server


@pytest.fixture(autouse=True)
def oauth(issuer: MockOAuthServer) -> MockOAuthServer:
    issuer.lies.clear()
    issuer.faults.clear()
    issuer.capture.clear()
    return issuer


@pytest.fixture(scope="module")
def echo() -> Iterator[EchoUpstream]:
    with EchoUpstream() as upstream:
        yield upstream


def config(oauth: MockOAuthServer, echo: EchoUpstream | MockMcpServer, **login: Any) -> dict[str, Any]:
    section = {"issuer": oauth.issuer, "client_id": "shadowcat", "client_secret": SECRET, **login}
    auth = {"issuers": [{"issuer": oauth.issuer}], "scopes": ["mcp:read"], "login": section}
    return {
        "public_url": PUBLIC,
        "routes": [{"path": "/mcp", "upstreams": [{"url": echo.url}], "auth": auth}],
    }


@pytest.fixture(scope="module")
def cat(issuer: MockOAuthServer, echo: EchoUpstream) -> Iterator[Shadowcat]:
    with Shadowcat(config(issuer, echo)) as running:
        yield running


def kill_control(cat: Shadowcat) -> None:
    before = cat.children()["control"]
    before.send_signal(signal.SIGKILL)
    eventually(
        lambda: (now := cat.children().get("control")) is not None and now.pid != before.pid,
        what="another control process",
    )
    eventually(lambda: cat.admin("/livez")[0] == 200, what="its listener")


def test_a_browser_logs_in_works_and_logs_out(cat: Shadowcat, oauth: MockOAuthServer) -> None:
    browser = Browser(cat)
    assert browser.post(PING).status == 401
    url = browser.begin(route="/mcp", return_to="/app?x=1")
    sent = parameters(url)
    assert url.startswith(f"{oauth.issuer}/authorize?")
    assert sent["redirect_uri"] == CALLBACK
    assert sent["resource"] == f"{PUBLIC}/mcp"
    assert (sent["response_type"], sent["client_id"], sent["scope"]) == ("code", "shadowcat", "mcp:read")
    assert sent["code_challenge_method"] == "S256"
    assert len(sent["state"]) >= 43
    back = browser.come_back(browser.approve(url))
    assert (back.status, back.location) == (302, "/app?x=1")
    assert back.headers["Cache-Control"] == "no-store"
    begun, given = browser.set
    assert begun.startswith("__Host-shadowcat-browser=")
    assert given.startswith("__Host-shadowcat-")
    for text in (begun, given):
        assert {"Secure", "HttpOnly", "SameSite=Lax", "Path=/"} <= set(text.split("; "))
    for _ in range(5):  # Each on a connection of its own, so at any worker.
        assert browser.post(PING).status == 200
    modern = json.dumps(
        {"jsonrpc": "2.0", "id": 7, "method": "ping",
         "params": {"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}}}
    ).encode()  # fmt: skip
    answer = browser.post(modern, MCP_Protocol_Version="2026-07-28", Mcp_Method="ping")
    assert answer.status == 200, answer
    held = dict(browser.cookies)
    out = browser.ask("POST", LOGOUT)
    assert (out.status, out.body) == (200, b"You are logged out.\n")
    browser.cookies = held
    for _ in range(6):
        assert browser.post(PING).status == 401
    # The issuer has been told, too.
    eventually(
        lambda: [each.status for each in oauth.capture.requests if each.target == "/revoke"] == [200],
        what="a revocation",
    )
    assert any(refresh.revoked for refresh in oauth.core.store.refreshes.values())


def test_nobody_else_may_use_a_state_and_nobody_twice(cat: Shadowcat, oauth: MockOAuthServer) -> None:
    victim, attacker = Browser(cat), Browser(cat)
    back = attacker.approve(attacker.begin())
    victim.begin()
    refused = victim.come_back(back)
    assert (refused.status, victim.post(PING).status) == (400, 401)
    assert b"another browser" in refused.body
    # It is used up by that, for its owner as well.
    assert attacker.come_back(back).status == 400
    nobody = Browser(cat)
    assert nobody.come_back(attacker.approve(attacker.begin())).status == 400
    url = victim.approve(victim.begin())
    assert victim.come_back(url).status == 200
    again = victim.come_back(url)
    assert (again.status, again.headers["Content-Type"]) == (400, "text/plain; charset=utf-8")
    assert victim.come_back(without(url, "state")).status == 400
    assert victim.come_back(without(url, state="x" * 43)).status == 400
    assert oauth.capture.requests
    assert sum(entry.target == "/token" for entry in oauth.capture.requests) == 1


@pytest.mark.parametrize(
    "wrong", [{"iss": "https://other.example"}, {"iss": PUBLIC}, {"iss": ""}, None], ids=str
)
def test_an_answer_of_another_issuer_is_refused(
    cat: Shadowcat, oauth: MockOAuthServer, wrong: dict[str, str] | None
) -> None:
    browser = Browser(cat)
    url = browser.approve(browser.begin())
    changed = without(url, "iss") if wrong is None else without(url, **wrong)
    assert browser.come_back(changed).status == 400
    assert browser.post(PING).status == 401
    assert not [entry for entry in oauth.capture.requests if entry.target == "/token"]


@pytest.mark.parametrize(
    "members",
    [
        {"code_challenge_methods_supported": ["plain"]},
        {"code_challenge_methods_supported": None},
        {"authorization_endpoint": "http://elsewhere.example/authorize"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"issuer": "https://other.example"},
    ],
    ids=str,
)
def test_an_issuer_that_is_not_safe_to_use_gets_nobody(
    oauth: MockOAuthServer, echo: EchoUpstream, members: dict[str, Any]
) -> None:
    with Shadowcat(config(oauth, echo) | {"workers": 1}) as cat:
        eventually(lambda: any(entry.target == "/jwks" for entry in oauth.capture.requests), what="keys")
        oauth.lies.add(Lie(endpoint="metadata", members=members))
        answer = Browser(cat).ask("GET", LOGIN)
        assert answer.status in (400, 502), answer
        assert answer.headers["Location"] is None


def test_what_the_issuer_says_no_to_is_shown_as_text(cat: Shadowcat, oauth: MockOAuthServer) -> None:
    browser = Browser(cat)
    url = browser.approve(browser.begin())
    denied = browser.come_back(without(url, "code", error="access_denied", error_description="<script>"))
    assert denied.status == 400
    assert b"access denied" in denied.body
    assert b"script" not in denied.body
    strange = browser.come_back(without(browser.approve(browser.begin()), "code", error="<b>x</b>"))
    assert b"<" not in strange.body
    assert strange.headers["X-Content-Type-Options"] == "nosniff"
    oauth.lies.add(Lie(endpoint="token", error="invalid_grant"))
    assert browser.log_in().status == 502
    assert browser.post(PING).status == 401


@pytest.mark.parametrize("forgery", ["wrong_audience", "expired", "wrong_signature"])
def test_a_token_that_is_no_good_here_logs_nobody_in(
    cat: Shadowcat, oauth: MockOAuthServer, forgery: str
) -> None:
    oauth.lies.add(Lie(endpoint="token", forgery=forgery))
    browser = Browser(cat)
    assert browser.log_in().status in (400, 502)
    assert browser.post(PING).status == 401


@pytest.mark.parametrize(
    "target",
    [
        "//evil.example", "https://evil.example", "/\\evil.example", "\\\\evil.example", "evil.example",
        "/a\r\nSet-Cookie: x=y", "/\t/evil.example", "javascript:alert(1)", "/#x", "", "/" + "a" * 2000,
    ],
)  # fmt: skip
def test_a_login_leads_nowhere_else(cat: Shadowcat, target: str) -> None:
    answer = Browser(cat).ask("GET", without(LOGIN, route="/mcp", return_to=target))
    assert answer.status == 400
    assert answer.headers["Location"] is None


def test_a_cookie_counts_for_pages_of_this_origin_only(cat: Shadowcat) -> None:
    browser = Browser(cat)
    assert browser.log_in().status == 200
    passing: list[dict[str, str]] = [
        {"Sec_Fetch_Site": "same-origin"},
        {"Sec_Fetch_Site": "", "Origin": PUBLIC},
        {"Sec_Fetch_Site": "same-origin", "Origin": PUBLIC},
    ]
    for fields in passing:
        assert browser.post(PING, **fields).status == 200, fields
    refused: list[dict[str, str]] = [
        {"Sec_Fetch_Site": ""},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "none"},
        {"Sec_Fetch_Site": "", "Origin": "http://localhost"},
    ]
    for fields in refused:
        assert browser.post(PING, **fields).status == 401, fields
        assert browser.ask("DELETE", "/mcp", **fields).status == 401, fields
    assert browser.post(PING, Origin="https://evil.example").status == 403
    # Who presents a token is not asked for a cookie, and a bad token is not made good by one.
    assert browser.post(PING, Authorization="Bearer x.y.z").status == 401
    assert browser.ask("POST", LOGOUT, Sec_Fetch_Site="cross-site").status == 403
    assert browser.ask("GET", LOGOUT).status == 405
    assert browser.post(PING).status == 200


def test_a_cookie_that_was_never_given_is_refused_without_a_question(
    cat: Shadowcat, oauth: MockOAuthServer
) -> None:
    browser = Browser(cat)
    assert browser.log_in().status == 200
    (name,) = [each for each in browser.cookies if not each.endswith("browser")]
    value = browser.cookies[name]
    for wrong in ("", "x", value[:-2] + "AA", "A" * len(value), value + "A", "_" * len(value)):
        browser.cookies[name] = wrong
        assert browser.post(PING).status == 401, wrong
    browser.cookies = {name: f"{value}; {name}={value}"}
    assert browser.post(PING).status == 401


def test_two_users_are_two_principals(cat: Shadowcat, oauth: MockOAuthServer, echo: EchoUpstream) -> None:
    ann, bob = Browser(cat, "ann"), Browser(cat, "bob")
    assert (ann.log_in().status, bob.log_in().status) == (200, 200)
    assert set(ann.cookies) == set(bob.cookies)
    assert all(ann.cookies[name] != bob.cookies[name] for name in ann.cookies)
    assert ann.ask("POST", LOGOUT).status == 200
    assert bob.post(PING).status == 200
    assert {entry.target.partition("?")[0] for entry in oauth.capture.requests} >= {"/authorize", "/token"}


def test_a_session_belongs_to_who_has_logged_in(oauth: MockOAuthServer) -> None:
    opening = {
        "jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": {"protocolVersion": "2025-11-25", "capabilities": {},
                   "clientInfo": {"name": "t", "version": "1"}},
    }  # fmt: skip
    listing = json.dumps({"jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {}}).encode()
    with MockMcpServer() as upstream, Shadowcat(config(oauth, upstream)) as cat:
        ann, bob = Browser(cat, "ann"), Browser(cat, "bob")
        assert (ann.log_in().status, bob.log_in().status) == (200, 200)
        opened = ann.post(json.dumps(opening).encode())
        assert opened.status == 200, opened
        session = opened.headers["Mcp-Session-Id"]
        assert ann.post(listing, Mcp_Session_Id=session).status == 200
        assert bob.post(listing, Mcp_Session_Id=session).status == 404
        assert ann.ask("DELETE", "/mcp", Mcp_Session_Id=session, Sec_Fetch_Site="cross-site").status == 401
        assert ann.post(listing, Mcp_Session_Id=session).status == 200
        assert ann.ask("DELETE", "/mcp", Mcp_Session_Id=session).status in (200, 204)
        assert ann.post(listing, Mcp_Session_Id=session).status == 404
        # Neither the cookie nor a token has gone any further.
        got = [
            entry.header(name) for entry in upstream.capture.requests for name in ("cookie", "authorization")
        ]
        assert got
        assert not any(got)


def test_another_login_takes_the_place_of_the_first(cat: Shadowcat) -> None:
    browser = Browser(cat)
    browser.log_in()
    first = dict(browser.cookies)
    browser.log_in()
    assert browser.cookies != first
    assert browser.post(PING).status == 200
    browser.cookies = first
    assert browser.post(PING).status == 401


def test_control_is_killed_at_every_step(cat: Shadowcat) -> None:
    browser = Browser(cat)
    url = browser.begin(return_to="/here")
    kill_control(cat)
    back = browser.approve(url)
    kill_control(cat)
    answer = browser.come_back(back)
    assert (answer.status, answer.location) == (302, "/here")
    kill_control(cat)
    for _ in range(6):
        assert browser.post(PING).status == 200
    assert browser.come_back(back).status == 400
    held = dict(browser.cookies)
    assert browser.ask("POST", LOGOUT).status == 200
    kill_control(cat)
    browser.cookies = held
    assert browser.post(PING).status == 401


def test_tokens_are_renewed_under_load(echo: EchoUpstream) -> None:
    options = OAuthOptions(algorithms=("ES256",), control=True, clients=(CLIENT,), access_lifetime=15)
    with MockOAuthServer(options) as oauth, Shadowcat(config(oauth, echo)) as cat:
        browsers = [Browser(cat, f"user-{number}") for number in range(4)]
        assert [browser.log_in().status for browser in browsers] == [200] * 4
        answers: list[list[int]] = [[] for _ in browsers]
        stop = threading.Event()

        def use(browser: Browser, statuses: list[int]) -> None:
            while not stop.wait(0.02):
                statuses.append(browser.post(PING).status)

        threads = [threading.Thread(target=use, args=each) for each in zip(browsers, answers, strict=True)]
        for thread in threads:
            thread.start()
        renewed = lambda: oauth.core.issued["refresh_token"]  # noqa: E731
        try:
            eventually(lambda: renewed() >= 4, 60, "each token to be renewed")
            # A token that control was given and has not kept yet would be lost with it. And it must not be
            # the one to tell a worker of the new tokens: so many requests have met either worker since.
            enough = [len(statuses) + 25 for statuses in answers]
            eventually(
                lambda: all(len(each) >= least for each, least in zip(answers, enough, strict=True)),
                what="requests with the new tokens",
            )
            kill_control(cat)
            count = renewed()
            eventually(lambda: renewed() >= count + 4, 60, "and once more")
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        statuses = Counter(status for each in answers for status in each)
        assert set(statuses) == {200}, statuses


def test_what_the_issuer_does_not_renew_is_over(echo: EchoUpstream) -> None:
    options = OAuthOptions(algorithms=("ES256",), control=True, clients=(CLIENT,), access_lifetime=8)
    with MockOAuthServer(options) as oauth, Shadowcat(config(oauth, echo)) as cat:
        browser = Browser(cat)
        assert browser.log_in().status == 200
        assert browser.post(PING).status == 200
        oauth.lies.add(Lie(endpoint="token", grant="refresh_token", error="invalid_grant"))
        eventually(lambda: browser.post(PING).status == 401, what="the end of the login")
        count = sum(entry.target == "/token" for entry in oauth.capture.requests)
        assert count == 2
        oauth.lies.clear()
        assert browser.post(PING).status == 401


def test_an_issuer_that_cannot_be_reached_is_no_verdict(echo: EchoUpstream) -> None:
    options = OAuthOptions(algorithms=("ES256",), control=True, clients=(CLIENT,), access_lifetime=8)
    with MockOAuthServer(options) as oauth, Shadowcat(config(oauth, echo)) as cat:
        browser = Browser(cat)
        assert browser.log_in().status == 200
        oauth.lies.add(Lie(endpoint="token", error="server_error", status=500))
        eventually(lambda: browser.post(PING).status == 503, what="the end of the token")
        oauth.lies.clear()
        eventually(lambda: browser.post(PING).status == 200, what="another token")


def test_a_client_without_a_secret_and_a_short_login(oauth: MockOAuthServer, echo: EchoUpstream) -> None:
    section = {"client_id": "open", "client_secret": None, "lifetime": "6s", "scopes": ["mcp:read", "openid"]}
    text = config(oauth, echo)
    login = text["routes"][0]["auth"]["login"]
    login.update(section)
    del login["client_secret"]
    with Shadowcat(text | {"workers": 1}) as cat:
        browser = Browser(cat)
        url = browser.begin()
        assert parameters(url)["scope"] == "mcp:read openid"
        assert browser.come_back(browser.approve(url)).status == 200
        assert "Max-Age=6" in browser.set[-1]
        assert browser.post(PING).status == 200
        eventually(lambda: browser.post(PING).status == 401, what="the end of the login")


def test_without_login_there_are_no_such_pages(oauth: MockOAuthServer, echo: EchoUpstream) -> None:
    text = config(oauth, echo)
    del text["routes"][0]["auth"]["login"]
    with Shadowcat(text | {"workers": 1}) as cat:
        browser = Browser(cat)
        for page in (LOGIN, "/.shadowcat/callback", LOGOUT):
            assert browser.ask("GET", page).status == 404
        browser.cookies["__Host-shadowcat-browser"] = "x"
        assert browser.post(PING).status == 401


def test_nothing_of_it_is_in_any_log(oauth: MockOAuthServer, echo: EchoUpstream) -> None:
    with Shadowcat(config(oauth, echo) | {"access_log": {"path": "-"}, "workers": 1}) as cat:
        browser = Browser(cat)
        url = browser.begin(return_to="/app")
        back = browser.approve(url)
        browser.come_back(back)
        assert browser.post(PING).status == 200
        secrets = [*browser.cookies.values(), parameters(url)["state"], parameters(back)["code"], SECRET]
        secrets += list(oauth.core.store.refreshes)
        assert len(secrets) >= 6
        _, metrics = cat.admin("/metrics")
        _, shown = cat.admin("/api/status")
        cat.stop()
        stdout = cat._popen.stdout
        assert stdout is not None
        texts = [cat.stderr, metrics.decode(), shown.decode(), stdout.read().decode()]
        assert "/.shadowcat/callback" in texts[-1]
        for secret in secrets:
            assert all(secret not in text for text in texts), secret
