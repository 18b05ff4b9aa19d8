"""The whole way: login with PKCE, token, session, calls, refusals, failures; and what is kept of it."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest
from mcp.client import Client

from shadowcat.testing.mock_oauth.options import OAuthOptions
from shadowcat.testing.mock_oauth.records import User
from shadowcat.testing.mock_oauth.server import MockOAuthServer
from shadowcat.testing.scripted import refused_port
from tests.e2e.harness import Shadowcat, eventually
from tests.e2e.oauth import READ, Login
from tests.e2e.sdk import ERAS, LEGACY, text_of
from tests.e2e.secrecy import Records, Secrets
from tests.e2e.traffic import Message, initialize, legacy, modern, samples, tool
from tests.e2e.upstreams import Upstream, header

HIDDEN: Final = "announce"
GUARDED: Final = "add"
DENIED: Final = "no rule of the policy allows this"
BY_HAND: Final = ("/raw", "/counted", "/limited")
"""Routes for requests that are made by hand; the other one is for the SDK's clients."""
ADMIN: Final = {"roles": ["admin"]}


class Scene(NamedTuple):
    oauth: MockOAuthServer
    upstream: Upstream
    cat: Shadowcat
    folder: Path

    @property
    def url(self) -> str:
        return f"{self.cat.url}/mcp"

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """The audit's lines."""
        lines = (self.folder / "audit.jsonl").read_text().splitlines(keepends=True)
        # The last one may be there in part.
        found = [json.loads(line) for line in lines if line.endswith("\n")]
        return [event for event in found if not kinds or event["event"] in kinds]

    def health(self) -> dict[str, str]:
        """The state of the upstream for each route, which has checks of its own."""
        return {route["path"]: route["upstreams"][0]["state"] for route in self.cat.status()["routes"]}

    def wait_for_health(self, state: str) -> None:
        """Wait until the checks of all routes have found this state."""
        eventually(lambda: set(self.health().values()) == {state}, what=f"the upstream is {state}")

    def token(self, subject: str, **claims: Any) -> str:
        """For requests that are made by hand."""
        return self.oauth.mint(self.claims(sub=subject, **claims))

    def claims(self, **more: Any) -> dict[str, Any]:
        # One token for several routes, which only somebody who mints tokens can have.
        return {"aud": [f"{self.cat.url}{path}" for path in BY_HAND], "scope": READ, **more}

    def ask(
        self, message: Message, token: str | None, method: str = "POST", path: str = BY_HAND[0], **fields: str
    ) -> tuple[int, str | None, dict[str, Any]]:
        """One request by hand: status, session id, and the message that came back."""
        headers = message.headers | {name.replace("_", "-"): value for name, value in fields.items()}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        connection = http.client.HTTPConnection(*self.cat.address, timeout=30)
        try:
            connection.request(method, path, message.body or None, headers)
            answer = connection.getresponse()
            body = answer.read()
            document = json.loads(body) if body.startswith(b"{") else {}
            return answer.status, answer.headers["Mcp-Session-Id"], document
        finally:
            connection.close()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("flow")
    users = {"root": User(claims=ADMIN)}
    with (
        refused_port() as port,  # The public URL has to be known before the proxy starts.
        MockOAuthServer(OAuthOptions(control=True, users=users)) as oauth,
        Upstream("one") as upstream,
    ):

        def route(path: str) -> dict[str, Any]:
            trusted = {"issuer": oauth.issuer}
            limits = {"limits": {"per_user": "5/min"}} if path == "/limited" else {}
            if path in BY_HAND:
                trusted["other_audiences"] = [f"http://127.0.0.1:{port}{other}" for other in BY_HAND]
            rules = [
                {"name": "guarded", "allow": False, "tools": [GUARDED], "when": "!('admin' in roles)"},
                {"name": "rest", "allow": True},
            ]
            return {
                "path": path,
                "upstreams": [{"name": "one", "url": upstream.url}],
                "auth": {"issuers": [trusted], "scopes": [READ]},
                "policy": {"rules": rules, "tools": {"deny": [HIDDEN]}},
                "health": {
                    "type": "tcp",
                    # A verdict is good for three of them: longer than the machine stands still.
                    "interval": "1500ms",
                    "timeout": "1500ms",
                    "healthy_after": 1,
                    "unhealthy_after": 1,
                },
                **limits,
            }

        settings = {
            "listen": f"127.0.0.1:{port}",
            "public_url": f"http://127.0.0.1:{port}",
            "log": {"level": "debug"},
            "access_log": {"path": str(folder / "access.log"), "format": "json"},
            "audit": {"path": str(folder / "audit.jsonl")},
            "routes": [route(path) for path in ("/mcp", *BY_HAND)],
        }
        with Shadowcat(settings) as cat:
            yield Scene(oauth, upstream, cat, folder)


