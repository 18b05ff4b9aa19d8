"""Whatever happens, nobody sees a token, a secret, a cookie or a session id to whom it was not given."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import pytest

from shadowcat.testing.mock_mcp.faults import Fault
from shadowcat.testing.mock_mcp.server import MockMcpServer
from shadowcat.testing.mock_oauth import records
from shadowcat.testing.mock_oauth.lies import Lie
from shadowcat.testing.mock_oauth.options import OAuthOptions
from shadowcat.testing.mock_oauth.server import MockOAuthServer
from shadowcat.testing.raw_client import RawClient
from tests.e2e.admin import pages
from tests.e2e.browser import CALLBACK, LOGOUT, PUBLIC, Browser, parameters
from tests.e2e.harness import Shadowcat, eventually
from tests.e2e.secrecy import Records, Secrets
from tests.e2e.traffic import LEGACY_VERSION, Message, initialize, legacy, tool
from tests.e2e.upstreams import Upstream, header

COMMAND: Final = Path(sys.executable).with_name("shadowcat")
CLIENT_SECRETS: Final = {"proxy": "the proxy's own / secret", "login": "the secret of the login"}
API_KEY: Final = "a-key-that-the-upstream-has-issued"
SHARED: Final = "a secret that the upstream knows, too: 64 bytes, as HS512 wants."
WRONG_ADMIN: Final = "what-somebody-tried-at-the-admin-listener"
ARGUMENT: Final = "an-argument-that-is-for-the-upstream-alone"
CLIENTS: Final = (
    records.Client(
        client_id="proxy",
        client_secret=CLIENT_SECRETS["proxy"],
        redirect_uris=(CALLBACK,),
        grant_types=("client_credentials", records.TOKEN_EXCHANGE, "authorization_code", "refresh_token"),
    ),
    records.Client(
        client_id="login",
        client_secret=CLIENT_SECRETS["login"],
        redirect_uris=(CALLBACK,),
        grant_types=("authorization_code", "refresh_token"),
    ),
)
PROTECTED: Final = ("/mcp", "/exchange", "/assert", "/own", "/introspected", "/consent")
RULES: Final = [
    {"name": "broken", "allow": False, "tools": ["add"], "when": "claims.nothing.there == arguments.text"},
    {"name": "never", "allow": False, "tools": ["big"]},
    {"name": "more", "allow": True, "tools": ["slow"], "scopes": ["mcp:admin"]},
    {"name": "rest", "allow": True, "when": "size(subject) > 0 || arguments.text == 'x'"},
]


class Stage:
    """The processes, what they were shown, and what they have written."""

    def __init__(self, folder: Path, form: str, stack: ExitStack) -> None:
        self.secrets = Secrets()
        self.records = Records()
        """Where no secret at all may be."""
        self.folder = folder
        options = OAuthOptions(algorithms=("ES256",), control=True, clients=CLIENTS, access_lifetime=60)
        self.oauth = stack.enter_context(MockOAuthServer(options))
        self.one = stack.enter_context(Upstream("one"))
        self.far = stack.enter_context(MockMcpServer())
        self.resource = stack.enter_context(MockMcpServer())
        self.environ = {"KEY": API_KEY, "SHARED": SHARED} | {
            f"{name.upper()}_SECRET": secret for name, secret in CLIENT_SECRETS.items()
        }
        self.settings = self._settings(form)
        self.cat = stack.enter_context(Shadowcat(self.settings, environ=self.environ))
        for name, secret in CLIENT_SECRETS.items():
            self.secrets.add_client(name, secret)
        for secret in (API_KEY, SHARED, WRONG_ADMIN, self.cat.admin_headers["Authorization"][7:]):
            self.secrets.add(secret[:20], secret)
        self.secrets.add("an argument", ARGUMENT)

    def _settings(self, form: str) -> dict[str, Any]:
        issuer = self.oauth.issuer
        proxy = {"issuer": issuer, "client_id": "proxy", "client_secret": "${PROXY_SECRET}"}
        asserted = {"secret": "${SHARED}", "algorithm": "HS256", "issuer": PUBLIC, "audience": "far"}
        endpoint = {
            "url": f"{issuer}/introspect", "client_id": "proxy", "client_secret": "${PROXY_SECRET}",
        }  # fmt: skip

        def route(
            path: str, url: str, credential: dict[str, Any] | None = None, **more: Any
        ) -> dict[str, Any]:
            entry: dict[str, Any] = {"name": path[1:], "url": url}
            if credential is not None:
                entry["credential"] = credential
            auth = {"issuers": [{"issuer": issuer}], "scopes": ["mcp:read"]}
            return {"path": path, "upstreams": [entry], "auth": auth} | more

        far = self.far.url
        login = {"issuer": issuer, "client_id": "login", "client_secret": "${LOGIN_SECRET}"}
        introspecting = {"issuers": [{"issuer": issuer, "introspection": endpoint}]}
        passing = {"mode": "passthrough", "issuers": [{"issuer": issuer}], "resource": f"{PUBLIC}/pass"}
        own = {"client_credentials": proxy, "headers": {"X-Api-Key": "${KEY}"}}
        return {
            "public_url": PUBLIC,
            "allowed_hosts": ["127.0.0.1"],
            "log": {"level": "debug", "format": form},
            "access_log": {"path": str(self.folder / "access.log"), "format": form},
            "audit": {"path": str(self.folder / "audit.jsonl")},
            "routes": [
                route("/mcp", self.one.url, policy={"rules": RULES}, breaker={}),
                route("/exchange", far, {"token_exchange": proxy}),
                route("/assert", far, {"assertion": asserted}),
                route("/own", far, own),
                route("/introspected", far, auth=introspecting),
                route("/consent", far, {"authorization_code": proxy}),
                route("/login", far, auth={"issuers": [{"issuer": issuer}], "login": login}),
                route("/pass", self.resource.url, auth=passing),
            ],
        }

    # Asking

    def token(self, path: str = "/mcp", name: str = "alice", **how: Any) -> str:
        claims = {"aud": f"{PUBLIC}{path}", "scope": "mcp:read", "sub": name} | how.pop("claims", {})
        return self.secrets.add(f"token for {path} {how}", self.oauth.mint(claims, **how))

    def ask(
        self, path: str, message: Message, token: str | None = None, method: str = "POST", **fields: str
    ) -> http.client.HTTPResponse:
        """One request; its answer is a record, too, whose session id is the client's to see."""
        headers = message.headers | {name.replace("_", "-"): value for name, value in fields.items()}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        connection = http.client.HTTPConnection(*self.cat.address, timeout=30)
        try:
            connection.request(method, path, message.body if method == "POST" else None, headers)
            answer = connection.getresponse()
            text = "" if method == "GET" and answer.status == 200 else answer.read().decode()
        finally:
            connection.close()
        shown = [(name, value) for name, value in answer.getheaders() if name.lower() != "mcp-session-id"]
        self.records.add("answers", json.dumps([answer.status, shown, text.replace(ARGUMENT, "")]))
        return answer

    def raw(self, data: bytes) -> None:
        """Bytes that are no good request."""
        with RawClient(self.cat.address[1]) as client:
            client.send(data)
            self.records.add("answers", client.read_response().body)

    def operate(self, *arguments: str) -> str:
        """A command of an operator's."""
        done = subprocess.run(
            [COMMAND, *arguments, "--admin", self.cat.ready["admin"]],
            capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done
        return done.stdout + done.stderr

    # What is left behind

    def look(self) -> None:
        """Read every page and every command, and what is known of the processes."""
        handles = json.loads(self.cat.admin("/api/sessions")[1])["sessions"]
        handle = handles[0]["handle"] if handles else "0-0000000000000000"
        paths = [path.replace("{handle}", handle) for path in sorted(pages())]
        for path in paths:
            _, body = self.cat.admin(path)
            self.records.add(f"page {path}", body)
        for command in (("status",), ("sessions", "list"), ("upstream", "list"), ("reload",)):
            self.records.add(f"command {command[0]}", self.operate(*command))
        for child in self.cat.children().values():
            self.records.add("command lines", " ".join(child.cmdline()))
        self.records.add("upstream one", self.one.control.requests())

    def end(self) -> None:
        """Stop everything and read what it has written."""
        process = self.cat._popen
        assert self.cat.stop() == 0
        assert process.stdout is not None
        self.records.add("standard output", process.stdout.read())
        self.records.add("standard error", self.cat.stderr)
        for name in ("access.log", "audit.jsonl"):
            self.records.add(name, (self.folder / name).read_text())
        # What the issuer has given and got: codes, verifiers, states, tokens to refresh.
        self.secrets.add_all("code", self.oauth.core.store.codes)
        self.secrets.add_all("refresh token", self.oauth.core.store.refreshes)
        for entry in self.oauth.capture.requests:
            sent = entry.body.decode() if entry.method == "POST" else urlsplit(entry.target).query
            for name, value in parse_qsl(sent):
                if name in ("code_verifier", "state", "nonce"):
                    self.secrets.add(name, value)


def captured(server: MockMcpServer) -> list[dict[str, Any]]:
    return [entry.as_json() for entry in server.capture.requests]


def calls(session: str | None = None, name: str = "echo") -> Message:
    return tool(name, {"text": ARGUMENT}, 7, session)


# What happens


def good_and_bad_tokens(stage: Stage) -> None:
    for path in PROTECTED[:-1]:
        for name in ("alice", "bob"):
            token = stage.token(path, name)
            for _ in range(2):  # by a head that is new, and by one that is known
                assert stage.ask(path, calls(), token).status == 200, path
        for forgery in ("expired", "wrong_kid", "wrong_signature", "wrong_audience", "alg_none", "oversized"):
            bad = stage.token(path, forgery=forgery)
            assert stage.ask(path, calls(), bad).status in (401, 431), forgery
        opaque = stage.secrets.add("opaque", f"opaque-rubbish-for{path.replace('/', '-')}")
        assert stage.ask(path, calls(), opaque).status == 401
    good = stage.token()
    assert stage.ask(f"/mcp?access_token={good}", calls()).status == 400
    assert stage.ask(f"/mcp?access_token={good}", calls(), good).status == 400
    assert stage.ask("/mcp", calls(), None, Authorization=f"Basic {good}").status in (400, 401)
    assert stage.ask("/mcp", calls(), None, Authorization=f"Bearer {good} {good}").status == 400
    assert stage.ask("/mcp", calls(), stage.token(claims={"scope": "mcp:write"})).status == 403
    assert stage.ask("/nowhere", calls(), good).status == 404
    assert stage.ask("/mcp", calls(), good, Host="evil.example").status == 421
    assert stage.ask("/mcp", calls(), good, Origin="https://evil.example").status == 403
    assert stage.ask("/mcp", Message(calls().headers, b"{"), good).status == 400
    header = f"Authorization: Bearer {good}"
    stage.raw(f"POST /mcp HTTP/1.1\r\nHost: x\r\n{header}\r\n{header}\r\nContent-Length: 0\r\n\r\n".encode())
    stage.raw(f"POST /mcp HTTP/1.1\r\nHost: x\r\nAuthorization : Bearer {good}\r\n\r\n".encode())
    stage.raw(f"POST /mcp HTTP/9.1\r\nHost: x\r\n{header}\r\n\r\n".encode())
    stage.raw(f"GET /{good}\x00 HTTP/1.1\r\nHost: x\r\n\r\n".encode())


def rules_that_refuse(stage: Stage) -> None:
    token = stage.token()
    for name in ("add", "big", "slow"):
        assert stage.ask("/mcp", calls(name=name), token).status == 403, name


def sessions_and_their_recovery(stage: Stage) -> None:
    for path in ("/mcp", "/exchange"):
        alice, bob = stage.token(path), stage.token(path, "bob")
        opened = stage.ask(path, initialize(), alice)
        assert opened.status == 200
        session = stage.secrets.add(f"session of {path}", opened.headers["Mcp-Session-Id"])
        stage.ask(path, legacy("notifications/initialized", {}, session, None), alice)
        assert stage.ask(path, calls(session), alice).status == 200
        assert stage.ask(path, calls(session), bob).status == 404
        assert stage.ask(path, calls(session), None).status == 401
        fields = {"Accept": "text/event-stream", "MCP_Protocol_Version": LEGACY_VERSION}
        empty = Message({"Mcp-Session-Id": session}, b"")
        assert stage.ask(path, empty, alice, "GET", **fields).status == 200
        stage.look()
        if path == "/mcp":
            stage.one.kill()
            stage.one.start()
            assert stage.ask(path, calls(session), alice).status == 200
            stage.one.control.add_fault("status", times=1, status=401, headers={"WWW-Authenticate": "Bearer"})
            assert stage.ask(path, calls(session), alice).status == 502
            stage.one.control.add_fault("reset", times=1)
            assert stage.ask(path, calls(session), alice).status == 502
        assert stage.ask(path, empty, alice, "DELETE", **fields).status == 200


def credentials_that_cannot_be_had(stage: Stage) -> None:
    stage.oauth.lies.add(Lie(endpoint="token", error="access_denied"))
    assert stage.ask("/exchange", calls(), stage.token("/exchange", "eve")).status == 403
    stage.oauth.lies.clear()
    stage.oauth.faults.add(Fault(fault="status", status=500, path="/token"))
    assert stage.ask("/exchange", calls(), stage.token("/exchange", "mallory")).status == 503
    stage.oauth.faults.clear()
    stage.oauth.faults.add(Fault(fault="status", status=500, path="/introspect"))
    assert stage.ask("/introspected", calls(), stage.token("/introspected", "eve")).status == 503
    stage.oauth.faults.clear()


def an_operators_consent(stage: Stage) -> None:
    assert stage.ask("/consent", calls(), stage.token("/consent")).status == 503
    url = json.loads(stage.operate("upstream", "login", "consent", "--json"))["url"]
    stage.secrets.add("state", parameters(url)["state"])
    operator = Browser(stage.cat)
    back = operator.approve(url)
    answer = operator.come_back(back)
    assert answer.status == 200
    stage.records.add("answers", answer.body)
    assert operator.come_back(back).status == 400
    eventually(lambda: stage.ask("/consent", calls(), stage.token("/consent")).status == 200)


def a_browsers_login(stage: Stage) -> None:
    browser = Browser(stage.cat, "ann")
    url = browser.begin(route="/login")
    back = browser.approve(url)
    stage.secrets.add_all("cookie", browser.cookies.values())
    other = Browser(stage.cat)
    assert other.come_back(back).status == 400
    assert browser.log_in(route="/login").status in (200, 302)
    stage.secrets.add_all("cookie", browser.cookies.values())
    message = calls()
    fields = {name.replace("-", "_"): value for name, value in message.headers.items() if name != "Accept"}
    for _ in range(2):
        assert browser.post(message.body, "/login", **fields).status == 200
    cross = {"Sec_Fetch_Site": "cross-site", "Referer": back}
    assert browser.post(message.body, "/login", **fields | cross).status == 401
    browser.cookies |= {name: value[:-4] + "AAAA" for name, value in browser.cookies.items()}
    assert browser.post(message.body, "/login", **fields).status == 401
    stage.secrets.add_all("cookie", browser.cookies.values())
    assert browser.log_in(route="/login").status in (200, 302)
    stage.secrets.add_all("cookie", browser.cookies.values())
    assert browser.ask("POST", LOGOUT).status == 200


def changes_and_deaths(stage: Stage) -> None:
    """Control dies; files that are no good, with secrets where none belong; guesses at the admin token."""
    control = stage.cat.children()["control"]
    control.kill()
    eventually(lambda: stage.cat.children().get("control", control).pid != control.pid, what="its successor")
    eventually(lambda: stage.cat.admin("/readyz")[0] == 200, what="its listener")
    mcp = stage.settings["routes"][0]
    entry = mcp["upstreams"][0]
    wrong: list[dict[str, Any] | str] = [
        stage.settings | {"admin_token": [API_KEY]},
        stage.settings | {"admin_token": f"{API_KEY} and more"},
        stage.settings | {"routes": [mcp | {"upstreams": [entry | {"credential": "Bearer ${KEY}"}]}]},
        json.dumps(stage.settings)[:-1] + f', "admin_token": "{API_KEY}',
    ]
    for text in wrong:
        before = refused(stage)
        stage.cat.write(text)
        stage.cat.signal(signal.SIGHUP)
        eventually(lambda before=before: refused(stage) > before, what="a refusal of the file")
    stage.cat.write(stage.settings)
    host, _, port = stage.cat.ready["admin"].rpartition(":")
    for fields in ({"Authorization": f"Bearer {WRONG_ADMIN}"}, {"Authorization": WRONG_ADMIN}):
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        connection.request("GET", f"/api/status?token={WRONG_ADMIN}", headers=fields)
        answer = connection.getresponse()
        assert answer.status == 401
        stage.records.add("answers", answer.read())
        connection.close()


def refused(stage: Stage) -> int:
    """How many configurations were."""
    return (stage.folder / "audit.jsonl").read_text().count('"rejected"')


def what_a_resource_gets(stage: Stage) -> None:
    """A token of a route that passes tokens on is at the upstream of that route, and nowhere else."""
    token = stage.token("/pass")
    assert stage.ask("/pass", calls(), token).status == 200
    (entry,) = captured(stage.resource)
    assert header(entry, "authorization") == f"Bearer {token}"


STEPS: Final[tuple[Callable[[Stage], None], ...]] = (
    good_and_bad_tokens, rules_that_refuse, sessions_and_their_recovery, credentials_that_cannot_be_had,
    an_operators_consent, a_browsers_login, changes_and_deaths, what_a_resource_gets,
)  # fmt: skip


@pytest.fixture(params=["json", "text"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(tmp_path, request.param, stack)


def test_no_secret_is_anywhere_but_where_it_belongs(stage: Stage) -> None:
    for step in STEPS:
        step(stage)
    stage.look()
    stage.end()
    # The search would find something: there are many secrets, and the records are about their owners.
    assert len(stage.secrets) > 150
    for source, said in {
        "standard error": "control is ready", "access.log": "tools/call", "audit.jsonl": " alice",
        "page /metrics": 'reason="token_invalid"', "page /api/status": "/exchange",
        "page /api/sessions": " alice", "command status": "consent", "answers": "resource_metadata",
        "upstream one": "tools/call",
    }.items():  # fmt: skip
        assert said in stage.records.text(source), source
    assert {f"page {path}" for path in pages() if "{" not in path} <= set(stage.records)
    # What upstreams are sent is theirs: arguments, and what the proxy presents to them.
    theirs = captured(stage.far)
    presented = {header(entry, "authorization") or "" for entry in theirs}
    assert len(presented) > 5
    assert not [entry for entry in theirs if header(entry, "cookie")]
    argument = stage.secrets.found(ARGUMENT)
    for entry in theirs:
        allowed = argument | stage.secrets.found(API_KEY)
        assert stage.secrets.found(json.dumps(entry)) <= allowed, entry
    assert stage.secrets.found(stage.records.text("upstream one")) == argument
    stage.secrets.add_all("presented to an upstream", (text.removeprefix("Bearer ") for text in presented))
    found = stage.records.search(stage.secrets)
    assert found.pop("upstream one") == argument
    assert found == {}
