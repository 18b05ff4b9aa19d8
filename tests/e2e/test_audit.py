"""The audit file of the real processes: what is in it, what is not, and what befalls it."""

from __future__ import annotations

import http.client
import itertools
import json
import signal
import stat
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import pytest

from shadowcat.testing.mock_oauth.options import OAuthOptions
from shadowcat.testing.mock_oauth.server import MockOAuthServer
from tests.e2e.admin import call as admin
from tests.e2e.harness import EchoUpstream, Shadowcat, eventually, post
from tests.e2e.sessions import Session
from tests.e2e.upstreams import Upstream

AUDIENCE = "https://mcp.example/mcp"
SECRET = "an-argument-that-nobody-may-read"
ENVIRONMENT = "a-credential-from-the-environment"
KILLS, PAUSE = 6, 0.4


@pytest.fixture
def echo() -> Iterator[EchoUpstream]:
    with EchoUpstream() as upstream:
        yield upstream


def events(path: Path, *kinds: str) -> list[dict[str, Any]]:
    """The events in the file, each once, in its order; lines that a kill has cut off are none."""
    found: dict[str, dict[str, Any]] = {}
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        found.setdefault(event["id"], event)
    return [event for event in found.values() if not kinds or event["event"] in kinds]


def tool_call(number: int, tool: str = "echo") -> bytes:
    params = {"name": tool, "arguments": {"text": SECRET}}
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}).encode()


def with_audit(config: Mapping[str, Any], path: Path | str, **keys: Any) -> dict[str, Any]:
    return {**config, "audit": {"path": str(path), **keys}}


def metric(cat: Shadowcat, name: str) -> float:
    start = f"shadowcat_{name} ".encode()
    return sum(
        float(line.removeprefix(start))
        for line in cat.admin("/metrics")[1].splitlines()
        if line.startswith(start)
    )


class Calls:
    """Tool calls with ids of their own, from several threads, until stopped; all have to be answered."""

    def __init__(self, cat: Shadowcat, threads: int = 4) -> None:
        self._cat = cat
        self._ids = itertools.count(1)
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]
        self.sent: set[int] = set()
        self.answers: Counter[int] = Counter()
        """By status."""

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._end.is_set():
            number = next(self._ids)
            self.sent.add(number)
            status, _ = post(self._cat.address, "/mcp", tool_call(number))
            self.answers[status] += 1