@pytest.fixture(autouse=True)
def _fresh(scene: Scene) -> None:
    scene.oauth.core.issued.clear()
    scene.upstream.control.clear()
    scene.upstream.control.clear_faults()


async def may(client: Client) -> None:
    """What an administrator can do."""
    assert HIDDEN not in {tool.name for tool in (await client.list_tools()).tools}
    assert text_of(await client.call_tool("echo", {"text": "hé"})) == "hé"
    added = await client.call_tool(GUARDED, {"a": 2, "b": 3})
    assert added.structured_content == {"result": 5}
    hidden = await client.call_tool(HIDDEN, {})
    assert (hidden.is_error, text_of(hidden)) == (True, f"Unknown tool: {HIDDEN}")


async def may_not(client: Client) -> None:
    """What everybody else can do."""
    # Hidden from nobody: whoever asks is told that it is not for them.
    assert {tool.name for tool in (await client.list_tools()).tools} >= {"echo", GUARDED}
    assert text_of(await client.call_tool("echo", {"text": "hé"})) == "hé"
    with pytest.raises(Exception, match=DENIED):
        await client.call_tool(GUARDED, {"a": 2, "b": 3})
    hidden = await client.call_tool(HIDDEN, {})
    assert (hidden.is_error, text_of(hidden)) == (True, f"Unknown tool: {HIDDEN}")
    # The refusal has ended nothing.
    assert text_of(await client.call_tool("echo", {"text": "2"})) == "2"


@pytest.mark.parametrize(("subject", "use"), [("root", may), ("alice", may_not)])
@pytest.mark.parametrize("mode", ERAS)
def test_from_a_login_to_calls(scene: Scene, mode: str, subject: str, use: Callable[[Client], Any]) -> None:
    before = len(scene.events())
    login = Login(subject=subject)
    asyncio.run(login.use(scene.url, mode, use))
    assert login.answers[:5] == [
        "POST /mcp 401",
        "GET /.well-known/oauth-protected-resource/mcp 200",
        "GET /.well-known/oauth-authorization-server 200",
        "POST /register 201",
        "POST /token 200",
    ]
    (opened,) = login.opened
    assert parse_qs(urlsplit(opened).query)["code_challenge_method"] == ["S256"]
    assert dict(scene.oauth.core.issued) == {"authorization_code": 1}
    assert login.answers.count("POST /mcp 403") == (0 if subject == "root" else 1)
    called = [entry["rpc_name"] for entry in scene.upstream.seen(rpc_method="tools/call")]
    assert called == (["echo", GUARDED] if subject == "root" else ["echo", "echo"])

    # The audit has all of it, and each under the name of who did it.
    assert login.client is not None
    name = f"{scene.oauth.issuer} {login.client.client_id} {subject}"

    def told() -> list[tuple[str, str]]:
        # Of this login's client: the last words on the one before may be written only now.
        new = [event for event in scene.events()[before:] if event["principal"] in (name, None)]
        return sorted(
            (event["tool"] or event["event"], event["outcome"])
            for event in new
            if event["event"] == "session"
            or (event["tool"] and event["outcome"] != "allowed")
            or (event["event"], event["outcome"]) == ("authentication", "refused")
        )

    wanted = [("authentication", "refused"), ("echo", "ok"), (HIDDEN, "denied")]
    wanted += [(GUARDED, "ok")] if subject == "root" else [("echo", "ok"), (GUARDED, "denied")]
    wanted += [("session", "created"), ("session", "deleted")] if mode == LEGACY else []
    eventually(lambda: told() == sorted(wanted), what=f"the audit has {sorted(wanted)}")

    # And nobody but its owner has seen the token.
    secrets, records = Secrets(), Records()
    assert login.tokens is not None
    secrets.add("token", login.tokens.access_token)
    secrets.add("refresh token", login.tokens.refresh_token or "")
    records.add("upstream", scene.upstream.control.requests())
    for name in ("access.log", "audit.jsonl"):
        records.add(name, (scene.folder / name).read_text())
    for path in ("/metrics", "/api/status", "/api/sessions", "/api/upstreams"):
        records.add(path, scene.cat.admin(path)[1])
    records.add("standard error", scene.cat.stderr)
    assert len(secrets) >= 4
    assert records.search(secrets) == {}
    assert not [entry for entry in scene.upstream.control.requests() if header(entry, "authorization")]


