"""Sessions: how they come about, who may use them, where their requests go, how they end."""

from __future__ import annotations

import json
import re

import pytest

from shadowcat.config.model import Route, Upstream
from shadowcat.proxy.wheel import TICK

from .sessions import (
    INITIALIZE,
    NOTE,
    OPENS_STREAM,
    PING,
    REFUSED,
    UNKNOWN,
    VERSION,
    answer,
    event,
    farewells,
    half_open,
    id_in,
    in_session,
    lives,
    named,
    open_session,
    refusal,
    result,
    slot_of,
    turn,
)
from .stage import MODERN, OK, STREAM, Stage, bare, chunk, message, post, split, stage


def started(proxy: Stage, *reads: bytes) -> str | None:
    """The session id that a client gets with such an answer to its `initialize`."""
    done = turn(proxy, post(INITIALIZE), *reads)
    found = re.search(rb"(?i)mcp-session-id: ([^\r]*)\r\n", done.client)
    assert done.client.lower().count(b"mcp-session-id") == (found is not None)
    return found[1].decode() if found else None


# How a session comes about.


def test_a_client_gets_an_id_of_the_proxys_own() -> None:
    with stage() as proxy:
        done = turn(proxy, post(INITIALIZE), answer(result(), "up-1"))
        assert done.request.header("Mcp-Session-Id") is None
        assert done.request.body == INITIALIZE
        assert done.answer.body == result()
        session = done.answer.header("Mcp-Session-Id")
        assert session is not None
        assert re.fullmatch("[A-Za-z0-9_-]{28}", session)
        assert lives(proxy, session)


def test_two_sessions_have_two_ids() -> None:
    with stage() as proxy:
        first, second = open_session(proxy, "up-1"), open_session(proxy, "up-2")
        assert first != second
        assert lives(proxy, first, "up-1")
        assert lives(proxy, second, "up-2")


@pytest.mark.parametrize("cut", [0, 1, 60, -1])
def test_the_answer_comes_in_two_reads(cut: int) -> None:
    with stage() as proxy:
        whole = answer(result("2025-03-26"), "up-1")
        cut = cut or whole.index(b"\r\n\r\n") + 4
        session = started(proxy, whole[:cut], whole[cut:])
        assert session is not None
        assert lives(proxy, session)
        # The version is known: it is the one that allows batches.
        turn(proxy, in_session(session, b"[%b]" % PING))


def test_the_answer_is_a_stream() -> None:
    with stage() as proxy:
        note = b'{"jsonrpc":"2.0","method":"notifications/message","params":{}}'
        text = event(note) + event(result("2025-03-26")) + b"0\r\n\r\n"
        session = started(proxy, OPENS_STREAM % b"up-1" + text[:100], text[100:150], text[150:])
        assert session is not None
        turn(proxy, in_session(session, b"[%b]" % PING))
        assert farewells(proxy) == []


def test_a_session_is_used_before_its_stream_has_ended() -> None:
    with stage() as proxy:
        client = proxy.caller()
        session = half_open(proxy, client)
        # A ping from the server may have to be answered before the result is there.
        assert lives(proxy, session)
        proxy.upstreams[0].send(event(result()))
        assert result() in client.take()
        assert lives(proxy, session)
        assert proxy.metric("sessions_created_total", "/mcp", "a.example:3001") == 1


@pytest.mark.parametrize(
    "reads",
    [
        [answer(REFUSED, "up-1")],
        [answer(b"not JSON", "up-1")],
        [answer(b"", "up-1")],
        [answer(PING, "up-1")],
        [OPENS_STREAM % b"up-1", event(REFUSED) + b"0\r\n\r\n"],
        [OPENS_STREAM % b"up-1", b"0\r\n\r\n"],
        [OPENS_STREAM % b"up-1", chunk(b"data: " + result() + b"\n"), b"0\r\n\r\n"],
    ],
)
def test_an_answer_that_is_no_result_leaves_no_session(reads: list[bytes]) -> None:
    with stage(sessions={"capacity": 1}) as proxy:
        session = started(proxy, *reads)
        assert session is not None
        assert farewells(proxy) == [("a.example:3001", "up-1", None)]
        assert not lives(proxy, session)
        proxy.advance(0.2)
        assert proxy.metric("sessions_created_total", "/mcp", "a.example:3001") == 0
        assert proxy.metric("sessions_ended_total", "/mcp", "a.example:3001") == 0
        assert lives(proxy, open_session(proxy))  # There is room again.


