"""/api/sessions of a control process, over real sockets."""

from __future__ import annotations

import hashlib
import os
import time
from typing import Any

import orjson
import pytest

from shadowcat.config.model import Config
from shadowcat.control import sweeper
from shadowcat.control.admin import sessions
from shadowcat.shm.mailboxes import Mail
from shadowcat.shm.page import State
from shadowcat.shm.sessions.record import SessionState
from shadowcat.shm.shared import CONTROL, worker_number
from shadowcat.testing.host import cell_of

from .conftest import DEADLINE
from .people import SECOND, UPSTREAM_ID, opened
from .test_server import add, samples

ONE, TWO = worker_number(0), worker_number(1)


@pytest.fixture
def table(shared):
    return shared.sessions_for(ONE)


@pytest.fixture
def workers(shared, full_start) -> None:
    for worker in (ONE, TWO):
        shared.page(worker).set_state(State.READY)


def listed(ask, query: str = "") -> dict[str, Any]:
    answer = ask("/api/sessions" + query)
    assert (answer.status, answer.getheader("Content-Type")) == (200, "application/json")
    assert answer.getheader("Cache-Control") == "no-store"
    return orjson.loads(answer.body)


def handle_of(session) -> str:
    return f"{session.slot:x}-{hashlib.sha256(session.id).hexdigest()[:16]}"


def test_a_session_is_described_without_its_secrets(shared, table, control, ask) -> None:
    now = time.monotonic_ns()
    hour = 3600 * SECOND
    session = opened(
        table, now - 100 * SECOND, 86_400.0, row=2, route="/other", recoveries=(now - 2 * hour, now - SECOND)
    )
    table.take_stream(session, TWO)
    document = listed(ask)
    [row] = document["sessions"]
    assert document["cursor"] is None
    assert row["handle"] == handle_of(session)
    assert (row["route"], row["upstream"]) == ("/other", "a")
    assert (row["principal"], row["owner"]) == ("anonymous", "192.0.2.7")
    assert (row["protocol_version"], row["state"]) == ("2025-06-18", "open")
    assert 100 <= row["age_seconds"] < 110
    assert 100 <= row["idle_seconds"] < 110
    assert 1690 < row["expires_in_seconds"] <= 1700
    assert row["stream"] == 1
    assert row["incarnation"] == session.incarnation
    assert row["recoveries"] == 1
    one = ask(f"/api/sessions/{row['handle']}")
    assert orjson.loads(one.body).keys() == row.keys()
    assert orjson.loads(one.body)["handle"] == row["handle"]
    for body in (ask("/api/sessions").body, one.body):
        assert session.id not in body
        assert UPSTREAM_ID not in body
        assert b"secret" not in body


def test_an_opening_session_has_no_version_yet(table, control, ask) -> None:
    opened(table, state=SessionState.OPENING, version="")
    [row] = listed(ask)["sessions"]
    assert (row["state"], row["protocol_version"], row["stream"]) == ("opening", None, None)


def test_pages_join_into_the_whole(table, start, tcp, ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "_CHUNK", 4)
    assert start(tcp).said() == "R"
    handles = [handle_of(session) for session in sorted((opened(table) for _ in range(25)), key=_slot)]
    assert [row["handle"] for row in listed(ask)["sessions"]] == handles
    read: list[str] = []
    cursor, pages = 0, 0
    while cursor is not None:
        page = listed(ask, f"?limit=10&cursor={cursor}")
        read += [row["handle"] for row in page["sessions"]]
        cursor = page["cursor"]
        pages += 1
    assert read == handles
    assert pages == 3


def _slot(session) -> int:
    return session.slot


def test_expired_sessions_are_not_shown(table, control, ask) -> None:
    session = opened(table, time.monotonic_ns() - 60 * SECOND, 1.0)
    assert listed(ask)["sessions"] == []
    assert ask(f"/api/sessions/{handle_of(session)}").status == 404
    assert ask(f"/api/sessions/{handle_of(session)}", "DELETE").status == 404


def test_a_cursor_behind_the_end_gives_nothing(control, ask) -> None:
    assert listed(ask, "?cursor=999999999") == {"sessions": [], "cursor": None}


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=-1", "limit=x", "limit=", "cursor=-1", "cursor=1.5", "cursor=²"]
)
def test_bad_queries(control, ask, query: str) -> None:
    answer = ask("/api/sessions?" + query.replace("²", "%C2%B2"))
    assert answer.status == 400
    assert query.partition("=")[0] in orjson.loads(answer.body)["detail"]


def test_a_delete_is_an_order_to_a_worker(shared, table, control, ask, workers) -> None:
    opened_here = [opened(table) for _ in range(4)]
    for session in opened_here:
        answer = ask(f"/api/sessions/{handle_of(session)}", "DELETE")
        assert (answer.status, answer.body) == (204, b"")
    told = []
    for worker in (ONE, TWO):
        mail = shared.mail.receive(worker)
        assert len(mail) == 2
        told += mail
    assert sorted(argument for _, _, argument in told) == sorted(
        (session.version & 0xFFFFFF) << 24 | session.slot for session in opened_here
    )
    assert {(sender, kind) for sender, kind, _ in told} == {(CONTROL, Mail.END_SESSION)}
    assert len(listed(ask)["sessions"]) == 4


def test_without_a_worker_a_delete_is_done_here(shared, table, control, ask) -> None:
    session, other = opened(table, row=1), opened(table)
    assert ask(f"/api/sessions/{handle_of(session)}", "DELETE").status == 204
    assert [row["handle"] for row in listed(ask)["sessions"]] == [handle_of(other)]
    assert ask(f"/api/sessions/{handle_of(session)}", "DELETE").status == 404
    assert table.find(session.id, time.monotonic_ns()) is None
    assert orjson.loads(ask("/api/status").body)["sessions"]["live"] == 1
    assert shared.page(CONTROL).cells[cell_of(shared, "sessions_ended_total", "/mcp", "b")] == 1


