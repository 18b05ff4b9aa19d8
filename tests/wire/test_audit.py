"""What is recorded of requests: each tool call once, however it ends, and whoever is refused."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from shadowcat.config.model import Audit
from shadowcat.config.units import Duration, Size
from shadowcat.errors import Refusal
from shadowcat.proxy.clients.denial import Denial

from .audit import AUDIT, briefly, events, lines, one, ring_of
from .sessions import in_session, named, open_session, turn
from .stage import MODERN, OK, STREAM, Stage, bare, chunk, message, post, split, stage

CALL = message("tools/call", "echo", arguments=None)
SECRET = "s3cr3t-argument"
ARGUED = json.dumps(
    {
        "jsonrpc": "2.0",
        "id": "a7",
        "method": "tools/call",
        "params": {"name": "echo", "arguments": {"text": SECRET}},
    }
).encode()
FAILED = b"HTTP/1.1 500 Oops\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


@pytest.fixture
def proxy() -> Iterator[Stage]:
    with stage(audit=AUDIT) as running:
        yield running


# Tool calls.


def test_a_tool_call_with_all_that_is_to_be_known_of_it(proxy: Stage) -> None:
    before = time.time()
    proxy.passes(
        post(
            ARGUED,
            MODERN,
            ("Mcp-Name", "echo"),
            ("X-Request-Id", "req-1"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("X-Secret", SECRET),
            path=f"/mcp/below?key={SECRET}",
        ),
        peer="198.51.100.7",
    )
    (line,) = lines(proxy)
    assert SECRET.encode() not in line
    event = json.loads(line)
    moment = datetime.fromisoformat(event.pop("time"))
    assert moment.tzinfo == UTC
    assert before - 0.001 <= moment.timestamp() <= time.time()
    assert re.fullmatch(r"[0-9a-f]{12,}-2-0", event.pop("id"))
    assert event == {
        "event": "tool_call",
        "outcome": "ok",
        "reason": None,
        "request_id": "req-1",
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "rpc_id": '"a7"',
        "session": None,
        "principal": "anonymous",
        "client": "198.51.100.7",
        "http": "POST",
        "method": "tools/call",
        "tool": "echo",
        "status": 200,
        "seconds": 0.0,
        "route": "/mcp",
        "upstream": "a.example:3001",
        "worker": 0,
        "data": None,
    }


def test_only_tool_calls_are_recorded_of_what_goes_well(proxy: Stage) -> None:
    for method in ("ping", "tools/list", "prompts/get", "resources/read"):
        proxy.passes(post(message(method)))
    assert events(proxy) == []


def test_ids_are_never_used_twice(proxy: Stage) -> None:
    for _ in range(50):
        proxy.passes(post(CALL))
    assert len({event["id"] for event in events(proxy)}) == 50


def test_how_long_it_took(proxy: Stage) -> None:
    client = proxy.caller()
    proxy.tell(client, post(CALL))
    proxy.advance(2.0)
    proxy.upstreams[0].send(OK)
    assert one(proxy)["seconds"] == pytest.approx(2.0, abs=0.2)


def test_a_call_that_fails(proxy: Stage) -> None:
    proxy.passes(post(CALL), answer=FAILED)
    assert briefly(events(proxy), "status", "reason") == [("tool_call", "failed", 500, None)]


def test_a_call_that_no_upstream_answers(proxy: Stage) -> None:
    client = proxy.caller()
    proxy.tell(client, post(CALL))
    proxy.upstreams[0].reset()
    proxy.settle()
    event = one(proxy)
    assert (event["event"], event["outcome"], event["reason"]) == ("tool_call", "refused", "reset")
    assert (event["status"], event["upstream"]) == (502, "a.example:3001")


@pytest.mark.parametrize("fields", [(), (MODERN, ("Mcp-Method", "tools/call"))], ids=["legacy", "modern"])
def test_a_call_whose_client_leaves_before_the_answer(proxy: Stage, fields: tuple) -> None:
    client = proxy.caller()
    proxy.tell(client, post(CALL, *fields))
    client.reset()
    proxy.settle()
    assert briefly(events(proxy), "status", "tool") == [("tool_call", "incomplete", None, "echo")]
    if proxy.upstreams[0].ending == "open":
        proxy.upstreams[0].send(OK)  # Goes on without its client, and is not told twice.
        proxy.settle()
    assert events(proxy) == []


def test_a_call_whose_stream_breaks_off(proxy: Stage) -> None:
    client = proxy.caller()
    proxy.tell(client, post(CALL, MODERN, ("Mcp-Method", "tools/call")))
    (upstream,) = proxy.upstreams
    upstream.send(STREAM, chunk(b"data: {}\n\n"))
    proxy.settle()
    assert events(proxy) == [], "at its end"
    upstream.reset()
    proxy.settle()
    assert briefly(events(proxy), "status", "tool") == [("tool_call", "incomplete", 200, "echo")]


def test_each_call_of_a_batch(proxy: Stage) -> None:
    session = open_session(proxy, version="2025-03-26")
    events(proxy)
    messages = [
        {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": {"name": f"tool-{number}"}}
        for number in (1, 2)
    ]
    messages.insert(1, {"jsonrpc": "2.0", "id": 3, "method": "ping"})
    turn(proxy, in_session(session, json.dumps(messages).encode()))
    found = events(proxy)
    assert briefly(found, "tool", "rpc_id", "status") == [
        ("tool_call", "ok", "tool-1", "1", 200),
        ("tool_call", "ok", "tool-2", "2", 200),
    ]
    assert {event["session"] for event in found} != {None}


def test_a_session_is_named_by_its_handle(proxy: Stage) -> None:
    session = open_session(proxy)
    (created,) = events(proxy)
    turn(proxy, in_session(session, CALL))
    (line,) = lines(proxy)
    assert session.encode() not in line
    assert json.loads(line)["session"] == created["session"]
    assert re.fullmatch(r"[0-9a-f]+-[0-9a-f]{16}", created["session"])


def test_what_clients_choose_is_bounded(proxy: Stage) -> None:
    for character in ("x", "\u2603", "\x01", '"'):
        long = character * 3000
        body = {"jsonrpc": "2.0", "id": long, "method": "tools/call", "params": {"name": long}}
        proxy.passes(post(json.dumps(body).encode(), ("X-Request-Id", '"' * 3000)))
        (line,) = lines(proxy)
        assert len(line) <= 2040
        event = json.loads(line)
        assert event["tool"].startswith(character)
        assert event["outcome"] == "ok"


# Requests that are refused.


def test_requests_that_are_refused(proxy: Stage) -> None:
    refused = [
        (b"nonsense\r\n\r\n", ("bad_request_line", 400, None, None)),
        (post(b"{"), ("not_json", 400, "/mcp", None)),
        (bare("PUT"), ("method", 405, "/mcp", None)),
        (post(CALL, host="elsewhere"), ("wrong_host", 421, None, None)),
        (post(CALL, ("Origin", "https://elsewhere.example")), ("wrong_origin", 403, None, None)),
        (post(CALL, path="/nowhere"), ("no_route", 404, None, None)),
        (post(CALL, named("A" * 28)), ("session_unknown", 404, "/mcp", "tools/call")),
    ]
    for sent, (reason, status, route, method) in refused:
        assert proxy.ask(sent) is not None
        event = one(proxy)
        if reason == "session_unknown":
            assert (event["event"], event["tool"]) == ("tool_call", "echo")
        else:
            assert event["event"] == "refusal"
        assert event["outcome"] == "refused"
        assert (event["reason"], event["status"]) == (reason, status)
        assert event["method"] == method
        assert event["route"] in (route, "/mcp")
        assert event["client"] == "127.0.0.1"
    assert proxy.untouched


class _Denying:
    """A check such as policy and limits have."""

    def __init__(self, denial: Denial) -> None:
        self.denial = denial

    def judge(self, *_: object) -> Denial:
        return self.denial


@pytest.mark.parametrize(
    ("refusal", "event", "outcome"),
    [
        (Refusal.SCOPE_MISSING, "policy", "denied"),
        (Refusal.UNKNOWN_TOOL, "policy", "denied"),
        (Refusal.SESSIONS_FULL, "tool_call", "refused"),
    ],
)
def test_what_checks_deny(proxy: Stage, refusal: Refusal, event: str, outcome: str) -> None:
    denial = Denial(refusal, data={"tier": "route"}, why="rule admins")
    proxy.plane.routes[0].checks = (_Denying(denial),)  # type: ignore[assignment]
    got = proxy.ask(post(CALL))
    assert got is not None
    assert b"admins" not in got.body
    found = one(proxy)
    assert (found["event"], found["outcome"], found["reason"]) == (event, outcome, refusal.name.lower())
    assert found["data"] == {"tier": "route", "why": "rule admins"}
    assert (found["tool"], found["method"], found["principal"]) == ("echo", "tools/call", "anonymous")


def test_a_decision_that_refuses_nothing(proxy: Stage) -> None:
    audit = proxy.plane.audit
    assert audit is not None

    class Allowing:
        def judge(self, exchange, client, messages, session):  # type: ignore[no-untyped-def]
            audit.decision(exchange, client, "allowed", "everybody", message=messages[0], session=session)

    proxy.plane.routes[0].checks = (Allowing(),)
    session = open_session(proxy)
    events(proxy)
    turn(proxy, in_session(session, CALL))
    decision, call = events(proxy)
    assert (decision["event"], decision["outcome"], decision["reason"]) == ("policy", "allowed", "everybody")
    same = ("session", "principal", "client", "tool", "method", "rpc_id", "route")
    assert [decision[name] for name in same] == [call[name] for name in same]


@pytest.mark.parametrize("name", ["echo", "\u2603" * 200, '"'])
def test_a_decision_is_told_alike_whatever_there_is_to_say_besides(proxy: Stage, name: str) -> None:
    audit = proxy.plane.audit
    assert audit is not None

    class Allowing:
        def judge(self, exchange, client, messages, session):  # type: ignore[no-untyped-def]
            for data in (None, {"more": 1}):
                audit.decision(exchange, client, "allowed", "all", message=messages[0], data=data)

    proxy.plane.routes[0].checks = (Allowing(),)
    for method in ("tools/call", "prompts/get", "ping"):
        request = {"jsonrpc": "2.0", "id": "a\u00e4", "method": method, "params": {"name": name}}
        proxy.passes(post(json.dumps(request).encode(), ("X-Request-Id", "r-1")))
        short, long = [event for event in events(proxy) if event["event"] == "policy"]
        assert list(short) == list(long)
        own = {"time", "id", "data"}
        assert {key: value for key, value in short.items() if key not in own} == {
            key: value for key, value in long.items() if key not in own
        }


# What is recorded, and whether there is room.

MOST = 500
"""More calls than there is room for."""


def test_only_the_events_that_are_asked_for() -> None:
    with stage(audit=replace(AUDIT, events=["refusal"])) as proxy:
        proxy.passes(post(CALL))
        proxy.ask(post(b"{"))
        assert briefly(events(proxy)) == [("refusal", "refused")]


def test_nothing_without_the_section() -> None:
    with stage() as proxy:
        proxy.passes(post(CALL))
        assert proxy._shared.rings() == []
        assert proxy.plane.audit is None
        assert proxy.plane.observers == ()
        assert proxy.plane.routes[0].checks == ()


def fill(proxy: Stage) -> int:
    """Make calls until no more is recorded; how many were."""
    for recorded in range(MOST):
        tail = ring_of(proxy).tail
        proxy.passes(post(CALL))
        if ring_of(proxy).tail == tail:
            return recorded
    raise AssertionError("there is always room")


def test_drop_carries_out_what_cannot_be_recorded_and_counts_it() -> None:
    with stage(audit=Audit(path="x", capacity=Size("64KiB"))) as proxy:
        recorded = fill(proxy)
        for _ in range(4):
            proxy.passes(post(CALL))
        assert proxy.metric("audit_dropped_total") == 5
        assert len(events(proxy)) == recorded > 100
        proxy.passes(post(CALL))
        assert len(events(proxy)) == 1


def test_refuse_carries_out_nothing_that_cannot_be_recorded() -> None:
    with stage(audit=Audit(path="x", overflow="refuse", capacity=Size("64KiB"))) as proxy:
        carried_out = 0
        for _ in range(MOST):
            client = proxy.caller()
            proxy.tell(client, post(CALL))
            if received := client.take():
                break
            carried_out += 1
            (upstream,) = [each for each in proxy.upstreams if each.writes]
            upstream.take()
            upstream.send(OK)
            proxy.settle()
            client.abort()
        (got,) = split(received)
        assert (got.status, got.code, got.header("Retry-After")) == (503, -32603, "1")
        assert all(not upstream.writes for upstream in proxy.upstreams)
        assert proxy.metric("refusals_total", "audit_full") == 1
        assert proxy.metric("audit_dropped_total") == 0
        assert len(events(proxy)) == carried_out > 50
        while ring_of(proxy).append(b"{}\n"):
            pass
        for sent in (post(message("ping")), bare("GET")):
            refused = proxy.ask(sent)
            assert refused is not None
            assert refused.status == 503
        lines(proxy)
        proxy.passes(post(CALL))
        assert len(events(proxy)) == 1


def test_refuse_counts_what_is_still_under_way() -> None:
    """However many end at once, there is room for them all."""
    with stage(audit=Audit(path="x", overflow="refuse", capacity=Size("64KiB"))) as proxy:
        clients = []
        for _ in range(MOST):
            client = proxy.caller()
            proxy.tell(client, post(CALL))
            if client.take():
                break
            clients.append(client)
        assert 8 <= len(clients) <= 16
        for number, client in enumerate(clients):
            if number % 2:
                client.reset()
        for upstream in proxy.upstreams:
            upstream.take()
            upstream.send(OK)
        proxy.settle()
        assert len(events(proxy, "tool_call")) == len(clients)
        assert proxy.metric("audit_dropped_total") == 0
        # And all of it is free again.
        for _ in range(100):
            proxy.passes(post(CALL))
            assert len(events(proxy)) == 1


def test_refuse_holds_after_a_change_of_the_configuration() -> None:
    with stage(audit=Audit(path="x", overflow="refuse", capacity=Size("64KiB"))) as proxy:
        (check,) = proxy.plane.routes[0].checks
        proxy.publish(replace(proxy.config, upstream_drain_timeout=Duration(7)))
        proxy.passes(post(CALL))
        assert proxy.plane.routes[0].checks == (check,)