def test_an_answer_that_breaks_off_leaves_no_session() -> None:
    with stage(sessions={"capacity": 1}) as proxy:
        client = proxy.caller()
        proxy.tell(client, post(INITIALIZE))
        proxy.upstreams[0].take()
        proxy.upstreams[0].send(answer(result(), "up-1")[:-1])
        proxy.upstreams[0].reset()
        proxy.settle()
        session = id_in(client.take())
        assert client.ending == "closed"
        assert farewells(proxy) == [("a.example:3001", "up-1", None)]
        assert not lives(proxy, session)


@pytest.mark.parametrize("status", ["400 Bad Request", "401 Unauthorized", "404 Not Found", "500 Oops"])
def test_a_status_that_is_no_success_opens_no_session(status: str) -> None:
    with stage(sessions={"capacity": 1}) as proxy:
        assert started(proxy, answer(result(), "up-1", status=status)) is None
        assert farewells(proxy) == []
        assert lives(proxy, open_session(proxy))


def test_an_upstream_that_cannot_be_reached_keeps_no_slot() -> None:
    with stage(sessions={"capacity": 1}) as proxy:
        proxy.loop.failures += [ConnectionRefusedError()] * 2
        got = proxy.ask(post(INITIALIZE))
        assert got is not None
        assert got.status == 502
        assert lives(proxy, open_session(proxy))


def test_an_upstream_without_session_ids_gets_none() -> None:
    with stage(sessions={"capacity": 1}) as proxy:
        for _ in range(3):
            done = turn(proxy, post(INITIALIZE), answer(result()))
            assert done.answer.header("Mcp-Session-Id") is None
            assert turn(proxy, post(NOTE)).request.header("Mcp-Session-Id") is None
        proxy.advance(0.2)
        assert proxy.metric("sessions_created_total", "/mcp", "a.example:3001") == 0


@pytest.mark.parametrize("ids", [["x" * 129], ["a b"], ["\xe9"], ["up-1", "up-1"], [""]])
def test_an_id_that_cannot_be_kept(ids: list[str]) -> None:
    with stage(sessions={"capacity": 1}) as proxy:
        client = proxy.caller()
        proxy.tell(client, post(INITIALIZE))
        text = answer(result())
        lines = "".join(f"Mcp-Session-Id: {each}\r\n" for each in ids).encode("latin-1")
        proxy.upstreams[0].take()
        proxy.upstreams[0].send(text.replace(b"Content-Length", lines + b"Content-Length"))
        (got,) = split(client.take())
        assert (got.status, got.code) == (502, -32603)
        assert got.header("Mcp-Session-Id") is None
        proxy.settle()
        assert lives(proxy, open_session(proxy))


def test_the_longest_id() -> None:
    with stage() as proxy:
        assert lives(proxy, open_session(proxy, "~" * 128), "~" * 128)


def test_a_client_that_leaves_before_the_answer_leaves_no_session() -> None:
    with stage(sessions={"capacity": 1}) as proxy:
        client = proxy.caller()
        proxy.tell(client, post(INITIALIZE))
        client.reset()
        proxy.upstreams[0].take()
        proxy.upstreams[0].send(answer(result(), "up-1"))
        proxy.settle()
        assert farewells(proxy) == [("a.example:3001", "up-1", None)]
        assert lives(proxy, open_session(proxy))


def test_a_client_that_leaves_between_head_and_result_keeps_its_session() -> None:
    with stage() as proxy:
        client = proxy.caller()
        session = half_open(proxy, client)
        client.reset()
        proxy.upstreams[0].send(event(result()) + b"0\r\n\r\n")
        proxy.settle()
        assert lives(proxy, session)


