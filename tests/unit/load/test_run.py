from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from shadowcat.mcp.eras import Era
from shadowcat.testing.load.connector import LoadError
from shadowcat.testing.load.plan import Plan, Progress, Result
from shadowcat.testing.load.run import Run

from .conftest import Request, Stub, json_answer, result, well


def load(
    port: int, report: Callable[[Progress], None] = lambda _: None, **changes: Any
) -> tuple[Result, list[Progress]]:
    options: dict[str, Any] = {"rate": 200, "duration": 0.4, "warmup": 0, "connections": 4, "timeout": 30}
    plan = Plan(
        host="127.0.0.1", port=port, authority=f"127.0.0.1:{port}", path="/mcp", **(options | changes)
    )
    reports: list[Progress] = []

    def keep(progress: Progress) -> None:
        reports.append(progress)
        report(progress)

    return uvloop.run(Run(plan, time.monotonic_ns, keep).execute()), reports


def test_every_call_is_sent_once_and_answered(stub: Stub) -> None:
    outcome, _ = load(stub.port, arguments={"text": "x"})
    assert (outcome.due, outcome.answered, outcome.problems, outcome.unsent) == (80, 80, {}, 0)
    assert outcome.clean
    assert sorted(call.message["id"] for call in stub.calls()) == list(range(1, 81))
    assert {call.message["params"]["arguments"]["text"] for call in stub.calls()} == {"x"}
    assert len({call.connection for call in stub.calls()}) == 4
    assert len(stub.requests) == 80


def test_legacy_opens_a_session_on_each_connection_and_ends_it(stub: Stub) -> None:
    outcome, _ = load(stub.port, era=Era.LEGACY)
    assert outcome.clean
    for number in range(1, 5):
        mine = [request for request in stub.requests if request.connection == number]
        assert [request.message.get("method") for request in mine[:2]] == [
            "initialize",
            "notifications/initialized",
        ]
        assert "mcp-session-id" not in mine[0].headers
        assert {request.headers["mcp-session-id"] for request in mine[1:]} == {f"s{number}"}
        assert mine[-1].method == "DELETE"
        assert all(request.message["method"] == "tools/call" for request in mine[2:-1])


def test_a_stall_is_charged_to_all_who_had_to_wait(stub: Stub) -> None:
    """The one that a closed-loop generator hides: one connection, one answer 300 ms late."""

    async def stall(request: Request, writer: asyncio.StreamWriter) -> bytes | None:
        if request.message["id"] == 10:
            await asyncio.sleep(0.3)
        return json_answer(result(request))

    stub.answer = stall
    outcome, _ = load(stub.port, connections=1, duration=1.0)
    assert outcome.due == 200
    assert outcome.answered == 200
    # Some 60 of the 200 were due during the stall: by sending time only one was slow.
    assert outcome.latency.p90 > 100
    assert outcome.lateness.p90 > 100
    assert outcome.service.p90 < 100 < outcome.service.max


def test_the_warm_up_is_not_counted(stub: Stub) -> None:
    async def bad_start(request: Request, writer: asyncio.StreamWriter) -> bytes | None:
        return json_answer(result(request), status="500 Oh" if request.message["id"] <= 50 else "200 OK")

    stub.answer = bad_start
    outcome, _ = load(stub.port, warmup=0.5, duration=0.4, rate=100)
    assert len(stub.calls()) == 90
    assert (outcome.due, outcome.answered, outcome.problems) == (40, 40, {})


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (json_answer({"jsonrpc": "2.0", "id": -1, "result": {}}), "answer to another request"),
        (json_answer({"jsonrpc": "2.0", "id": -1, "result": {}}, status="503 Busy"), "status 503"),
        (None, "connection lost"),
        (b"garbage\r\n\r\n", "connection lost"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{}", "unanswered"),
    ],
)
def test_bad_answers_are_counted_by_kind(stub: Stub, answer: bytes | None, problem: str) -> None:
    async def fail(request: Request, writer: asyncio.StreamWriter) -> bytes | None:
        return answer if request.message["id"] == 5 else json_answer(result(request))

    stub.answer = fail
    # A machine that stalls leaves others unanswered for a while, too.
    outcome, _ = load(stub.port, timeout=3 if problem == "unanswered" else 10)
    found = outcome.problems | ({"unanswered": outcome.unanswered} if outcome.unanswered else {})
    assert found == {problem: 1}
    assert outcome.answered == 79
    assert not outcome.clean
    assert outcome.reconnects == (problem == "connection lost")


def test_any_id_will_do_if_told_so(stub: Stub) -> None:
    async def fixed(request: Request, writer: asyncio.StreamWriter) -> bytes | None:
        return json_answer({"jsonrpc": "2.0", "id": 1, "result": {}})

    stub.answer = fixed
    assert load(stub.port, check_ids=False)[0].clean
    assert load(stub.port)[0].problems == {"answer to another request": 79}


def test_a_server_that_closes_after_each_answer_gets_new_connections(stub: Stub) -> None:
    async def close(request: Request, writer: asyncio.StreamWriter) -> bytes | None:
        return json_answer(result(request), extra="Connection: close\r\n")

    stub.answer = close
    outcome, _ = load(stub.port)
    assert outcome.clean
    assert stub.connections >= 80


