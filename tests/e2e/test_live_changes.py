"""Upstreams added, removed, weighted, disabled and drained while requests go on; the file read again."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from shadowcat.testing.raw_client import RawClient
from tests.e2e.admin import call, change, listed
from tests.e2e.harness import COMMAND, EchoUpstream, Shadowcat, eventually
from tests.e2e.sessions import Session, SessionTraffic, whoami_in
from tests.e2e.traffic import Traffic, modern
from tests.e2e.upstreams import Upstream, running

WORKERS = 4
WHO = modern("tools/call", {"name": "whoami", "arguments": {}}).wire("/mcp")

Trio = tuple[Upstream, Upstream, Upstream]


@pytest.fixture(scope="module")
def trio() -> Iterator[Trio]:
    three = Upstream("a"), Upstream("b"), Upstream("c")
    with running(*three):
        yield three


def of(*upstreams: Upstream, **options: Any) -> dict[str, Any]:
    """A configuration with these behind /mcp."""
    entries = [{"name": one.name, "url": one.url} for one in upstreams]
    return {"workers": WORKERS, "routes": [{"path": "/mcp", "upstreams": entries}], **options}


@pytest.fixture
def cat(trio: Trio) -> Iterator[Shadowcat]:
    """In front of a and b."""
    with Shadowcat(of(*trio[:2])) as running_cat:
        yield running_cat


def hangup(cat: Shadowcat) -> None:
    cat.signal(signal.SIGHUP)


class Everywhere:
    """Kept connections to every worker."""

    def __init__(self, cat: Shadowcat, stack: ExitStack) -> None:
        self._clients: list[RawClient] = []
        for _ in range(30):
            for _ in range(8):
                self._clients.append(stack.enter_context(RawClient(cat.address[1], timeout=30)))
            self.whoami()
            if all(worker["connections"] for worker in cat.status()["workers"]):
                return
        raise AssertionError("some worker gets no connection")

    def whoami(self) -> Counter[str]:
        """One request over each connection, one after the other; who answered."""
        found: Counter[str] = Counter()
        for client in self._clients:
            client.send(WHO)
            found[whoami_in(client.read_response())["server"]] += 1
        return found


@contextmanager
def everywhere(cat: Shadowcat) -> Iterator[Everywhere]:
    with ExitStack() as stack:
        yield Everywhere(cat, stack)


# Seen by everybody


def test_every_worker_sees_a_change_at_its_next_request(cat: Shadowcat, trio: Trio) -> None:
    c = trio[2]
    with everywhere(cat) as clients:
        assert set(clients.whoami()) == {"a", "b"}
        assert change(cat, "PATCH", "b", {"enabled": False}) == ["routes[/mcp].upstreams[b].enabled"]
        assert set(clients.whoami()) == {"a"}
        change(cat, "PATCH", "b", {"enabled": True})
        change(cat, "PATCH", "a", {"enabled": False})
        assert set(clients.whoami()) == {"b"}
        assert change(cat, "POST", body={"name": "c", "url": c.url}) == ["routes[/mcp].upstreams[c]"]
        assert set(clients.whoami()) == {"b", "c"}
        assert change(cat, "DELETE", "b") == ["routes[/mcp].upstreams[b]"]
        assert set(clients.whoami()) == {"c"}
        change(cat, "PATCH", "a", {"enabled": True})
        c_is = "routes[/mcp].upstreams[c]"
        assert change(cat, "POST", "c", {"deadline": "60s"}, tail="/drain") == [
            f"{c_is}.enabled",
            f"{c_is}.drain",
        ]
        # What is disabled already can be drained all the same.
        assert change(cat, "POST", "c", {"deadline": "90s"}, tail="/drain") == [f"{c_is}.drain"]
        assert set(clients.whoami()) == {"a"}
        assert {name: one["enabled"] for name, one in listed(cat).items()} == {"a": True, "c": False}


def test_a_request_that_follows_at_once_sees_it_too(cat: Shadowcat) -> None:
    """The API answers when all workers have taken a change up; whoever asks sooner is served by it too."""
    with everywhere(cat) as clients, ThreadPoolExecutor(1) as pool:
        for name in "ab" * 5:
            answer = pool.submit(change, cat, "PATCH", name, {"enabled": False})
            eventually(lambda name=name: not listed(cat)[name]["enabled"], what="the change")
            assert name not in clients.whoami()
            answer.result()
            change(cat, "PATCH", name, {"enabled": True})


def test_other_weights(cat: Shadowcat) -> None:
    def opened(count: int) -> str:
        return "".join(Session.open(cat.address).whoami()["server"] for _ in range(count))

    assert Counter(opened(8)) == {"a": 4, "b": 4}
    change(cat, "PATCH", "a", {"weight": 3})
    opened(4)  # Whatever turn they were at.
    assert Counter(opened(16)) == {"a": 12, "b": 4}
    change(cat, "PATCH", "b", {"weight": 3})
    opened(6)
    assert Counter(opened(12)) == {"a": 6, "b": 6}


def test_all_disabled_and_back(cat: Shadowcat) -> None:
    with everywhere(cat) as clients:
        for name in "ab":
            change(cat, "PATCH", name, {"enabled": False})
        with RawClient(cat.address[1], timeout=30) as client:
            client.send(WHO)
            answer = client.read_response()
            assert answer.status == 503
            assert answer.header("retry-after")
        change(cat, "PATCH", "b", {"enabled": True})
        assert set(clients.whoami()) == {"b"}


# Nothing is lost


def test_no_request_fails_while_upstreams_come_and_go() -> None:
    """Echo servers a bit slow, so that every change meets open requests."""
    with ExitStack() as stack:
        one, two, three = (stack.enter_context(EchoUpstream(0.005)) for _ in range(3))
        upstreams = [{"name": "one", "url": one.url}, {"name": "two", "url": two.url}]
        cat = stack.enter_context(
            Shadowcat({"workers": WORKERS, "routes": [{"path": "/mcp", "upstreams": upstreams}]})
        )
        traffic = stack.enter_context(Traffic(cat.address, kept=12, fresh=4))

        def go_on() -> None:
            enough = traffic.answered + 60
            eventually(lambda: traffic.answered >= enough or traffic.failures, what="traffic")

        go_on()
        for round_ in range(3):
            before = three.requests
            change(cat, "POST", body={"name": "three", "url": three.url, "weight": 10})
            go_on()
            assert three.requests > before
            change(cat, "PATCH", "one", {"weight": 5 + round_})
            go_on()
            change(cat, "PATCH", "two", {"enabled": False})
            go_on()
            change(cat, "PATCH", "two", {"enabled": True})
            # What is under way when it begins to drain ends well; its deadline is another matter.
            change(cat, "POST", "one", {"deadline": "60s"}, tail="/drain")
            go_on()
            change(cat, "PATCH", "one", {"enabled": True})
            change(cat, "DELETE", "three")
            # What it had under way may have been sent, and be counted there a while later.
            eventually(lambda: not cat.status()["leaving"], what="the end of what three had under way")
            silent = three.requests
            go_on()
            assert three.requests == silent
    assert traffic.failures == []
    assert set(traffic.outcomes) == {"answered"}


def test_no_session_fails_or_moves_while_others_come_and_go(cat: Shadowcat, trio: Trio) -> None:
    with SessionTraffic(cat, kept=8, clients=1, churning=2, pace=0.02) as traffic:

        def go_on() -> None:
            enough = traffic.total + 100
            eventually(lambda: traffic.total >= enough or traffic.misses, what="traffic")

        go_on()
        for _ in range(2):
            change(cat, "POST", body={"name": "c", "url": trio[2].url})
            go_on()
            change(cat, "PATCH", "a", {"enabled": False})
            go_on()
            change(cat, "PATCH", "a", {"enabled": True, "weight": 2})
            change(cat, "PATCH", "b", {"enabled": False})
            go_on()
            change(cat, "PATCH", "b", {"enabled": True})
            change(cat, "DELETE", "c")
            go_on()
    assert traffic.misses == []
    assert {len(homes) for homes in traffic.homes.values()} == {1}


# Sessions of those that leave


def session_on(cat: Shadowcat, name: str) -> Session:
    """A session of this upstream; the others that it took to get it end."""
    for _ in range(20):
        session = Session.open(cat.address)
        if session.whoami()["server"] == name:
            return session
        session.delete()
    raise AssertionError(f"no session on {name}")


@pytest.mark.parametrize("way", ["drain", "remove"])
def test_sessions_of_an_upstream_that_leaves_end_at_the_deadline(trio: Trio, way: str) -> None:
    with Shadowcat(of(*trio[:2])) as cat:
        stays, leaves = session_on(cat, "a"), session_on(cat, "b")
        if way == "remove":
            cat.write(of(*trio[:2], upstream_drain_timeout="3s"))
            assert call(cat, "POST", "/api/reload")[1]["changed"] == ["upstream_drain_timeout"]
        began = time.monotonic()
        if way == "drain":
            change(cat, "POST", "b", {"deadline": "3s"}, tail="/drain")
        else:
            change(cat, "DELETE", "b")
        for _ in range(4):
            answer = leaves.call("whoami")
            # On a machine that stood still the deadline may have passed.
            assert time.monotonic() - began >= 3.0 or whoami_in(answer)["server"] == "b"
            assert Session.open(cat.address).whoami()["server"] == "a"
        eventually(lambda: leaves.ask("ping").status == 404, timeout=15, what="the end of its session")
        assert stays.whoami()["server"] == "a"
        change(cat, *(("PATCH", "b", {"enabled": True}) if way == "drain" else
                      ("POST", None, {"name": "b", "url": trio[1].url})))  # fmt: skip
        assert session_on(cat, "b").ask("ping").status == 200


def test_sessions_of_a_disabled_one_go_on(cat: Shadowcat) -> None:
    session = session_on(cat, "b")
    change(cat, "PATCH", "b", {"enabled": False})
    for _ in range(4):
        assert session.whoami()["server"] == "b"
        assert Session.open(cat.address).whoami()["server"] == "a"


# The file


def test_a_new_file(cat: Shadowcat, trio: Trio) -> None:
    a, _, c = trio
    with everywhere(cat) as clients:
        cat.write(of(a, c))
        hangup(cat)
        eventually(lambda: set(listed(cat)) == {"a", "c"}, what="the new configuration")
        assert set(clients.whoami()) == {"a", "c"}
        # Another route beside the old one.
        other = {"path": "/other/mcp", "upstreams": [{"name": "c", "url": c.url}]}
        cat.write(of(a) | {"routes": [*of(a)["routes"], other]})
        hangup(cat)
        eventually(lambda: len(cat.status()["routes"]) == 2, what="the new route")
        with RawClient(cat.address[1], timeout=30) as client:
            client.send(WHO.replace(b"/mcp", b"/other/mcp", 1))
            assert whoami_in(client.read_response())["server"] == "c"
        assert set(clients.whoami()) == {"a"}


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("{", "line 1"),
        ('{"routes": []}', "routes: at least one route is needed"),
        ('{"routes": [{"upstreams": [{"url": "ftp://h/"}]}], "wrokers": 1}', "did you mean workers?"),
    ],
)
def test_a_file_that_cannot_be_used_changes_nothing(cat: Shadowcat, text: str, cause: str) -> None:
    before = listed(cat)
    cat.write(text)
    hangup(cat)
    eventually(lambda: cause in cat.stderr, what="a line in the log")
    status, document = call(cat, "POST", "/api/reload")
    assert (status, document["title"]) == (409, "Conflict")
    assert cause in document["detail"]
    assert listed(cat) == before
    with everywhere(cat) as clients:
        assert set(clients.whoami()) == {"a", "b"}


def test_what_needs_a_restart_is_named_and_the_rest_applied(cat: Shadowcat, trio: Trio) -> None:
    a, _, c = trio
    cat.write(of(a, c, workers=3, listen="127.0.0.1:1", sessions={"capacity": 100}))
    status, document = call(cat, "POST", "/api/reload")
    assert status == 200
    assert document["restart_needed"] == ["listen", "workers", "sessions.capacity"]
    assert document["changed"] == ["routes[/mcp].upstreams[b]", "routes[/mcp].upstreams[c]"]
    assert "these changes need a restart: listen, workers, sessions.capacity" in cat.stderr
    assert len(cat.status()["workers"]) == WORKERS
    # They are named for as long as they wait.
    status, document = call(cat, "POST", "/api/reload")
    assert (status, document["changed"]) == (200, [])
    assert document["restart_needed"] == ["listen", "workers", "sessions.capacity"]
    with everywhere(cat) as clients:
        assert set(clients.whoami()) == {"a", "c"}


def test_reading_the_file_overwrites_what_the_api_changed(cat: Shadowcat, trio: Trio) -> None:
    with everywhere(cat) as clients:
        change(cat, "PATCH", "a", {"enabled": False})
        change(cat, "POST", body={"name": "c", "url": trio[2].url})
        assert set(clients.whoami()) == {"b", "c"}
        hangup(cat)
        eventually(lambda: set(listed(cat)) == {"a", "b"}, what="what the file says")
        assert set(clients.whoami()) == {"a", "b"}


# Who dies


def test_a_change_outlives_control_and_workers(cat: Shadowcat, trio: Trio) -> None:
    change(cat, "POST", body={"name": "c", "url": trio[2].url})
    change(cat, "PATCH", "a", {"enabled": False})
    before = listed(cat)
    for name in ("control", "worker 0", "worker 1", "worker 2", "worker 3"):
        victim = cat.children()[name]
        victim.kill()
        eventually(
            lambda name=name, pid=victim.pid: (now := cat.children().get(name)) and now.pid != pid,
            what=f"another {name}",
        )
    eventually(lambda: _ready(cat), what="all of them")
    assert listed(cat) == before
    with everywhere(cat) as clients:
        assert set(clients.whoami()) == {"b", "c"}
        change(cat, "PATCH", "b", {"enabled": False})
        assert set(clients.whoami()) == {"c"}


def _ready(cat: Shadowcat) -> bool:
    try:
        return all(worker["state"] == "ready" for worker in cat.status()["workers"])
    except OSError:
        return False


# The command


def test_the_command(cat: Shadowcat, trio: Trio) -> None:
    def shadowcat(*arguments: str) -> str:
        done = subprocess.run(
            [COMMAND.with_name("shadowcat"), *arguments, "--admin", cat.ready["admin"]],
            env=os.environ | {"COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    with everywhere(cat) as clients:
        shadowcat("upstream", "add", f"c={trio[2].url},weight=2")
        shadowcat("upstream", "disable", "a")
        shadowcat("upstream", "drain", "b", "--deadline", "10s")
        assert set(clients.whoami()) == {"c"}
        shadowcat("upstream", "enable", "b")
        shadowcat("upstream", "remove", "c")
        assert set(clients.whoami()) == {"b"}
        shadowcat("upstream", "weight", "b", "7")
        rows = {row.split()[0]: row.split()[1:4] for row in shadowcat("upstream", "list").splitlines()[1:]}
        assert rows == {"a": ["/mcp", "1", "disabled"], "b": ["/mcp", "7", "enabled"]}
        assert "upstreams[a].enabled" in shadowcat("reload")
        assert set(clients.whoami()) == {"a", "b"}