@pytest.mark.parametrize(
    "body", [NOTE.replace(b"notifications/initialized", b"initialize"), PING, NOTE, b'{"id":1,"result":{}}']
)
def test_only_a_request_to_initialize_opens_a_session(body: bytes) -> None:
    with stage() as proxy:
        done = turn(proxy, post(body), answer(result(), "up-1"))
        assert done.answer.header("Mcp-Session-Id") is None
        proxy.advance(1.2)
        turn(proxy, post(PING))  # Nor is anything learned of the upstream.


def test_only_the_legacy_era_has_sessions() -> None:
    with stage() as proxy:
        done = turn(proxy, post(message("initialize"), MODERN), answer(result(), "up-1"))
        assert done.answer.header("Mcp-Session-Id") is None
        turn(proxy, post(PING))


# Where requests go, and under which names.


def test_a_session_keeps_its_upstream() -> None:
    with stage(upstreams=3) as proxy:
        homes = {}
        for number in range(9):
            done = turn(proxy, post(INITIALIZE), answer(result(), f"up-{number}"))
            session = done.answer.header("Mcp-Session-Id")
            assert session is not None
            homes[session] = done.host, f"up-{number}"
        assert len({host for host, _ in homes.values()}) == 3
        for sent in (in_session, lambda session: bare("GET", named(session)), in_session, in_session):
            for session, (host, upstream_id) in homes.items():
                done = turn(proxy, sent(session), answer(b"{}", upstream_id))
                assert (done.host, done.request.header("Mcp-Session-Id")) == (host, upstream_id)
                assert done.answer.header("Mcp-Session-Id") == session


def test_a_retry_goes_to_the_same_upstream() -> None:
    with stage(upstreams=2) as proxy:
        done = turn(proxy, post(INITIALIZE), answer(result(), "up-1"))
        session = done.answer.header("Mcp-Session-Id")
        assert session is not None
        for upstream in proxy.upstreams:
            upstream.reset()
        proxy.settle()
        proxy.loop.dialled.clear()
        proxy.loop.failures.append(TimeoutError())
        again = turn(proxy, in_session(session))
        assert again.host == done.host
        assert [f"{host}:{port}" for host, port in proxy.loop.dialled] == [done.host] * 2


SSE = STREAM.replace(b"\r\n\r\n", b"\r\nMcp-Session-Id: %b\r\n\r\n")
ANSWERS: list[list[bytes]] = [
    [answer(b"{}", "ID")],
    [answer(b"{}", "ID")[:-1], b"}"],
    [answer(b"{}", "ID").replace(b"Mcp-Session-Id", b"mcp-session-id")],
    [answer(b"2\r\n{}\r\n0\r\n\r\n", "ID").replace(b"Content-Length: 12", b"Transfer-Encoding: chunked")],
    [SSE % b"ID" + event(PING), b"0\r\n\r\n"],
    [answer(b"", "ID", status="202 Accepted")],
    [answer(b"", "ID", status="500 Oops")],
    [b"HTTP/1.1 204 No Content\r\nMcp-Session-Id: ID\r\n\r\n"],
    [answer(b"{}", "ID", "ID")],
]  # fmt: skip


@pytest.mark.parametrize("reads", ANSWERS)
def test_the_id_of_an_answer_is_replaced(reads: list[bytes]) -> None:
    with stage() as proxy:
        session = open_session(proxy)
        lines = []
        for number in range(5):  # The same head again, the same again, and another one.
            upstream_id = b"up-1" if number < 4 else b"other"
            done = turn(proxy, in_session(session), *(read.replace(b"ID", upstream_id) for read in reads))
            lines = re.findall(rb"(?i)(mcp-session-id: .*)\r\n", done.client)
            assert [line.lower() for line in lines] == [b"mcp-session-id: " + session.lower().encode()]
            assert session.encode() in lines[0]
            assert upstream_id not in done.client


