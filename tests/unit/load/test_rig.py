"""The rig of bench/: sessions that are opened before a measurement, failed calls, and the bars."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
from typing import Any

import pytest
from rich.console import Console

from bench.rig import client, measure, report, requests
from bench.rig.processes import RigError, json_upstream
from bench.rig.targets import TARGETS
from tests.unit.load.conftest import Request, Stub, json_answer, result, well

CPUS = frozenset(os.sched_getaffinity(0))
needs_nginx = pytest.mark.skipif(TARGETS["nginx-lean"].program() is None, reason="nginx is not installed")


async def numbered(request: Request, writer: asyncio.StreamWriter) -> bytes | None:
    """Issues ids that tell which token they were issued to."""
    if request.message["method"] == "initialize":
        token = request.headers["authorization"].removeprefix("Bearer ")
        return json_answer(result(request), extra=f"Mcp-Session-Id: s-{token}\r\n")
    return await well(request, writer)


def fields(call: str) -> dict[str, str]:
    lines = call.partition("\r\n\r\n")[0].split("\r\n")[1:]
    return {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}


def test_each_session_is_opened_by_its_own_token_and_named_in_its_own_call(stub: Stub) -> None:
    stub.answer = numbered
    calls = measure.open_sessions(stub.port, 150, tokens=True)
    assert len(calls) == 150
    for number, call in enumerate(calls):
        token = requests.token(number)
        assert fields(call)["authorization"] == f"Bearer {token}"
        assert fields(call)["mcp-session-id"] == f"s-{token}"
    notes = [r.headers for r in stub.requests if r.message["method"] == "notifications/initialized"]
    assert {n["mcp-session-id"] for n in notes} == {fields(call)["mcp-session-id"] for call in calls}
    assert all(f"Bearer {n['mcp-session-id'].removeprefix('s-')}" == n["authorization"] for n in notes)


def test_sessions_are_opened_on_many_connections_at_once(stub: Stub) -> None:
    everyone = asyncio.Event()

    async def together(request: Request, writer: asyncio.StreamWriter) -> bytes | None:
        if stub.connections == measure.CONNECTIONS:
            everyone.set()
        await asyncio.wait_for(everyone.wait(), 10)
        return await numbered(request, writer)

    stub.answer = together
    assert len(measure.open_sessions(stub.port, 2 * measure.CONNECTIONS, tokens=True)) == 128
    assert stub.connections == measure.CONNECTIONS


def test_one_id_for_two_sessions_is_an_error(stub: Stub) -> None:
    with pytest.raises(RigError, match="65 sessions got only 64 ids"):
        measure.open_sessions(stub.port, 65, tokens=True)  # the default stub names them by connection


@pytest.mark.parametrize("named", [True, False])
def test_ids_must_be_issued_just_where_the_row_has_sessions(stub: Stub, named: bool) -> None:
    async def other(request: Request, writer: asyncio.StreamWriter) -> bytes | None:
        return await well(request, writer) if not named else json_answer(result(request))

    stub.answer = other
    with pytest.raises(RigError, match="initialize got"):
        measure.open_sessions(stub.port, 1, tokens=False, named=named)


@pytest.mark.parametrize("method", ["initialize", "notifications/initialized"])
def test_a_refused_handshake_stops_the_run(stub: Stub, method: str) -> None:
    async def refuse(request: Request, writer: asyncio.StreamWriter) -> bytes | None:
        if request.message["method"] == method:
            return json_answer({}, status="503 Service Unavailable")
        return await well(request, writer)

    stub.answer = refuse
    with pytest.raises(RigError, match=f"{method} got .*503"):
        measure.open_sessions(stub.port, 1, tokens=False)


def test_a_call_without_session_has_no_session_header() -> None:
    inside, outside = requests.legacy(1, "abc", "t"), requests.legacy(1, "", "t")
    assert inside.replace("Mcp-Session-Id: abc\r\n", "") == outside


@needs_nginx
def test_the_upstream_of_the_rig_is_strict_about_sessions() -> None:
    with json_upstream(CPUS) as server, client.connect(server.port) as connection:

        def status(session: str) -> int:
            return client.exchange(
                connection, requests.filled(requests.legacy(server.port, session, ""))
            ).status

        opened = client.exchange(connection, requests.initialize(server.port, ""))
        assert opened.session is not None
        assert re.fullmatch("[0-9a-f]{32}", opened.session)
        assert json.loads(opened.body)["result"]["protocolVersion"] == "2025-11-25"
        note = client.exchange(connection, requests.initialized(server.port, opened.session, ""))
        assert note.status == 202
        call = requests.filled(requests.legacy(server.port, opened.session, ""))
        answer = client.exchange(connection, call)
        assert (answer.status, answer.session) == (200, opened.session)
        assert "content" in json.loads(answer.body)["result"]
        assert [status(wrong) for wrong in ("", "x" + opened.session, opened.session[1:])] == [404] * 3
        modern = client.exchange(connection, requests.filled(requests.modern(server.port)))
        assert (modern.status, modern.session) == (200, None)


@needs_nginx
def test_the_upstream_without_sessions_issues_none_and_takes_none() -> None:
    with json_upstream(CPUS, sessions=False) as server:
        (call,) = measure.open_sessions(server.port, 1, tokens=False, named=False)
        assert measure.probe(server.port, call) > 0
        with client.connect(server.port) as connection:
            foreign = requests.filled(requests.legacy(server.port, "0" * 32, ""))
            assert client.exchange(connection, foreign).status == 404


def counted(requests: int, size: int, **wrong: int) -> dict[str, int]:
    kinds = dict.fromkeys(("connect", "read", "write", "status", "timeout"), 0)
    return {"requests": requests, "bytes": requests * size, **kinds, **wrong}


def test_failures_of_a_run_of_wrk() -> None:
    assert measure.failures(counted(1000, 300), 300) == 0
    assert measure.failures(counted(1000, 300) | {"bytes": 301_000}, 300) == 0
    assert measure.failures(counted(1000, 300, status=7, timeout=2), 300) == 9
    # All were answered, with something else than what had been checked, and of no bad status.
    assert measure.failures(counted(1000, 120), 300) == 1000


Rounds = list[dict[str, Any]]


def rounds(*values: float, errors: int = 0) -> Rounds:
    return [{"cpu_us": value, "errors": errors} for value in values]


def only_bar(samples: dict[str, dict[str, Rounds]], name: str) -> dict[str, Any]:
    (found,) = [bar for bar in report.bars(samples) if name in bar["name"]]
    return found


def test_what_a_session_costs_is_the_difference_of_each_round() -> None:
    samples = {
        "one-session": {"shadowcat": rounds(21.0, 31.0, 26.0)},
        "no-session": {"shadowcat": rounds(20.5, 30.2, 25.9)},
    }
    bar = only_bar(samples, "in a session")
    assert bar["value"] == pytest.approx(0.5)
    assert (bar["low"], bar["high"]) == (pytest.approx(0.1), pytest.approx(0.8))
    assert bar["met"]
    samples["no-session"]["shadowcat"] = rounds(19.0, 29.0, 24.0)
    assert not only_bar(samples, "in a session")["met"]
    del samples["no-session"]
    assert report.bars(samples) == []


def test_a_row_with_errors_is_shown_as_failed_and_not_as_fast() -> None:
    samples = {"one-session": {"nginx-lean": rounds(20.0), "shadowcat": rounds(1.23, errors=3)}}
    bar = only_bar(samples, "one session")
    assert (bar["value"], bar["met"]) == (None, False)
    shown = io.StringIO()
    report.show(samples, Console(width=120, file=shown))
    assert "failed: 3 errors" in shown.getvalue()
    assert "1.23" not in shown.getvalue()
    assert "met" not in shown.getvalue()


def test_an_nginx_that_failed_is_not_what_shadowcat_is_compared_with() -> None:
    mine = rounds(27.0)
    both = {"nginx-lean": rounds(2.0, errors=1), "nginx-stream": rounds(20.0), "shadowcat": mine}
    assert only_bar({"one-session": both}, "one session")["value"] == pytest.approx(1.35)
    only_failed = {"nginx-lean": rounds(2.0, errors=1), "shadowcat": mine}
    assert only_bar({"one-session": only_failed}, "one session")["value"] is None
