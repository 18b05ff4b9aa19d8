"""The real supervisor as a resource server, with a real issuer: keys that change, go and cannot be had."""

from __future__ import annotations

import http.client
import json
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shadowcat.testing.mock_mcp.faults import Fault
from shadowcat.testing.mock_oauth import records
from shadowcat.testing.mock_oauth.options import OAuthOptions
from shadowcat.testing.mock_oauth.server import MockOAuthServer
from tests.e2e.harness import SLACK, EchoUpstream, Shadowcat, eventually

AUDIENCE = "https://mcp.example/mcp"
PING = b'{"jsonrpc":"2.0","id":7,"method":"ping","params":{}}'
CREDENTIALS = ("resource", "server")
RESOURCE_SERVER = records.Client(
    client_id=CREDENTIALS[0], client_secret=CREDENTIALS[1], grant_types=("client_credentials",)
)


@pytest.fixture(scope="module")
def issuer() -> Iterator[MockOAuthServer]:
    options = OAuthOptions(algorithms=("ES256",), control=True, clients=(RESOURCE_SERVER,))
    with MockOAuthServer(options) as server:
        yield server


@pytest.fixture
def oauth(issuer: MockOAuthServer) -> MockOAuthServer:
    issuer.lies.clear()
    issuer.faults.clear()
    issuer.capture.clear()
    return issuer


@pytest.fixture(scope="module")
def echo() -> Iterator[EchoUpstream]:
    with EchoUpstream() as upstream:
        yield upstream


def config(oauth: MockOAuthServer, echo: EchoUpstream, **more: Any) -> dict[str, Any]:
    trusted = {"issuer": oauth.issuer, "audience": AUDIENCE, "refresh": "1s", **more}
    auth = {"issuers": [trusted], "scopes": ["mcp:read"]}
    return {"routes": [{"path": "/mcp", "upstreams": [{"url": echo.url}], "auth": auth}]}


def good(oauth: MockOAuthServer, **how: Any) -> str:
    return oauth.mint({"aud": AUDIENCE, "scope": "mcp:read"}, **how)


def ask(
    cat: Shadowcat, token: str | None, method: str = "POST", **fields: str
) -> tuple[int, dict[str, str], bytes]:
    headers = {"Content-Type": "application/json", **fields}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    connection = http.client.HTTPConnection(*cat.address, timeout=30)
    try:
        connection.request(method, "/mcp", PING if method == "POST" else None, headers)
        response = connection.getresponse()
        return response.status, dict(response.headers), response.read()
    finally:
        connection.close()


def fetches(oauth: MockOAuthServer) -> int:
    return sum(entry.target == "/jwks" for entry in oauth.capture.requests)


PROGRAM = """
import sys
import shadowcat

issuer = shadowcat.Issuer(issuer=sys.argv[1], audience="https://mcp.example/mcp")
route = shadowcat.Route(
    upstreams=[shadowcat.Upstream(url=sys.argv[2])],
    auth=shadowcat.Auth(issuers=[issuer], scopes=["mcp:read"]),
)
config = shadowcat.Config(listen="127.0.0.1:0", admin="127.0.0.1:0", workers=2, routes=[route])
sys.exit(shadowcat.run(config))
"""


