"""Sessions that their upstream has lost: which loss brings them back, how, and what becomes of requests."""

from __future__ import annotations

import json
import logging

import pytest

from .servers import LIST, RECOVERED, TOOL, Servers, call, counted, is_over, note, opening, reply
from .sessions import NOTE, OPENS_STREAM, REFUSED, VERSION, answer, event, half_open, in_session, named
from .stage import MODERN, STREAM, Stage, bare, chunk, post


@pytest.fixture
def proxy(single: Stage) -> Stage:
    return single


# How a session is brought back.


def test_a_lost_session_is_opened_anew_and_the_request_sent_once_more(
    proxy: Stage, servers: Servers, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    session = servers.open()
    servers.forget()
    got = servers.ping(session)
    assert (got.status, json.loads(got.body)["id"]) == (200, 7)
    assert got.header("Mcp-Session-Id") == session
    first, again, told, resent = servers.seen
    assert servers.methods() == RECOVERED
    assert first.session == "up-1"
    assert again.session is None
    # Word for word what the client once said.
    assert opening().split(b'"params":')[1][:-1] in again.got.body
    assert {told.session, resent.session} == {"up-2"}
    assert told.got.header("MCP-Protocol-Version") == VERSION
    assert resent.got.body == LIST
    assert {each.host for each in (first, again, told, resent)} == {first.host}
    assert servers.ping(session).status == 200
    assert servers.methods() == ["tools/list"]
    proxy.advance(0.2)
    assert counted(proxy) == (1, 0)
    (line,) = [each.getMessage() for each in caplog.records if "anew" in each.getMessage()]
    assert session not in caplog.text
    assert "up-" not in caplog.text
    assert first.host is not None
    assert first.host in line


def test_initialized_is_not_said_for_a_client_that_has_not(servers: Servers) -> None:
    session = servers.open(initialized=False)
    servers.forget()
    assert servers.ping(session).status == 200
    assert servers.methods() == ["tools/list", "initialize", "tools/list"]


def test_initialized_that_was_dropped_is_said_to_the_next_server(proxy: Stage, servers: Servers) -> None:
    session = servers.open(initialized=False)
    servers.forget()
    assert servers.ask(in_session(session, NOTE)).status == 202
    assert servers.methods() == ["notifications/initialized"]
    assert servers.ping(session).status == 200
    assert servers.methods() == RECOVERED


def test_level_and_subscriptions_are_set_again(servers: Servers) -> None:
    session = servers.open()
    for level in ("error", "debug"):
        assert servers.ask(in_session(session, call("logging/setLevel", level=level))).status == 200
    for uri in ("file:///a", "file:///b", "file:///c"):
        servers.ask(in_session(session, call("resources/subscribe", uri=uri)))
    servers.ask(in_session(session, call("resources/unsubscribe", uri="file:///b")))
    # What the upstream has refused has not happened.
    servers.answers = {"logging/setLevel": answer(REFUSED), "resources/subscribe": answer(REFUSED)}
    servers.ask(in_session(session, call("logging/setLevel", level="info")))
    servers.ask(in_session(session, call("resources/subscribe", uri="file:///d")))
    servers.answers = {}
    servers.forget()
    servers.seen.clear()
    assert servers.ping(session).status == 200
    asked = [(each.method, each.message.get("params")) for each in servers.seen[2:-1]]
    assert asked == [
        ("notifications/initialized", None),
        ("logging/setLevel", {"level": "debug"}),
        ("resources/subscribe", {"uri": "file:///a"}),
        ("resources/subscribe", {"uri": "file:///c"}),
    ]


def test_a_level_in_a_stream_counts(servers: Servers) -> None:
    session = servers.open()
    text = event(note("notifications/message")) + event(b'{"jsonrpc":"2.0","id":7,"result":{}}')
    servers.answers["logging/setLevel"] = STREAM + text + b"0\r\n\r\n"
    servers.tell(in_session(session, call("logging/setLevel", level="debug")))
    servers.answers = {}
    servers.forget()
    servers.ping(session)
    assert "logging/setLevel" in servers.methods()


def test_what_a_batch_has_set_cannot_be_set_again(proxy: Stage, servers: Servers) -> None:
    servers.version = "2025-03-26"
    session = servers.open()
    batch = b"[%b]" % call("resources/subscribe", uri="file:///a")
    assert servers.ask(in_session(session, batch)).status == 202
    servers.forget()
    assert servers.ping(session).status == 404
    assert is_over(servers, session)


def test_a_batch_is_sent_once_more_if_it_asks(servers: Servers) -> None:
    servers.version = "2025-03-26"
    session = servers.open()
    servers.forget()
    assert servers.ask(in_session(session, b"[%b]" % NOTE)).status == 202
    assert servers.methods() == ["POST"]
    assert servers.ask(in_session(session, b"[%b,%b]" % (LIST, NOTE))).status == 202
    assert servers.methods() == ["POST", "initialize", "notifications/initialized", "POST"]


def test_the_new_session_is_opened_where_and_how_the_client_does_it(servers: Servers) -> None:
    session = servers.open(path="/mcp/deep?key=1")
    servers.forget()
    fields = [
        ("X-Api-Key", "secret"),
        ("Mcp-Protocol-Version", VERSION),
        ("traceparent", "x"),
        ("Accept", "text/plain"),
    ]
    assert servers.ask(post(LIST, named(session), *fields, path="/mcp/deep?key=1")).status == 200
    again, told = servers.seen[1:3]
    for seen in (again, told):
        assert seen.got.start[:2] == ("POST", "/mcp/deep?key=1")
        assert seen.got.header("X-Api-Key") == "secret"
        assert seen.got.header("X-Forwarded-For") == "127.0.0.1"
        assert seen.got.header("Accept") == "application/json, text/event-stream"
        assert seen.got.header("Content-Type") == "application/json"
        assert seen.got.header("traceparent") is None
    assert again.got.header("MCP-Protocol-Version") is None


def test_a_result_in_a_stream_that_stays_open(servers: Servers) -> None:
    _, client = servers.recovering()
    ((upstream, seen),) = servers.pending
    servers.silent.clear()
    assert seen.host is not None
    servers.sessions["up-9"] = seen.host
    upstream.send(OPENS_STREAM % b"up-9" + event(note("notifications/message")))
    upstream.send(event(servers.result(seen.message["id"])))
    servers.run()
    assert servers.received(client).status == 200
    assert upstream.is_closing()


# What does it, and what does not.


def test_a_get_does_it(proxy: Stage, servers: Servers) -> None:
    session = servers.open()
    servers.forget()
    servers.answers["GET"] = STREAM + chunk(b":\n\n")
    client = servers.tell(bare("GET", named(session)))
    assert client.take().startswith(b"HTTP/1.1 200 OK\r\n")
    assert servers.methods() == ["GET", "initialize", "notifications/initialized", "GET"]


def test_notifications_and_answers_do_not(proxy: Stage, servers: Servers) -> None:
    session = servers.open()
    servers.forget()
    for body in (note("notifications/cancelled"), reply(1)):
        got = servers.ask(in_session(session, body))
        assert (got.status, got.body) == (202, b"")
    assert servers.methods() == ["notifications/cancelled", "POST"]
    proxy.advance(0.2)
    assert proxy.metric("session_notifications_dropped_total", "/mcp") == 2
    assert proxy.answered("/mcp", 202) == 3
    assert servers.ping(session).status == 200


def test_delete_does_not(proxy: Stage, servers: Servers) -> None:
    session = servers.open()
    servers.forget()
    got = servers.delete(session)
    assert (got.status, json.loads(got.body)["error"]["code"]) == (404, -32001)
    assert servers.methods() == ["DELETE"]
    assert is_over(servers, session)


@pytest.mark.parametrize("status", ["500 Oops", "503 Busy", "400 Bad", "410 Gone"])
def test_other_statuses_are_passed_on(servers: Servers, status: str) -> None:
    session = servers.open()
    servers.answers["tools/list"] = answer(b"mine", status=status, kind="text/plain")
    got = servers.ping(session)
    assert (got.status, got.body) == (int(status[:3]), b"mine")
    assert servers.methods() == ["tools/list"]


def test_a_time_out_is_no_loss(servers: Servers) -> None:
    session = servers.open()
    servers.silent = {"tools/list"}
    client = servers.tell(in_session(session, LIST))
    servers.advance(10.5)
    assert servers.received(client).status == 504
    servers.silent.clear()
    assert servers.ping(session).status == 200
    assert "initialize" not in servers.methods()


@pytest.mark.parametrize(("body", "status"), [(LIST, 200), (TOOL, 502)])
def test_a_reset_is_no_loss(servers: Servers, body: bytes, status: int) -> None:
    session = servers.open()
    method = json.loads(body)["method"]
    servers.silent = {method}
    client = servers.tell(in_session(session, body))
    servers.silent.clear()
    ((upstream, _),) = servers.pending
    upstream.reset()
    servers.run()
    assert servers.received(client).status == status
    assert servers.methods() == [method] * (2 if status == 200 else 1)


@pytest.mark.parametrize("is_dead", [True, False])
def test_a_server_that_is_just_dying(servers: Servers, is_dead: bool) -> None:
    """It accepts one more connection, but not to serve it."""
    session = servers.open()
    servers.silent = {"tools/list"}
    client = servers.tell(in_session(session, LIST))
    for _ in range(2):
        upstream, _ = servers.pending.pop()
        upstream.reset()
        servers.run()
    assert client.take() == b""
    servers.advance(0.3)
    upstream, seen = servers.pending.pop()
    if is_dead:
        upstream.send(servers.answer_to(seen))
    else:
        upstream.reset()
    servers.run()
    assert servers.received(client).status == (200 if is_dead else 502)
    assert servers.methods() == ["tools/list"] * 3


def test_a_session_that_is_not_open_yet_is_not_lost(servers: Servers, proxy: Stage) -> None:
    got = servers.ping(half_open(proxy, proxy.caller()))
    assert (got.status, json.loads(got.body)["error"]["code"]) == (404, -32001)
    assert servers.methods() == ["tools/list"]


def test_the_new_connection_is_not_one_that_may_be_stale(servers: Servers, proxy: Stage) -> None:
    session = servers.open()
    servers.silent = {"tools/list"}
    clients = [servers.tell(in_session(session, LIST)) for _ in range(2)]
    servers.silent = {"initialize"}
    for upstream, seen in servers.pending:
        upstream.send(servers.answer_to(seen))
    servers.pending.clear()
    servers.run()
    assert [servers.received(client).status for client in clients] == [200, 200]
    servers.forget()
    before = list(proxy.upstreams)
    servers.tell(in_session(session, LIST))
    ((upstream, _),) = servers.pending
    assert upstream not in before


def test_a_session_stays_where_it_is_if_it_can(servers: Servers) -> None:
    for _ in range(2):
        session = servers.open()
        (home,) = {servers.sessions[name] for name in list(servers.sessions)[-1:]}
        servers.sessions.popitem()
        assert servers.ping(session).status == 200
        assert {each.host for each in servers.seen} == {home}
        servers.seen.clear()


def test_what_the_upstream_did_not_take_is_not_said_again(servers: Servers) -> None:
    session = servers.open(initialized=False)
    done = b'{"jsonrpc":"2.0","id":7,"result":{}}'
    servers.answers = dict.fromkeys(
        ("notifications/initialized", "logging/setLevel"), answer(done, status="400 Bad")
    )
    assert servers.ask(in_session(session, NOTE)).status == 400
    assert servers.ask(in_session(session, call("logging/setLevel", level="info"))).status == 400
    servers.answers = {}
    servers.forget()
    servers.seen.clear()
    assert servers.ping(session).status == 200
    assert servers.methods() == ["tools/list", "initialize", "tools/list"]


def test_a_404_like_others_before(servers: Servers) -> None:
    """Heads that come again take a shorter way."""
    session = servers.open()
    servers.forget()
    for _ in range(5):
        assert servers.ask(post(LIST, MODERN)).status == 404
    assert servers.ping(session).status == 200