def test_the_audit_is_complete(scene: Scene) -> None:
    """Every request by its own id, with what there must be of it, and nothing besides."""
    alice, root = scene.token("alice"), scene.token("root", **ADMIN)
    expired = scene.oauth.mint(scene.claims(), forgery="expired")
    narrow = scene.token("alice", scope="mcp:write")
    before = len(scene.events())
    asked: dict[str, tuple[int, list[tuple[str, str]]]] = {}

    def ask(
        wanted: int,
        *told: tuple[str, str],
        token: str | None,
        message: Message,
        method: str = "POST",
        **more: str,
    ) -> str | None:
        name = f"request-{len(asked)}"
        status, session, _ = scene.ask(message, token, method, X_Request_Id=name, **more)
        assert status == wanted, told
        asked[name] = (status, sorted(told))
        return session

    def calling(name: str, session: str | None = None) -> Message:
        return tool(name, {"text": "x"} if name == "echo" else {"a": 1, "b": 2}, 9, session)

    allowed, denied = ("policy", "allowed"), ("policy", "denied")
    ask(200, allowed, ("tool_call", "ok"), token=alice, message=calling("echo"))
    ask(200, allowed, ("tool_call", "ok"), token=root, message=calling(GUARDED))
    ask(403, denied, token=alice, message=calling(GUARDED))
    ask(200, denied, token=root, message=calling(HIDDEN))
    for token in (None, expired, "x.y.z"):
        ask(401, ("authentication", "refused"), token=token, message=calling("echo"))
    ask(403, ("authentication", "refused"), token=narrow, message=calling("echo"))
    ask(421, ("refusal", "refused"), token=alice, message=calling("echo"), Host="evil.example")
    ask(400, ("refusal", "refused"), token=alice, message=Message(calling("echo").headers, b"{"))
    session = ask(200, allowed, ("session", "created"), token=alice, message=initialize())
    assert session is not None
    ask(200, allowed, ("tool_call", "ok"), token=alice, message=calling("echo", session))
    ask(404, ("tool_call", "refused"), token=root, message=calling("echo", session))
    scene.upstream.control.add_fault("status", times=1, status=500)
    ask(500, allowed, ("tool_call", "failed"), token=alice, message=calling("echo", session))
    scene.upstream.control.add_fault("reset", times=1)
    ask(502, allowed, ("tool_call", "refused"), token=alice, message=calling("echo", session))
    ending = legacy("ping", {}, session)._replace(body=b"")
    ask(200, allowed, token=alice, message=ending, method="DELETE")
    ask(200, allowed, token=alice, message=modern("tools/list", {}, 3))

    def found() -> dict[str, list[tuple[str, str]]]:
        told: dict[str, list[tuple[str, str]]] = {name: [] for name in asked}
        for event in scene.events()[before:]:
            # Each worker verifies a token for itself, when it first comes.
            if event["request_id"] in told and event["outcome"] != "accepted":
                told[event["request_id"]].append((event["event"], event["outcome"]))
        return {name: sorted(each) for name, each in told.items()}

    wanted = {name: told for name, (_, told) in asked.items()}
    eventually(lambda: sum(map(len, found().values())) >= sum(map(len, wanted.values())), what="all events")
    assert found() == wanted
    for event in scene.events()[before:]:
        if event["request_id"] in asked and event["status"] is not None:
            assert event["status"] == asked[event["request_id"]][0], event

    def deleted() -> list[dict[str, Any]]:
        # Of the token's client, which is not that of a login whose last words are written only now.
        new = [event for event in scene.events()[before:] if event["event"] == "session"]
        (name,) = {event["principal"] for event in new if event["request_id"] in asked}
        return [event for event in new if (event["outcome"], event["principal"]) == ("deleted", name)]

    (ended,) = eventually(deleted, what="the end of the session in the audit")
    assert ended["principal"].endswith(" alice")
    accepted = Counter(
        event["principal"].rpartition(" ")[2]
        for event in scene.events()[before:]
        if (event["event"], event["outcome"]) == ("authentication", "accepted")
    )
    assert set(accepted) == {"alice", "root"}
    # Three tokens that are known at last, and two workers.
    assert accepted.total() <= 6