def test_everything_that_happens(echo: EchoUpstream, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    oauth_options = OAuthOptions(algorithms=("ES256",), control=True)
    with MockOAuthServer(oauth_options) as oauth, Upstream("one") as one:
        routes = [
            {"path": "/mcp", "upstreams": [{"name": "one", "url": one.url}]},
            {
                "path": "/guarded",
                "upstreams": [
                    {
                        "name": "echo",
                        "url": echo.url,
                        "credential": {"headers": {"Authorization": "Bearer ${CREDENTIAL}"}},
                    }
                ],
                "auth": {"issuers": [{"issuer": oauth.issuer, "audience": AUDIENCE}]},
            },
            {
                "path": "/broken",
                "upstreams": [{"name": "nobody", "url": "http://127.0.0.1:1/mcp"}],
                "breaker": {"consecutive_failures": 2},
            },
        ]
        config = with_audit({"workers": 1, "routes": routes}, path)
        token = oauth.mint({"aud": AUDIENCE, "sub": "alice"})
        bad = oauth.mint({"aud": AUDIENCE}, forgery="expired")
        environ = {"CREDENTIAL": ENVIRONMENT}
        with Shadowcat(config, environ=environ) as cat:
            for text in (token, token, bad):
                post(
                    cat.address,
                    f"/guarded?key={SECRET}",
                    tool_call(1),
                    Authorization=f"Bearer {text}",
                    **{"X-Request-Id": "r-1"},
                )
            session = Session.open(cat.address, "/mcp")
            assert session.call("echo", text=SECRET).status == 200
            one.kill()
            one.start()
            assert session.call("echo", text=SECRET).status == 200
            assert session.delete().status == 200
            for _ in range(3):
                assert post(cat.address, "/broken", tool_call(2))[0] in (502, 503)
            post(cat.address, "/mcp", b"{")
            ended = Session.open(cat.address, "/mcp")
            (entry,) = admin(cat, "GET", "/api/sessions")[1]["sessions"]
            handle = entry["handle"]
            assert cat.admin("/api/sessions/" + handle)[0] == 200
            end_session(cat, handle)
            eventually(lambda: ended.notify("notifications/initialized").status == 404)
            assert admin(cat, "PATCH", "/api/upstreams?route=/mcp&upstream=one", {"weight": 3})[0] == 200
            cat.write("nonsense: {")
            cat.signal(signal.SIGHUP)
            eventually(lambda: len(events(path, "config")) == 2)
            assert cat.stop() == 0
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        text = path.read_text()
        for secret in (SECRET, ENVIRONMENT, session.id, ended.id, *token.split("."), *bad.split(".")):
            assert secret not in text
    accepted, refused = events(path, "authentication")
    assert (accepted["outcome"], refused["outcome"]) == ("accepted", "refused")
    assert (refused["reason"], refused["status"], refused["request_id"]) == ("token_invalid", 401, "r-1")
    assert accepted["principal"].endswith(" alice")
    calls = events(path, "tool_call")
    assert [(each["route"], each["outcome"], each["upstream"]) for each in calls[:4]] == [
        ("/guarded", "ok", "echo"),
        ("/guarded", "ok", "echo"),
        ("/mcp", "ok", "one"),
        ("/mcp", "ok", "one"),
    ]
    assert {each["principal"] for each in calls[:2]} == {accepted["principal"]}
    first, second = (each["session"] for each in calls[2:4])
    assert first == second is not None
    assert [(each["outcome"], each["session"]) for each in events(path, "recovery")] == [
        ("started", first),
        ("succeeded", first),
    ]
    assert Counter((each["outcome"], each["session"]) for each in events(path, "session")) == {
        ("created", first): 1,
        ("deleted", first): 1,
        ("created", handle): 1,
        ("end_requested", handle): 1,
        ("expired", handle): 1,
    }
    (opened,) = events(path, "breaker")
    assert (opened["outcome"], opened["route"], opened["upstream"]) == ("open", "/broken", "nobody")
    assert "not_json" in {each["reason"] for each in events(path, "refusal")}
    changed, rejected = events(path, "config")
    assert (changed["outcome"], changed["reason"]) == ("applied", "api")
    assert changed["data"]["changed"] == ["routes[/mcp].upstreams[one].weight"]
    assert (rejected["outcome"], rejected["reason"]) == ("rejected", "signal")
    for event in events(path):
        assert event["time"].endswith("Z")
        assert event["client"] in ("127.0.0.1", None)


def end_session(cat: Shadowcat, handle: str) -> None:
    host, _, port = cat.ready["admin"].rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    try:
        connection.request("DELETE", "/api/sessions/" + handle, headers=cat.admin_headers)
        assert connection.getresponse().status == 204
    finally:
        connection.close()


def test_no_call_is_missing_though_control_is_killed_again_and_again(
    echo: EchoUpstream, tmp_path: Path
) -> None:
    path = tmp_path / "audit.jsonl"
    config = with_audit(echo.config, path, overflow="refuse")
    with Shadowcat(config, timing={"backoff_max": 0.3}) as cat:
        with Calls(cat) as calls:
            for _ in range(KILLS):
                control = eventually(lambda: cat.children().get("control"))
                written = path.stat().st_size
                eventually(lambda size=written: path.stat().st_size > size, what="more events")
                control.kill()
                time.sleep(PAUSE)  # Killing is paced by the clock: that is the fault.
        assert set(calls.answers) == {200}
        assert cat.stop() == 0
    found = events(path, "tool_call")
    assert {int(each["rpc_id"]) for each in found} == calls.sent
    assert len(found) == len(calls.sent) > 100
    assert {each["worker"] for each in found} == {0, 1}


def recorded(cat: Shadowcat) -> None:
    """Wait until the one worker has recorded what it has answered: it does so after an answer has left and
    before it reads another request.
    """
    assert post(cat.address, "/mcp", b'{"jsonrpc":"2.0","id":1,"method":"ping"}')[0] == 200


def test_what_a_killed_worker_has_recorded_is_written(echo: EchoUpstream, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with Shadowcat(with_audit(echo.config | {"workers": 1}, path)) as cat:
        control, worker = cat.children()["control"], cat.children()["worker 0"]
        control.suspend()
        try:
            for number in range(20):
                assert post(cat.address, "/mcp", tool_call(number))[0] == 200
            recorded(cat)
            worker.kill()
            eventually(lambda: cat.children().get("worker 0", worker).pid != worker.pid)
            assert events(path) == []
        finally:
            control.resume()
        eventually(lambda: len(events(path)) == 20)
        assert post(cat.address, "/mcp", tool_call(20))[0] == 200
        assert cat.stop() == 0
    assert [int(each["rpc_id"]) for each in events(path)] == list(range(21))
    assert len(path.read_bytes().splitlines()) == 21


def test_rotation_under_load_loses_no_line(echo: EchoUpstream, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with Shadowcat(with_audit(echo.config, path)) as cat:
        with Calls(cat) as calls:
            for number in range(3):
                eventually(lambda: events(path))
                path.rename(tmp_path / f"audit.jsonl.{number}")
                cat.signal(signal.SIGUSR1)
                eventually(path.exists)
                eventually(lambda: len(events(path)) > 20)
        assert cat.stop() == 0
    files = [path, *tmp_path.glob("audit.jsonl.*")]
    assert len(files) == 4
    lines = [line for file in files for line in file.read_bytes().splitlines()]
    assert len(lines) == len(calls.sent)
    assert {int(json.loads(line)["rpc_id"]) for line in lines} == calls.sent


def test_a_signal_for_rotation_does_no_harm_without_an_audit(echo: EchoUpstream) -> None:
    with Shadowcat(echo.config) as cat:
        control = cat.children()["control"]
        cat.signal(signal.SIGUSR1)
        eventually(lambda: "opening log files anew" in cat.stderr)
        assert cat.admin("/readyz")[0] == 200
        assert cat.children()["control"].pid == control.pid


def test_what_is_recorded_is_written_though_everything_is_stopped_at_once(
    echo: EchoUpstream, tmp_path: Path
) -> None:
    path = tmp_path / "audit.jsonl"
    with Shadowcat(with_audit(echo.config | {"workers": 1}, path)) as cat:
        cat.children()["control"].suspend()
        for number in range(10):
            assert post(cat.address, "/mcp", tool_call(number))[0] == 200
        recorded(cat)
        cat.signal(signal.SIGQUIT)
        cat.wait()
    assert {int(each["rpc_id"]) for each in events(path)} == set(range(10))


@pytest.mark.parametrize("overflow", ["drop", "refuse"])
def test_a_full_disk(echo: EchoUpstream, overflow: str) -> None:
    config = with_audit(echo.config | {"workers": 1}, "/dev/full", overflow=overflow, capacity="64KiB")
    with Shadowcat(config) as cat:
        statuses = Counter(post(cat.address, "/mcp", tool_call(number))[0] for number in range(300))
        if overflow == "drop":
            assert statuses == {200: 300}
            assert metric(cat, "audit_dropped_total") > 50
        else:
            assert set(statuses) == {200, 503}
            assert echo.requests == statuses[200] < 200
            assert metric(cat, "audit_dropped_total") == 0
        assert metric(cat, "audit_written_total") == 0
        told = "/dev/full cannot be written: No space left on device"
        eventually(lambda: told in cat.stderr, what="a line in the log")
        assert cat.stderr.count(told) == 1
        assert cat.stop() == 0
        assert "lacks the last events" in cat.stderr


def test_a_file_that_cannot_be_opened_ends_the_start(echo: EchoUpstream, tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "audit.jsonl"
    cat = Shadowcat(with_audit(echo.config, path))
    try:
        cat.launch()
        assert cat.wait() == 1
        assert f"audit.path: {path} cannot be opened for appending: No such file" in cat.stderr
    finally:
        cat.__exit__(None, None, None)


def test_a_file_that_is_lost_while_it_runs_stops_nobody(echo: EchoUpstream, tmp_path: Path) -> None:
    """A new control process that cannot open it goes on, and writes what was recorded once it can."""
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "audit.jsonl"
    with Shadowcat(with_audit(echo.config | {"workers": 1}, path)) as cat:
        control = cat.children()["control"]
        folder.rename(tmp_path / "elsewhere")
        control.kill()
        eventually(lambda: cat.children().get("control", control).pid != control.pid)
        eventually(lambda: f"{path} cannot be" in cat.stderr or post_one(cat) != 200)
        folder.mkdir()
        eventually(lambda: events(path))
        assert cat.stop() == 0
    assert (tmp_path / "elsewhere" / "audit.jsonl").exists()


def post_one(cat: Shadowcat) -> int:
    return post(cat.address, "/mcp", tool_call(1))[0]
