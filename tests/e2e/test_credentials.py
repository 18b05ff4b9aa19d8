"""The real supervisor, a real authorization server, and upstreams that write down what they are sent."""

from __future__ import annotations

import http.client
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs

import jwt
import pytest

from shadowcat.testing.mock_mcp.faults import Fault
from shadowcat.testing.mock_oauth import records
from shadowcat.testing.mock_oauth.lies import Lie
from shadowcat.testing.mock_oauth.options import OAuthOptions
from shadowcat.testing.mock_oauth.server import MockOAuthServer
from tests.e2e.harness import Shadowcat, eventually

AUDIENCE = "https://mcp.example/mcp"
UPSTREAM = "https://up.example/mcp"
SECRET = "a secret of the proxy's own"
PING = b'{"jsonrpc":"2.0","id":7,"method":"ping","params":{}}'
BY_FORM = records.Client(
    client_id="by-form",
    client_secret=SECRET,
    auth_method="client_secret_post",
    grant_types=("client_credentials", records.TOKEN_EXCHANGE),
)
PROXY = records.Client(
    client_id="proxy",
    client_secret=SECRET,
    grant_types=("client_credentials", records.TOKEN_EXCHANGE),
)
SHARED = "a secret that the upstream knows, too: 64 bytes, as HS512 wants."


RENEWED_EARLY = "import shadowcat.control.oauth.credentials as c; c._SHARE, c._LONGEST_PAUSE = 0.5, 1.0"
"""Not at four fifths of its life: what is left of it then would be 2 s of a token that is good for 14."""


class Upstream:
    """Takes requests with good tokens, and answers 401 to all others. Remembers every head."""

    def __init__(self, accepts: Callable[[str], bool] = lambda token: True) -> None:
        self.tokens: Counter[str] = Counter()
        self.heads: list[str] = []
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"] or 0))
                upstream.heads.append(str(self.headers))
                token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
                upstream.tokens[token] += 1
                good = bool(token) and accepts(token)
                self.send_response(200 if good else 401)
                if not good:
                    self.send_header("WWW-Authenticate", "Bearer")
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST  # noqa: N815  what http.server calls it

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False
            request_queue_size = 256

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/mcp"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Upstream:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def serving(**options: Any) -> Iterator[MockOAuthServer]:
    settings = {"algorithms": ("ES256",), "control": True, "clients": (PROXY, BY_FORM)} | options
    with MockOAuthServer(OAuthOptions(**settings)) as server:
        yield server


@pytest.fixture
def oauth() -> Iterator[MockOAuthServer]:
    with serving() as server:
        yield server


def client(oauth: MockOAuthServer, **more: Any) -> dict[str, Any]:
    return {"issuer": oauth.issuer, "client_id": "proxy", "client_secret": "${SECRET}", **more}


def config(
    upstream: Upstream, credential: dict[str, Any], oauth: MockOAuthServer | None = None
) -> dict[str, Any]:
    route: dict[str, Any] = {"upstreams": [{"name": "up", "url": upstream.url, "credential": credential}]}
    if oauth is not None:
        trusted = {"issuer": oauth.issuer, "audience": AUDIENCE}
        route["auth"] = {"issuers": [trusted], "scopes": ["mcp:read"]}
    return {"routes": [{"path": "/mcp", **route}]}


def started(settings: dict[str, Any], **more: Any) -> Shadowcat:
    return Shadowcat(settings, environ={"SECRET": SECRET, "SHARED": SHARED}, **more)


def mint(oauth: MockOAuthServer, **claims: Any) -> str:
    return oauth.mint({"aud": AUDIENCE, "scope": "mcp:read", **claims})