def test_a_session_outlives_its_token_and_its_upstream(scene: Scene) -> None:
    """Another token of the same principal goes on in it; after a restart of the upstream, too."""
    first, second = scene.token("alice"), scene.token("alice")
    status, session, _ = scene.ask(initialize(), first)
    assert (status, session is not None) == (200, True)
    scene.ask(legacy("notifications/initialized", {}, session, None), first)
    call = tool("echo", {"text": "still here"}, 5, session)
    assert scene.ask(call, second)[0] == 200
    assert scene.ask(call, scene.token("bob"))[0] == 404
    assert scene.ask(call, scene.token("alice", client_id="another"))[0] == 404
    scene.upstream.kill()
    scene.upstream.start()
    scene.wait_for_health("up")
    status, _, document = scene.ask(call, second)
    assert (status, document["id"]) == (200, 5)
    assert document["result"]["content"][0]["text"] == "still here"
    (seen,) = scene.upstream.seen(rpc_method="initialize", target="/mcp", status=200)[-1:]
    assert header(seen, "authorization") is None

    def told() -> list[str]:
        return [each["outcome"] for each in scene.events("recovery") if each["principal"].endswith(" alice")]

    eventually(lambda: told() == ["started", "succeeded"], what="the recovery in the audit")


def test_errors_are_told_as_they_are(scene: Scene) -> None:
    token = scene.token("root", **ADMIN)
    status, _, document = scene.ask(tool("error", {"message": "as asked"}, "text id"), token)
    assert (status, document["id"], document["result"]["isError"]) == (200, "text id", True)
    status, _, document = scene.ask(tool("nothing_like_it", {}, 11), token)
    assert (status, document["id"]) == (200, 11)
    scene.upstream.control.add_fault("status", times=1, status=503, body='{"own": "words"}')
    status, _, document = scene.ask(tool("echo", {"text": "x"}, 12), token)
    assert (status, document) == (503, {"own": "words"})
    scene.upstream.control.add_fault("reset", times=1)
    status, _, document = scene.ask(tool("echo", {"text": "x"}, 13), token)
    assert (status, document["id"], document["error"]["code"]) == (502, 13, -32603)
    status, _, document = scene.ask(Message(tool("echo", {}).headers, b"[1"), token)
    assert (status, document["error"]["code"]) == (400, -32700)
    # Nothing of that has done any harm.
    assert scene.ask(tool("echo", {"text": "x"}, 14), token)[0] == 200


