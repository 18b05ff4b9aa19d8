from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from shadowcat.testing.loopback import Loopback, Peer

from .conftest import Build

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
TRACE = b"4bf92f3577b34da6a3ce929d0e0e4736"


def call(name: str = "echo", method: str = "tools/call", **members: str) -> bytes:
    params = {"name": name, "arguments": {"secret": "argument"}} | members
    return json.dumps({"jsonrpc": "2.0", "id": 7, "method": method, "params": params}).encode()


def post(body: bytes, *lines: bytes, path: bytes = b"/mcp") -> bytes:
    fields = b"".join(line + b"\r\n" for line in (b"Host: localhost", *lines))
    return b"POST %b HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (path, fields, len(body), body)


def serve(loopback: Loopback, request: bytes, answer: bytes = ANSWER, after: float = 0.0) -> Peer:
    """Send a request on a connection of its own and have it answered by the upstream."""
    client = loopback.client()
    client.send(request)
    loopback.settle()
    if after:
        loopback.advance(after)
    loopback.upstreams[-1].send(answer)
    loopback.settle()
    return client


Entries = Callable[[Loopback], list[dict[str, Any]]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "access.log"


@pytest.fixture
def entries(path: Path) -> Entries:
    def read(loopback: Loopback) -> list[dict[str, Any]]:
        loopback.advance(0.15)
        return [json.loads(line) for line in path.read_text().splitlines()]

    return read


@pytest.fixture
def logged(build: Build, path: Path) -> Loopback:
    return build(path=str(path), format="json")


def test_what_a_line_says(logged: Loopback, entries: Entries) -> None:
    before = time.time()
    client = serve(
        logged,
        post(
            call(),
            b"User-Agent: agent/1 (x)",
            b"traceparent: 00-" + TRACE + b"-00f067aa0ba902b7-01",
            path=b"/mcp/below",
        ),
        after=0.25,
    )
    (entry,) = entries(logged)
    moment = entry.pop("time")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", moment)
    # The virtual clock has gone ahead of the time of day by what the exchange took.
    assert before - 2 < datetime.fromisoformat(moment).timestamp() < time.time() + 2
    assert entry == {
        "client": "127.0.0.1",
        "method": "POST",
        "path": "/mcp/below",
        "http": "1.1",
        "route": "/mcp",
        "upstream": "a",
        "era": "legacy",
        "rpc": "tools/call",
        "name": "echo",
        "status": 200,
        "refusal": None,
        "complete": True,
        "seconds": 0.25,
        "received": len(call()),
        "sent": len(client.received),
        "worker": 0,
        "trace": TRACE.decode(),
        "user_agent": "agent/1 (x)",
    }


def test_a_remembered_head_has_the_values_of_its_own_request(logged: Loopback, entries: Entries) -> None:
    client = logged.client()
    traces = [b"%032x" % number for number in range(1, 6)]
    for trace in traces:
        client.send(post(call(), b"traceparent: 00-" + trace + b"-00f067aa0ba902b7-01"))
        logged.settle()
        logged.upstreams[-1].send(ANSWER)
        logged.settle()
    assert [entry["trace"] for entry in entries(logged)] == [trace.decode() for trace in traces]


@pytest.mark.parametrize("form", ["text", "json"])
def test_nothing_secret_is_logged(build: Build, path: Path, form: str) -> None:
    loopback = build(path=str(path), format=form)
    lines = (
        b"Authorization: Bearer secret", b"Mcp-Session-Id: secret", b"Cookie: a=secret",
        b"MCP-Protocol-Version: 2026-07-28",
    )  # fmt: skip
    serve(loopback, post(call(), *lines, path=b"/mcp?key=secret"))
    serve(loopback, post(call(method="resources/read", uri="file:///secret"), *lines))
    serve(loopback, post(call(method="tasks/get", taskId="secret"), *lines))
    serve(loopback, post(call(), *lines[:-1]))
    loopback.advance(0.15)
    text = path.read_text()
    assert text.count("\n") == 4
    assert "secret" not in text
    assert "argument" not in text
    assert "tasks/get" in text


def test_refusals_and_preflights(logged: Loopback, entries: Entries) -> None:
    client = logged.client()
    client.send(
        post(call(), path=b"/nowhere"),
        post(b"{", b"traceparent: 00-" + TRACE + b"-00f067aa0ba902b7-01"),
        post(call(), b"Host: again"),
    )
    other = logged.client()
    other.send(b"OPTIONS /mcp HTTP/1.1\r\nHost: localhost\r\n\r\n")
    found = [
        (entry["method"], entry["path"], entry["status"], entry["refusal"], entry["trace"], entry["sent"] > 0)
        for entry in entries(logged)
    ]
    assert found == [
        ("POST", "/nowhere", 404, "no_route", None, True),
        ("POST", "/mcp", 400, "not_json", TRACE.decode(), True),
        (None, None, 400, "bad_host", None, True),
        ("OPTIONS", "/mcp", 204, None, None, True),
    ]


def test_a_refusal_over_the_message_names_the_tool(logged: Loopback, entries: Entries) -> None:
    version = b"MCP-Protocol-Version: 2026-07-28"
    logged.client().send(post(call(), version, b"Mcp-Method: tools/call", b"Mcp-Name: other"))
    (entry,) = entries(logged)
    assert (entry["refusal"], entry["rpc"], entry["name"], entry["era"]) == (
        "header_differs",
        "tools/call",
        "echo",
        "modern",
    )


def test_clients_that_leave_and_answers_that_break_off(logged: Loopback, entries: Entries) -> None:
    leaver = logged.client()
    leaver.send(post(call()))
    logged.settle()
    leaver.reset()
    logged.settle()
    waiting = logged.client()
    waiting.send(post(call()))
    logged.settle()
    logged.upstreams[-1].send(b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\nhalf")
    logged.upstreams[-1].reset()
    logged.settle()
    found = [(entry["status"], entry["complete"], entry["upstream"]) for entry in entries(logged)]
    assert found == [(499, False, "a"), (200, False, "a")]


def test_failed_upstreams_are_named(logged: Loopback, entries: Entries) -> None:
    logged.loop.failures = [ConnectionRefusedError(), ConnectionRefusedError()]
    logged.client().send(post(call()))
    logged.settle()
    (entry,) = entries(logged)
    assert (entry["status"], entry["refusal"], entry["upstream"]) == (502, "connect_failed", "a")


def test_the_client_is_seen_through_trusted_proxies(build: Build, path: Path, entries: Entries) -> None:
    loopback = build(path=str(path), format="json", trusted_proxies=("127.0.0.0/8",))
    serve(loopback, post(call(), b"X-Forwarded-For: 203.0.113.9, 198.51.100.7"))
    assert [entry["client"] for entry in entries(loopback)] == ["198.51.100.7"]


def test_the_sample_is_of_successes_only(
    build: Build, path: Path, entries: Entries, monkeypatch: pytest.MonkeyPatch
) -> None:
    chances = iter([0.2, 0.3, 0.1, 0.9])
    monkeypatch.setattr("random.random", lambda: next(chances))
    loopback = build(path=str(path), format="json", sample=0.25)
    for name in ("in", "out", "also in", "also out"):
        serve(loopback, post(call(name)))
    # A GET stream ends when its reader has had enough: no failure.
    loopback.client().send(post(b"{"))
    serve(loopback, post(call("bad")), b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n")
    assert [entry["name"] for entry in entries(loopback)] == ["in", "also in", None, "bad"]


def test_a_stream_that_its_reader_leaves_is_no_failure(build: Build, path: Path, entries: Entries) -> None:
    loopback = build(path=str(path), format="json", sample=0.0)
    reader = loopback.client()
    reader.send(b"GET /mcp HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
    loopback.settle()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    loopback.upstreams[-1].send(head)
    reader.reset()
    loopback.settle()
    assert entries(loopback) == []


def test_text_reads_like_combined(build: Build, path: Path) -> None:
    loopback = build(path=str(path))
    agent = b'User-Agent: a"b\\c'
    client = serve(loopback, post(call(), agent), after=0.1)
    loopback.client().send(post(b"{"))
    loopback.client().send(post(call(), b"Host: again"))
    loopback.advance(0.15)
    first, second, third = path.read_text().splitlines()
    combined = r"127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d \+0000\] "
    assert re.fullmatch(
        combined
        + rf'"POST /mcp HTTP/1\.1" 200 {len(client.received)} "-" "a\\x22b\\x5cc" '
        + r"era=legacy route=/mcp rpc=tools/call name=echo upstream=a "
        + rf"seconds=0\.100 received={len(call())} worker=0",
        first,
    )
    assert re.match(combined + r'"POST /mcp HTTP/1\.1" 400 \d+ "-" "-" .*refusal=not_json ', second)
    assert re.match(combined + r'"-" 400 \d+ "-" "-" refusal=bad_host ', third)


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize(
    "name", ["a\nb", 'a" 200 "', "\x1b[2J", "\u202eevil", "a b", "ü" * 3000, "\U0001f600" * 200]
)
def test_a_client_cannot_forge_a_line(build: Build, path: Path, form: str, name: str) -> None:
    loopback = build(path=str(path), format=form)
    body = json.dumps(
        {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": name}}, ensure_ascii=False
    ).encode()
    serve(loopback, post(body, b"User-Agent: " + b'"' * 3000, path=b"/mcp/" + b"a" * 7000))
    loopback.advance(0.15)
    raw = path.read_bytes()
    assert raw.count(b"\n") == 1
    assert len(raw) <= 4096, "longer than what is atomic in a pipe"
    line = raw.decode().removesuffix("\n")
    if form == "json":
        logged = json.loads(line)["name"]
        assert logged == name or (logged[:128] == name[:128] and len(logged) == 129)
    else:
        assert line.isprintable()
        assert line.count('"') in (6, 8)


def test_lost_lines_are_counted(build: Build) -> None:
    loopback = build(path="/dev/full")
    for _ in range(400):
        loopback.client().send(post(b"{", path=b"/mcp/" + b"a" * 1000))
        loopback.advance(0.1)
    assert loopback.metric("access_log_dropped_total") > 100


def test_off_by_default(build: Build) -> None:
    loopback = build()
    assert loopback.plane.observers == ()


def test_reopened(build: Build, path: Path, tmp_path: Path) -> None:
    loopback = build(path=str(path))
    serve(loopback, post(call("before")))
    path.rename(tmp_path / "old")
    loopback.plane.reopen_logs()
    serve(loopback, post(call("after")))
    loopback.advance(0.15)
    assert "name=before" in (tmp_path / "old").read_text()
    assert re.findall(r"name=(\w+)", path.read_text()) == ["after"]


def test_the_end_writes_what_is_left(build: Build, path: Path) -> None:
    loopback = build(path=str(path))
    serve(loopback, post(call()))
    assert path.read_text() == ""
    loopback.plane.stop()
    assert path.read_text().count("\n") == 1