def test_a_session_outlives_its_connection(stub: Stub) -> None:
    async def close(request: Request, writer: asyncio.StreamWriter) -> bytes | None:
        if request.message.get("id") == 10:
            return json_answer(result(request), extra="Connection: close\r\n")
        return await well(request, writer)

    stub.answer = close
    outcome, _ = load(stub.port, era=Era.LEGACY)
    assert outcome.clean
    assert stub.connections == 5
    assert sum(request.message.get("method") == "initialize" for request in stub.requests) == 4
    moved = [request for request in stub.requests if request.connection == 5]
    assert {request.headers["mcp-session-id"] for request in moved} < {"s1", "s2", "s3", "s4"}


def test_streams_are_counted_by_event_and_timed_to_the_first(stub: Stub) -> None:
    async def stream(request: Request, writer: asyncio.StreamWriter) -> bytes | None:
        assert request.message["params"]["_meta"]["progressToken"] == request.message["id"]
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        writer.write(b'c\r\ndata: {"x":1\r\n')
        await asyncio.sleep(0.3)
        rest = b"}\n\ndata: " + json.dumps(result(request)).encode() + b"\n\n"
        return b"%x\r\n%b\r\n0\r\n\r\n" % (len(rest), rest)

    stub.answer = stream
    outcome, _ = load(stub.port, stream=True, rate=50, connections=20)
    assert outcome.clean
    assert outcome.events == 40
    # How long all had to wait for their turn is the machine's business.
    assert outcome.latency.p50 - outcome.first_byte.p50 > 200


def test_what_was_due_in_time_is_sent_after_the_end(stub: Stub) -> None:
    async def slow(request: Request, writer: asyncio.StreamWriter) -> bytes | None:
        await asyncio.sleep(0.02)
        return json_answer(result(request))

    stub.answer = slow
    outcome, _ = load(stub.port, connections=1, rate=200, duration=0.2)
    assert outcome.clean
    assert outcome.due == 40
    assert outcome.seconds >= 0.8


def test_what_could_not_be_sent_counts_with_the_time_it_waited(stub: Stub) -> None:
    async def slow(request: Request, writer: asyncio.StreamWriter) -> bytes | None:
        await asyncio.sleep(0.2)
        return json_answer(result(request))

    stub.answer = slow
    outcome, _ = load(stub.port, connections=1, rate=100, duration=0.5, timeout=1)
    assert outcome.due == 50
    assert outcome.unsent >= 40
    # One may have been under way for all of the time-out.
    assert outcome.answered + outcome.unsent + outcome.unanswered == 50
    assert outcome.unanswered <= 1
    assert outcome.latency.p50 > 100


def test_progress_is_reported(stub: Stub) -> None:
    reported = threading.Event()

    async def wait_for_report(request: Request, writer: asyncio.StreamWriter) -> bytes | None:
        if request.message["id"] == 20:
            await asyncio.to_thread(reported.wait, 10)
        return json_answer(result(request))

    stub.answer = wait_for_report
    _, reports = load(stub.port, lambda progress: reported.set() if progress.answered else None, timeout=10)
    assert reported.is_set()
    assert reports[-1].answered > 0
    assert reports[-1].p50 > 0


def test_an_interrupted_run_reports_what_it_has(stub: Stub) -> None:
    plan = Plan(
        host="127.0.0.1",
        port=stub.port,
        authority="x",
        path="/mcp",
        rate=200,
        duration=60,
        connections=2,
        warmup=0,
    )

    async def interrupt() -> Result:
        run = Run(plan, time.monotonic_ns, lambda progress: run.interrupt() if progress.answered else None)
        return await run.execute()

    outcome = uvloop.run(interrupt())
    assert outcome.interrupted
    assert 0 < outcome.answered <= outcome.due < 200 * 60
    assert outcome.seconds < 60


def test_nothing_listens_there() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        with pytest.raises(LoadError, match="refused"):
            load(reserved.getsockname()[1])


def test_a_server_without_sessions_to_give(stub: Stub) -> None:
    async def refuse(request: Request, writer: asyncio.StreamWriter) -> bytes | None:
        return json_answer({"error": {"message": "no room"}}, status="400 Bad Request")

    stub.answer = refuse
    with pytest.raises(LoadError, match="initialize failed: status 400, no room"):
        load(stub.port, era=Era.LEGACY)


def test_one_refused_session_ends_the_other_handshakes(stub: Stub) -> None:
    """Their connections are closed, not left to the garbage collector: closing the loop hung on those."""

    async def refuse_the_last(request: Request, writer: asyncio.StreamWriter) -> bytes | None:
        # The others never get an answer.
        return json_answer({}, status="400 Bad Request") if len(stub.requests) == 4 else b""

    stub.answer = refuse_the_last
    with pytest.raises(LoadError, match="initialize failed: status 400"):
        load(stub.port, era=Era.LEGACY, timeout=30)


def test_a_connection_lost_before_the_start_is_replaced(stub: Stub) -> None:
    """One that is lost while the others still connect must not be given a request."""
    replaced = asyncio.Event()
    writers: dict[int, asyncio.StreamWriter] = {}

    async def lose_first(request: Request, writer: asyncio.StreamWriter) -> bytes | None:
        number = request.connection
        writers[number] = writer
        if request.message.get("method") == "initialize" and number > 1:
            # 64 handshakes at a time: the 65th begins when the first connection is ready.
            if number == 65:
                writers[1].close()
                while stub.connections < 66:  # noqa: ASYNC110 - the server counts, it tells nobody
                    await asyncio.sleep(0.01)
                replaced.set()
            await replaced.wait()
        return await well(request, writer)

    stub.answer = lose_first
    outcome, _ = load(stub.port, era=Era.LEGACY, connections=65)
    assert outcome.clean
    assert outcome.reconnects == 1