@pytest.mark.parametrize("reads", ANSWERS)
@pytest.mark.parametrize("era", ["modern", "no session"])
def test_the_id_of_an_answer_is_removed(reads: list[bytes], era: str) -> None:
    with stage() as proxy:
        for _ in range(4):
            done = turn(proxy, post(message(), *([MODERN] if era == "modern" else [])), *reads)
            assert b"mcp-session-id" not in done.client.lower()
            assert b"ID" not in done.client


def test_no_id_is_added_to_an_answer() -> None:
    with stage() as proxy:
        session = open_session(proxy)
        for _ in range(4):
            assert turn(proxy, in_session(session), OK).client == OK
            assert turn(proxy, in_session(session), STREAM, b"0\r\n\r\n").client == STREAM + b"0\r\n\r\n"


def test_sessions_and_others_take_turns_on_one_connection() -> None:
    with stage(pool={"max_connections": 1}) as proxy:
        sessions = [open_session(proxy, "up-1"), open_session(proxy, "up-2")]
        client = proxy.caller()
        for _ in range(4):
            for session in sessions:
                got = turn(proxy, in_session(session), answer(b"{}", "same"), client=client).answer
                assert got.header("Mcp-Session-Id") == session
            got = turn(proxy, post(message(), MODERN), answer(b"{}", "same"), client=client).answer
            assert got.header("Mcp-Session-Id") is None
        assert len(proxy.upstreams) == 1


def test_a_modern_request_names_no_session() -> None:
    with stage() as proxy:
        for ids in (["x"], [open_session(proxy)], ["x", "x"]):
            done = turn(proxy, post(message(), MODERN, *map(named, ids)))
            assert done.request.header("Mcp-Session-Id") is None


# Who may use it.


@pytest.mark.parametrize(
    "session", [UNKNOWN, "", "x", "A" * 27, "A" * 29, "A" * 27 + "=", "\xe9" * 28, "up-1", "A" * 27 + "B"]
)
def test_an_unknown_session(session: str) -> None:
    with stage() as proxy:
        open_session(proxy)
        for sent in (in_session(session), bare("GET", named(session)), bare("DELETE", named(session))) * 3:
            got = refusal(proxy, sent)
            assert got.status == 404
            assert got.error == {
                "jsonrpc": "2.0",
                "id": 7 if sent.startswith(b"POST") else None,
                "error": {"code": -32600, "message": "no such session; initialize anew"},
            }
        assert proxy.metric("refusals_total", "session_unknown") == 9
        proxy.advance(TICK)
        assert proxy.answered("/mcp", 404) == 9


def test_a_session_of_another_route_is_unknown() -> None:
    other = Route(path="/other", upstreams=[Upstream(url="http://z.example:3001/mcp")])
    with stage(routes=[other]) as proxy:
        session = open_session(proxy)
        for _ in range(3):
            got = refusal(proxy, post(PING, named(session), path="/other"))
            unknown = refusal(proxy, post(PING, named(UNKNOWN), path="/other"))
            assert got == unknown
            assert lives(proxy, session)


@pytest.mark.parametrize("ids", [["{}", "{}"], ["{}", "x"], ["x", "{}"], ["", "{}"]])
@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
def test_a_repeated_session_header(method: str, ids: list[str]) -> None:
    with stage() as proxy:
        session = open_session(proxy)
        fields = [named(each.format(session)) for each in ids]
        got = refusal(proxy, post(PING, *fields) if method == "POST" else bare(method, *fields))
        assert (got.status, got.code) == (400, -32600)
        assert lives(proxy, session)


# What is kept.


def test_the_record() -> None:
    with stage() as proxy:
        found = slot_of(proxy, open_session(proxy))
        record = found.record
        assert (record.principal, record.owner, record.route) == ("anonymous", "127.0.0.1", "/mcp")
        assert (record.row, record.generation, record.upstream_id) == (0, 1, b"up-1")
        assert record.version == VERSION
        assert record.capabilities == ("logging", "tools", "tools.listChanged")
        assert record.declared == 5
        params = proxy.plane.sessions.table.params(found)
        assert params is not None
        assert json.loads(params) == json.loads(INITIALIZE)["params"]