def test_five_a_minute_for_each_user(scene: Scene) -> None:
    """Of fifteen requests five are carried out, however many tokens their owner has; others go on."""
    before = len(scene.events())
    mine = [scene.token("alice") for _ in range(3)]
    call = tool("echo", {"text": "x"}, 31)
    # Who is not let in uses nothing up, nor does anything that is asked without a token.
    for _ in range(10):
        assert scene.ask(call, None, path="/limited")[0] == 401
    with ThreadPoolExecutor(15) as pool:
        told = list(pool.map(lambda number: scene.ask(call, mine[number % 3], path="/limited"), range(15)))
    assert Counter(status for status, _, _ in told) == {200: 5, 429: 10}
    for status, _, document in told:
        assert document["id"] in (31, None)
        if status == 429:
            assert document["error"]["data"]["tier"] == "per_user"
            assert 1 <= document["error"]["data"]["retryAfterSeconds"] <= 12
    assert len(scene.upstream.seen(rpc_method="tools/call", status=200)) == 5
    assert scene.ask(call, scene.token("bob"), path="/limited")[0] == 200

    def refused() -> Counter[str]:
        new = [event for event in scene.events()[before:] if event["event"] == "limit"]
        return Counter(f"{event['status']} {event['principal'].rpartition(' ')[2]}" for event in new)

    eventually(lambda: refused() == {"429 alice": 10}, what="the refusals in the audit")
    page = samples(scene.cat.admin("/metrics")[1])
    assert page['shadowcat_limited_total{route="/limited",tier="per_user"}'] == 10


def test_health_and_metrics(scene: Scene) -> None:
    """Health from outside while the upstream is away, and figures that are those of what was done."""
    token, root = scene.token("alice"), scene.token("root", **ADMIN)
    scene.wait_for_health("up")
    done = Counter[int]()
    for one, message in (
        *((token, tool("echo", {"text": "x"})) for _ in range(5)),
        *((root, tool(GUARDED, {"a": 1, "b": 1})) for _ in range(3)),
        *((token, tool(GUARDED, {"a": 1, "b": 1})) for _ in range(4)),
        *((None, tool("echo", {"text": "x"})) for _ in range(2)),
    ):
        done[scene.ask(message, one, path="/counted")[0]] += 1
    assert dict(done) == {200: 8, 403: 4, 401: 2}

    def counted() -> dict[str, float]:
        page = samples(scene.cat.admin("/metrics")[1])
        mine = {name.removeprefix("shadowcat_"): value for name, value in page.items() if "/counted" in name}
        return {name: value for name, value in mine.items() if "_total" in name and value}

    def answered(status: int) -> str:
        return f'requests_total{{route="/counted",status="{status}"}}'

    wanted = {answered(status): float(count) for status, count in done.items()} | {
        'upstream_requests_total{route="/counted",upstream="one"}': 8.0,
        'policy_allowed_total{route="/counted"}': 8.0,
        'policy_denied_total{route="/counted"}': 4.0,
    }
    eventually(lambda: wanted.items() <= counted().items(), what=f"the figures {wanted}")
    scene.upstream.kill()
    try:
        scene.wait_for_health("down")
        assert scene.cat.admin("/livez")[0] == scene.cat.admin("/readyz")[0] == 200
        status, _, document = scene.ask(tool("echo", {"text": "x"}, 21), token)
        assert (status, document["id"]) == (503, 21)
        # Who may not is told so, whether there is an upstream or not.
        assert scene.ask(tool(GUARDED, {"a": 1, "b": 1}), token)[0] == 403
        assert scene.ask(tool("echo", {"text": "x"}), None)[0] == 401
    finally:
        scene.upstream.start()
    scene.wait_for_health("up")
    assert scene.ask(tool("echo", {"text": "x"}), token)[0] == 200