@pytest.mark.parametrize("start", ["command", "python", "run"])
def test_every_way_to_start_has_the_same_rules(
    oauth: MockOAuthServer, echo: EchoUpstream, start: str
) -> None:
    timing = {} if start == "python" else None
    ready = Shadowcat(config(oauth, echo), timing=timing)
    if start == "run":
        ready._command = [sys.executable, "-c", PROGRAM, oauth.issuer, echo.url]
    with ready as cat:
        statuses = {
            name: ask(cat, token)[0]
            for name, token in {
                "good": good(oauth),
                "missing": None,
                "expired": good(oauth, forgery="expired"),
                "for another": oauth.mint({"aud": "https://other.example", "scope": "mcp:read"}),
                "scope": oauth.mint({"aud": AUDIENCE}),
                "unknown key": good(oauth, forgery="wrong_kid"),
            }.items()
        }
        assert statuses == {
            "good": 200, "missing": 401, "expired": 401, "for another": 401, "scope": 403, "unknown key": 401,
        }  # fmt: skip
        for method in ("GET", "DELETE"):
            assert ask(cat, None, method)[0] == 401
        status, headers, body = ask(cat, None, **{"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "ping"})
        # Its id is known if the body came together with the head.
        assert (status, json.loads(body).get("id", 7)) == (401, 7)
        metadata = re.search(r'resource_metadata="([^"]*)"', headers["WWW-Authenticate"])
        assert metadata is not None
        assert metadata[1] == f"{cat.url}/.well-known/oauth-protected-resource/mcp"


class Load:
    """Requests in a row, each with a token of the newest key, from several threads."""

    def __init__(self, cat: Shadowcat, oauth: MockOAuthServer, threads: int = 3) -> None:
        self.statuses: Counter[int] = Counter()
        self._cat = cat
        self._oauth = oauth
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def _run(self) -> None:
        while not self._over.is_set():
            self.statuses[ask(self._cat, good(self._oauth))[0]] += 1

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def more(self, count: int) -> None:
        """Wait for so many more answers."""
        before = self.statuses.total()
        eventually(lambda: self.statuses.total() >= before + count, what="more answers")


def test_keys_are_rotated_under_load(oauth: MockOAuthServer, echo: EchoUpstream) -> None:
    # The keys are not due for long: it is the unknown ones that have them fetched.
    with Shadowcat(config(oauth, echo, refresh="1h")) as cat:
        earlier = [good(oauth)]
        # Once for the first keys: were each worker to ask for them, too, the allowance would not do for three
        # rotations in a row, for which each of them asks.
        assert ask(cat, earlier[0])[0] == 200
        with Load(cat, oauth) as load:
            for _ in range(3):
                load.more(60)
                oauth.core.ring.rotate()
                earlier.append(good(oauth))
            load.more(60)
        assert set(load.statuses) == {200}
        # Nobody has withdrawn the keys before: at whichever worker, their tokens are good.
        assert {ask(cat, token)[0] for token in earlier for _ in range(6)} == {200}
        assert 4 <= fetches(oauth) <= 8


def test_a_withdrawn_key_is_refused_with_the_next_fetch(oauth: MockOAuthServer, echo: EchoUpstream) -> None:
    with Shadowcat(config(oauth, echo)) as cat:
        old = oauth.core.ring.signing()
        token = good(oauth)
        oauth.core.ring.rotate()
        assert ask(cat, token)[0] == 200
        with Load(cat, oauth) as load:
            oauth.core.ring.withdraw(old.kid)
            withdrawn = time.monotonic()
            eventually(lambda: ask(cat, token)[0] == 401, what="the end of the key")
            # One period, the pause between fetches, and a worker that asks for what it does not know.
            assert time.monotonic() - withdrawn < 5 + SLACK
            load.more(20)
        assert set(load.statuses) == {200}
        assert ask(cat, token)[0] == 401


def test_an_issuer_that_is_away(oauth: MockOAuthServer, echo: EchoUpstream) -> None:
    with Shadowcat(config(oauth, echo)) as cat:
        known = good(oauth)
        assert ask(cat, known)[0] == 200
        oauth.faults.add(Fault(fault="status", status=500, path="/jwks"))
        # Not published yet: a fetch that has come past the fault already must not bring it.
        new = oauth.core.ring.rotate(publish=False)
        eventually(lambda: "keys of" in cat.stderr, what="a failed fetch")
        assert ask(cat, good(oauth, kid=oauth.core.ring.keys[-2].kid))[0] == 200
        status, headers, body = ask(cat, good(oauth, kid=new.kid))
        assert (status, headers["Retry-After"]) == (503, "2")
        assert json.loads(body)["error"]["code"] == -32603
        oauth.core.ring.publish(new.kid)
        oauth.faults.clear()
        eventually(lambda: ask(cat, good(oauth, kid=new.kid))[0] == 200, what="the new key")


def test_keys_are_where_the_configuration_says(oauth: MockOAuthServer, echo: EchoUpstream) -> None:
    oauth.capture.clear()
    with Shadowcat(config(oauth, echo, jwks_url=f"{oauth.issuer}/jwks")) as cat:
        assert ask(cat, good(oauth))[0] == 200
        assert ask(cat, good(oauth, headers={"kid": "none"}))[0] == 401
    assert {entry.target for entry in oauth.capture.requests} == {"/jwks"}


def test_keys_too_old_stop_everybody(oauth: MockOAuthServer, echo: EchoUpstream) -> None:
    with Shadowcat(config(oauth, echo, stale="3s")) as cat:
        assert ask(cat, good(oauth))[0] == 200
        oauth.faults.add(Fault(fault="status", status=500, path="/jwks"))
        eventually(lambda: ask(cat, good(oauth))[0] == 503, what="the end of all keys")
        oauth.faults.clear()
        eventually(lambda: ask(cat, good(oauth))[0] == 200, what="new keys")


def test_a_storm_of_unknown_keys_is_no_storm_at_the_issuer(
    oauth: MockOAuthServer, echo: EchoUpstream
) -> None:
    with Shadowcat(config(oauth, echo, refresh="1h")) as cat:
        began = time.monotonic()
        assert ask(cat, good(oauth))[0] == 200
        statuses: Counter[int] = Counter()

        def storm() -> None:
            for number in range(3):
                statuses[ask(cat, good(oauth, headers={"kid": f"no-{number}"}))[0]] += 1

        threads = [threading.Thread(target=storm) for _ in range(8)]
        for thread in threads:
            thread.start()
        assert [ask(cat, good(oauth))[0] for _ in range(20)] == [200] * 20
        for thread in threads:
            thread.join()
        assert set(statuses) <= {401, 503}
        assert statuses[401]
        assert fetches(oauth) <= 1 + 6 + 1 + (time.monotonic() - began) / 3


def test_control_may_die(oauth: MockOAuthServer, echo: EchoUpstream) -> None:
    with Shadowcat(config(oauth, echo, refresh="1h"), timing={"backoff_max": 0.5}) as cat:
        assert ask(cat, good(oauth))[0] == 200
        oauth.faults.add(Fault(fault="status", status=500, path="/jwks"))
        control = cat.children()["control"]
        control.kill()
        assert ask(cat, good(oauth))[0] == 200
        # Its successor has the keys from the memory that they share.
        eventually(lambda: cat.children().get("control", control).pid != control.pid)
        eventually(lambda: cat.admin("/readyz")[0] == 200, what="its successor")
        oauth.core.ring.rotate(publish=False)
        assert ask(cat, good(oauth, kid=oauth.core.ring.keys[-2].kid))[0] == 200
        assert ask(cat, good(oauth))[0] == 503
        oauth.core.ring.publish(oauth.core.ring.keys[-1].kid)
        oauth.faults.clear()
        eventually(lambda: ask(cat, good(oauth))[0] == 200, what="the key from the new process")


def test_tokens_that_only_their_issuer_knows(oauth: MockOAuthServer, echo: EchoUpstream) -> None:
    endpoint = {
        "url": f"{oauth.issuer}/introspect", "client_id": CREDENTIALS[0], "client_secret": "${SECRET}",
    }  # fmt: skip
    settings = config(oauth, echo)
    del settings["routes"][0]["auth"]["issuers"][0]["refresh"]
    settings["routes"][0]["auth"]["issuers"][0]["introspection"] = endpoint
    with Shadowcat(settings, environ={"SECRET": CREDENTIALS[1]}) as cat:
        assert ask(cat, good(oauth))[0] == 200
        assert ask(cat, good(oauth, forgery="expired"))[0] == 401
        assert ask(cat, "gibberish")[0] == 401
        oauth.faults.add(Fault(fault="status", status=500, path="/introspect"))
        assert ask(cat, good(oauth))[0] == 503
        assert CREDENTIALS[1] not in cat.admin("/api/status")[1].decode()


def test_no_token_is_written_anywhere(oauth: MockOAuthServer, echo: EchoUpstream, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    settings = config(oauth, echo) | {
        "access_log": {"path": str(log), "format": "json"}, "log": {"level": "debug"},
    }  # fmt: skip
    tokens = [good(oauth), good(oauth, forgery="expired"), good(oauth, forgery="wrong_kid"), "opaque-rubbish"]
    with Shadowcat(settings) as cat:
        answers = [str(ask(cat, token, traceparent="x")) for token in tokens]
        connection = http.client.HTTPConnection(*cat.address, timeout=30)
        connection.request("POST", f"/mcp?access_token={tokens[0]}", PING)
        answers.append(str(connection.getresponse().read()))
        connection.close()
        pages = [cat.admin(path)[1].decode() for path in ("/metrics", "/api/status", "/api/sessions")]
        eventually(lambda: log.read_text().count("\n") >= 5, what="the access log")
        cat.stop()
        found = "\n".join([*answers, *pages, log.read_text(), cat.stderr])
    assert '"status":401' in found.replace(" ", "")
    for token in tokens:
        for part in token.split("."):
            assert part not in found