def ask(cat: Shadowcat, token: str | None = None) -> tuple[int, bytes]:
    headers = {"Content-Type": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    connection = http.client.HTTPConnection(*cat.address, timeout=30)
    try:
        connection.request("POST", "/mcp", PING, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def asked_for_tokens(oauth: MockOAuthServer) -> list[dict[str, list[str]]]:
    """The forms that the token endpoint got."""
    entries = [entry for entry in list(oauth.capture.requests) if entry.target == "/token"]
    return [parse_qs(entry.body.decode()) for entry in entries]


def said(token: str) -> dict[str, Any]:
    found: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return found


class Load:
    """Requests from some threads, until it is over; every status is counted."""

    def __init__(self, cat: Shadowcat, token: str | None = None) -> None:
        self.statuses: Counter[int] = Counter()
        self._over = threading.Event()

        def run() -> None:
            while not self._over.wait(0.01):
                self.statuses[ask(cat, token)[0]] += 1

        self._threads = [threading.Thread(target=run) for _ in range(3)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def test_the_proxys_own_token_is_at_the_upstream(oauth: MockOAuthServer) -> None:
    credential = {"client_credentials": client(oauth, scopes=["mcp:write"], resource=UPSTREAM)}
    with Upstream() as upstream, started(config(upstream, credential, oauth)) as cat:
        token = mint(oauth)
        # The first one need not wait for anybody to fetch anything: it waits by itself.
        assert [ask(cat, token)[0] for _ in range(8)] == [200] * 8
        (sent,) = upstream.tokens
        claims = said(sent)
        assert (claims["sub"], claims["aud"], claims["scope"]) == ("proxy", UPSTREAM, "mcp:write")
        assert len(asked_for_tokens(oauth)) == 1
        everything = "".join(upstream.heads) + cat.stderr + json.dumps(cat.status())
        everything += cat.admin("/metrics")[1].decode() + cat.admin("/api/upstreams")[1].decode()
        assert token not in everything
        assert SECRET not in everything
        assert sent not in cat.stderr


@pytest.mark.parametrize("kind", ["client_credentials", "token_exchange"])
def test_it_is_asked_for_as_the_configuration_says(oauth: MockOAuthServer, kind: str) -> None:
    section = {
        "token_url": f"{oauth.issuer}/token", "client_id": "by-form", "client_secret": "${SECRET}",
        "auth_method": "post", "audience": "somebody", "scopes": ["mcp:read"],
    }  # fmt: skip
    if kind == "token_exchange":
        section["subject_token_type"] = "jwt"
    with Upstream() as upstream, started(config(upstream, {kind: section}, oauth)) as cat:
        assert ask(cat, mint(oauth))[0] == 200
        (form,) = asked_for_tokens(oauth)
        (entry,) = [entry for entry in oauth.capture.requests if entry.target == "/token"]
    assert entry.header("authorization") is None
    assert (form["client_id"], form["client_secret"]) == (["by-form"], [SECRET])
    assert (form["audience"], form["scope"]) == (["somebody"], ["mcp:read"])
    if kind == "token_exchange":
        assert form["subject_token_type"] == ["urn:ietf:params:oauth:token-type:jwt"]


def test_it_is_renewed_under_load() -> None:
    with serving(access_lifetime=15) as oauth:
        upstream = Upstream(lambda token: oauth.core.examine(token) is not None)
        settings = config(upstream, {"client_credentials": client(oauth)})
        with upstream, started(settings, prelude=RENEWED_EARLY) as cat:
            with Load(cat) as load:
                eventually(lambda: len(upstream.tokens) >= 3, timeout=60, what="three tokens")
            assert set(load.statuses) == {200}


def test_an_authorization_server_that_is_away() -> None:
    with serving(access_lifetime=15) as oauth, Upstream() as upstream:
        settings = config(upstream, {"client_credentials": client(oauth)})
        with started(settings, prelude=RENEWED_EARLY) as cat:
            assert ask(cat)[0] == 200
            oauth.faults.add(Fault(fault="status", status=500, path="/token"))
            eventually(lambda: "no new credential for up of /mcp" in cat.stderr, what="a failed fetch")
            # What is known is good until it is over; then nothing is sent at all.
            assert ask(cat)[0] == 200
            eventually(lambda: ask(cat)[0] == 503, timeout=60, what="the end of the token")
            arrived = upstream.tokens.total()
            assert ask(cat)[0] == 503
            assert upstream.tokens.total() == arrived
            oauth.faults.clear()
            eventually(lambda: ask(cat)[0] == 200, timeout=60, what="a new token")
            assert "" not in upstream.tokens


def test_control_may_die(oauth: MockOAuthServer) -> None:
    with Upstream() as upstream:
        settings = config(upstream, {"client_credentials": client(oauth)})
        with started(settings, timing={"backoff_max": 0.5}) as cat:
            assert ask(cat)[0] == 200
            oauth.faults.add(Fault(fault="status", status=500, path="/token"))
            with Load(cat) as load:
                control = cat.children()["control"]
                control.kill()
                eventually(lambda: cat.children().get("control", control).pid != control.pid)
                eventually(lambda: cat.admin("/readyz")[0] == 200, what="its successor")
                before = load.statuses.total()
                eventually(lambda: load.statuses.total() > before + 20, what="more answers")
            assert set(load.statuses) == {200}
            # Workers that are new find it, too.
            worker = cat.children()["worker 0"]
            worker.kill()
            eventually(lambda: cat.children().get("worker 0", worker).pid != worker.pid)
            assert [ask(cat)[0] for _ in range(8)] == [200] * 8
            assert len(upstream.tokens) == 1
            assert len(asked_for_tokens(oauth)) == 1


@pytest.mark.parametrize("kind", ["client_credentials", "token_exchange"])
def test_a_token_that_was_withdrawn_is_fetched_anew(oauth: MockOAuthServer, kind: str) -> None:
    with Upstream(lambda token: oauth.core.examine(token) is not None) as upstream:
        modules = ("control.oauth.credentials", "control.oauth.exchange", "proxy.upstreams.credentialed")
        prelude = "; ".join(f"import shadowcat.{name} as c; c.EARLY = 0.5" for name in modules)
        settings = config(upstream, {kind: client(oauth)}, oauth)
        with started(settings, prelude=prelude) as cat:
            token = mint(oauth)
            assert ask(cat, token)[0] == 200
            for grant in oauth.core.store.grants():
                grant.revoked = True
            assert ask(cat, token)[0] in (200, 502)
            eventually(lambda: ask(cat, token)[0] == 200, what="a token that is accepted")
            assert len(upstream.tokens) == 2


def test_health_checks_have_it_too(oauth: MockOAuthServer) -> None:
    """As long as there is none, nothing is checked, and the upstream does not count as down."""
    with Upstream() as upstream:
        settings = config(upstream, {"client_credentials": client(oauth)})
        settings["routes"][0]["health"] = {"type": "http", "interval": "1h"}
        oauth.faults.add(Fault(fault="status", status=500, path="/token"))
        with started(settings) as cat:
            eventually(lambda: "requests to it are refused" in cat.stderr, what="a failed fetch")
            assert upstream.heads == []
            oauth.faults.clear()
            eventually(lambda: upstream.tokens, timeout=20, what="a check")
            assert "" not in upstream.tokens
            (row,) = json.loads(cat.admin("/api/upstreams")[1])["upstreams"]
            assert row["credential_headers"] == ["Authorization"]
            assert [ask(cat)[0] for _ in range(4)] == [200] * 4


def test_clients_tokens_are_exchanged(oauth: MockOAuthServer) -> None:
    credential = {"token_exchange": client(oauth, resource=UPSTREAM)}
    with Upstream() as upstream, started(config(upstream, credential, oauth)) as cat:
        tokens = {name: mint(oauth, sub=name) for name in ("alice", "bob")}
        for _ in range(6):
            for token in tokens.values():
                assert ask(cat, token)[0] == 200
        claims = [said(token) for token in upstream.tokens]
        assert {(each["sub"], each["aud"]) for each in claims} == {("alice", UPSTREAM), ("bob", UPSTREAM)}
        # Two workers, two clients, and each token was exchanged once.
        forms = asked_for_tokens(oauth)
        assert sorted(form["subject_token"][0] for form in forms) == sorted(tokens.values())
        (kind,) = {form["subject_token_type"][0] for form in forms}
        assert kind == "urn:ietf:params:oauth:token-type:access_token"
        everything = "".join(upstream.heads) + cat.stderr + cat.admin("/metrics")[1].decode()
        assert not any(token in everything for token in tokens.values())


def test_an_exchange_that_is_refused_or_cannot_be_had(oauth: MockOAuthServer) -> None:
    credential = {"token_exchange": client(oauth)}
    with Upstream() as upstream, started(config(upstream, credential, oauth)) as cat:
        oauth.lies.add(Lie(endpoint="token", error="access_denied"))
        status, body = ask(cat, mint(oauth, sub="eve"))
        assert status == 403
        assert b"no token for the upstream" in body
        oauth.lies.clear()
        oauth.lies.add(Lie(endpoint="token", error="invalid_client", status=401))
        assert ask(cat, mint(oauth, sub="alice"))[0] == 503
        oauth.lies.clear()
        assert ask(cat, mint(oauth, sub="alice"))[0] == 200
        assert len(upstream.tokens) == 1


def test_an_assertion_names_the_client(oauth: MockOAuthServer) -> None:
    credential = {
        "assertion": {
            "secret": "${SHARED}", "algorithm": "HS256", "issuer": "https://mcp.example", "audience": "up",
        }
    }  # fmt: skip
    with Upstream() as upstream, started(config(upstream, credential, oauth)) as cat:
        for name in ("alice", "bob"):
            assert ask(cat, mint(oauth, sub=name))[0] == 200
        found = [jwt.decode(token, SHARED, ["HS256"], audience="up")["sub"] for token in upstream.tokens]
        assert sorted(found) == ["alice", "bob"]