def test_a_locked_session_is_not_waited_for_long(shared, table, control, ask) -> None:
    session = opened(table)
    table._slots.lock(session.slot)
    try:
        answer = ask(f"/api/sessions/{handle_of(session)}", "DELETE")
        assert (answer.status, answer.getheader("Content-Type")) == (503, "application/json")
        assert ask(f"/api/sessions/{handle_of(session)}").status == 200
    finally:
        table._slots.unlock(session.slot)
    assert ask(f"/api/sessions/{handle_of(session)}", "DELETE").status == 204


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_another_sessions_handle_is_unknown(shared, table, control, ask, workers, method: str) -> None:
    session = opened(table)
    free = next(slot for slot in range(table.capacity) if slot != session.slot)
    digest = hashlib.sha256(session.id).hexdigest()
    wrong = ("0" if digest[15] != "0" else "1").join((digest[:15], ""))
    for handle in (
        f"{session.slot:x}-{wrong}",
        f"{free:x}-{digest[:16]}",
        f"ffffff-{digest[:16]}",
        f"0{session.slot:x}-{digest[:16]}",
        f"{session.slot:x}-{'ABCDEF' + digest[:10]}",
    ):
        answer = ask(f"/api/sessions/{handle}", method)
        assert (answer.status, answer.getheader("Content-Type")) == (404, "application/json")
    assert shared.mail.receive(ONE) + shared.mail.receive(TWO) == []
    assert len(listed(ask)["sessions"]) == 1


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize(
    "handle",
    ["x", "0", "0-", "-0123456789abcdef", "0-0123456789abcde", "1000000-0123456789abcdef",
     "0-0123456789abcdef0", "0-0123456789abcdef%0A", "g-0123456789abcdef", "A-0123456789abcdef"],
)  # fmt: skip
def test_malformed_handles(control, ask, method: str, handle: str) -> None:
    answer = ask(f"/api/sessions/{handle}", method)
    assert (answer.status, answer.getheader("Content-Type")) == (400, "application/json")
    assert orjson.loads(answer.body)["status"] == 400


def test_the_id_itself_is_no_handle(table, control, ask) -> None:
    session = opened(table)
    assert ask(f"/api/sessions/{session.id.hex()}").status == 400


def test_no_web_page_can_end_a_session(table, control, ask, unix, workers) -> None:
    path = f"/api/sessions/{handle_of(opened(table))}"
    for headers in (
        {"Origin": "http://localhost:3000"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ):
        assert ask(path, "DELETE", **headers).status == 403
        assert ask(path, "DELETE", to=unix, **headers).status == 403
    preflight = ask(path, "OPTIONS", Origin="http://localhost:3000")
    assert preflight.getheader("Access-Control-Allow-Origin") is None
    assert ask(path, "DELETE", Host="evil.example").status == 421
    assert ask(path, Origin="http://localhost:3000").status == 200
    assert ask(path, "DELETE", to=unix).status == 204


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_other_methods(control, ask, method: str) -> None:
    assert ask("/api/sessions", method).getheader("Allow") == "GET,HEAD"
    answer = ask("/api/sessions/0-0123456789abcdef", method)
    assert (answer.status, answer.getheader("Allow")) == (405, "DELETE,GET,HEAD")


def test_status_and_metrics_count_sessions(shared, table, control, ask) -> None:
    for _ in range(3):
        opened(table)
    for process, family, count, *labels in (
        (ONE, "sessions_created_total", 7, "/mcp", "a"),
        (TWO, "sessions_created_total", 2, "/other", "a"),
        (TWO, "sessions_ended_total", 5, "/mcp", "a"),
        (ONE, "sessions_ended_total", 1, "/mcp", "b"),
        (ONE, "session_recoveries_total", 4, "/mcp"),
        (ONE, "session_recovery_failures_total", 6, "/other"),
    ):
        add(shared, process, count, family, *labels)
    document = orjson.loads(ask("/api/status").body)
    assert document["sessions"] == {
        "live": 3, "capacity": 64, "created": 9, "ended": 6, "recoveries": 4, "recovery_failures": 6,
    }  # fmt: skip
    mcp, other = document["routes"]
    assert [upstream["sessions"] for upstream in mcp["upstreams"]] == [2, 0]
    assert [upstream["sessions"] for upstream in other["upstreams"]] == [2]
    values = samples(ask("/metrics").body.decode())
    assert values["shadowcat_sessions",] == 3
    assert values["shadowcat_sessions_capacity",] == 64
    assert values["shadowcat_sessions_pinned", "/mcp", "a"] == 2
    assert values["shadowcat_sessions_pinned", "/mcp", "b"] == 0
    assert values["shadowcat_sessions_pinned", "/other", "a"] == 2


def test_the_control_process_sweeps(
    config: Config, shared, table, start, tcp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeper, "PERIOD", SECOND // 5)
    assert start(tcp).said() == "R"
    session = opened(table, time.monotonic_ns() - 60 * SECOND, 1.0)
    cell = cell_of(shared, "sessions_ended_total", "/mcp", "a")
    deadline = time.monotonic() + DEADLINE
    while not shared.page(CONTROL).cells[cell]:
        assert time.monotonic() < deadline, "no sweep"
        os.sched_yield()
    assert table.find(session.id, time.monotonic_ns()) is None
