"""What an operator sees of sessions, and ends."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.harness import COMMAND, Shadowcat, eventually
from tests.e2e.sessions import PATH, Session
from tests.e2e.upstreams import Upstream, header, routes_to

CAPACITY = 500


@pytest.fixture(scope="module")
def cat(pair: tuple[Upstream, Upstream]) -> Iterator[Shadowcat]:
    routes = routes_to(*pair)
    with Shadowcat({"workers": 4, "routes": routes, "sessions": {"capacity": CAPACITY}}) as running_cat:
        yield running_cat


@pytest.fixture
def five(cat: Shadowcat) -> Iterator[list[Session]]:
    sessions = [Session.open(cat.address) for _ in range(5)]
    yield sessions
    for one in sessions:
        one.delete()


def admin(cat: Shadowcat, method: str, path: str, **headers: str) -> tuple[int, bytes]:
    host, _, port = cat.ready["admin"].rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    try:
        connection.request(method, path, headers=cat.admin_headers | headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def listed(cat: Shadowcat, limit: int = 100) -> list[dict[str, Any]]:
    """All sessions, page by page."""
    found: list[dict[str, Any]] = []
    cursor: int | None = 0
    while cursor is not None:
        status, body = admin(cat, "GET", f"/api/sessions?limit={limit}&cursor={cursor}")
        assert status == 200
        page = json.loads(body)
        assert len(page["sessions"]) <= limit
        found += page["sessions"]
        cursor = page["cursor"]
    return found


def shadowcat(cat: Shadowcat, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND.with_name("shadowcat"), *arguments, "--admin", cat.ready["admin"]],
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_sessions_are_listed_page_by_page_without_their_ids(cat: Shadowcat, five: list[Session]) -> None:
    homes = [one.whoami() for one in five]
    with five[0].stream() as stream:
        assert stream.head.status == 200
        pages = eventually(
            lambda: (
                (found := listed(cat, limit=2))
                and sum(one["stream"] is not None for one in found) == 1
                and found
            ),
            what="the list with the stream",
        )
    assert len({one["handle"] for one in pages}) == len(pages) == 5
    assert sorted(one["upstream"] for one in pages) == sorted(home["server"] for home in homes)
    for one in pages:
        assert (one["route"], one["owner"], one["state"]) == ("/mcp", "127.0.0.1", "open")
        assert one["protocol_version"] == "2025-11-25"
        assert 0 <= one["idle_seconds"] < one["age_seconds"] + 1 < 60
        # Useless to speak in the session.
        assert Session(cat.address, PATH, one["handle"]).ask("ping").status == 404
        assert json.loads(admin(cat, "GET", f"/api/sessions/{one['handle']}")[1])["handle"] == one["handle"]
    said = json.dumps(pages) + cat.stderr + shadowcat(cat, "sessions", "list").stdout
    for session, home in zip(five, homes, strict=True):
        assert session.id not in said
        assert home["session"] not in said
    # Whoever wants its digest has it already.
    assert all(one["handle"] in said for one in pages)


@pytest.mark.parametrize("way", ["api", "command"])
def test_an_operator_ends_a_session(
    cat: Shadowcat, pair: tuple[Upstream, Upstream], five: list[Session], way: str
) -> None:
    known = {one["handle"] for one in listed(cat)}
    victim = Session.open(cat.address)
    who = victim.whoami()
    ((handle,),) = [{one["handle"] for one in listed(cat)} - known]
    with victim.stream() as stream:
        assert stream.head.status == 200
        if way == "api":
            assert admin(cat, "DELETE", f"/api/sessions/{handle}") == (204, b"")
        else:
            assert shadowcat(cat, "sessions", "end", handle).returncode == 0
        eventually(lambda: victim.ask("ping").status == 404, what="the end of the session")
        stream.wait_end()
    (home,) = [upstream for upstream in pair if upstream.name == who["server"]]
    eventually(
        lambda: who["session"] in {header(end, "mcp-session-id") for end in home.seen(method="DELETE")},
        what="the DELETE upstream",
    )
    assert {one.ask("ping").status for one in five} == {200}
    assert admin(cat, "DELETE", f"/api/sessions/{handle}")[0] == 404
    assert shadowcat(cat, "sessions", "end", handle).returncode == 1


def test_a_session_below_the_route_is_ended_where_it_lives(
    cat: Shadowcat, pair: tuple[Upstream, Upstream]
) -> None:
    path = f"{PATH}/sse"  # a server of its own, with sessions of its own
    one = Session.open(cat.address, path)
    who = one.whoami()
    (home,) = [upstream for upstream in pair if upstream.name == who["server"]]
    (handle,) = [session["handle"] for session in listed(cat)]
    assert admin(cat, "DELETE", f"/api/sessions/{handle}")[0] == 204
    eventually(lambda: home.seen(method="DELETE", target=path, status=200), what="its DELETE upstream")


def test_what_is_no_handle_and_who_may_not_ask(cat: Shadowcat, five: list[Session]) -> None:
    handle = listed(cat)[0]["handle"]
    slot, _, digest = handle.partition("-")
    other = f"{slot}-{'0' * 16 if digest != '0' * 16 else '1' * 16}"
    for method in ("GET", "DELETE"):
        assert admin(cat, method, f"/api/sessions/{other}")[0] == 404
        assert admin(cat, method, "/api/sessions/nonsense")[0] == 400
        # A web page must not get at them.
        assert admin(cat, method, f"/api/sessions/{handle}", Origin="https://evil.example")[0] == 403
        assert admin(cat, method, f"/api/sessions/{handle}", Host="evil.example")[0] == 421
    for query in ("limit=0", "limit=100000", "limit=x", "cursor=-1"):
        assert admin(cat, "GET", f"/api/sessions?{query}")[0] == 400
    assert {one.ask("ping").status for one in five} == {200}


def test_status_counts_them(cat: Shadowcat, five: list[Session]) -> None:
    before = cat.status()["sessions"]
    assert before["capacity"] == CAPACITY
    assert before["live"] == len(five)
    extra = Session.open(cat.address)
    eventually(lambda: cat.status()["sessions"]["live"] == len(five) + 1, what="one more")
    assert "sessions" in shadowcat(cat, "status").stdout
    assert extra.delete().status == 200
    eventually(lambda: cat.status()["sessions"]["live"] == len(five), what="one less")
    now = cat.status()["sessions"]
    assert [now[name] - before[name] for name in ("created", "ended", "recoveries")] == [1, 1, 0]
