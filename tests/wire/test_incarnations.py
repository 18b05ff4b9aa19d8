"""What a server asks its client, and what the client answers: never to a session that did not ask."""

from __future__ import annotations

import json

import pytest

from shadowcat.mcp.server_requests import digest_of
from shadowcat.proxy.plane import DataPlane
from shadowcat.testing.loopback import Peer

from .servers import LIST, TOOL, Servers, call, reply
from .sessions import answer, caller_at, event, in_session, named, slot_of
from .stage import STREAM, Stage, bare, chunk, split
from .streams import LAST


def question(number: object) -> bytes:
    """A request of a server."""
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": "elicitation/create", "params": {}}).encode()


def asking(*numbers: object) -> bytes:
    """The beginning of a stream with these requests."""
    return STREAM + b"".join(event(question(number)) for number in numbers)


def dropped(proxy: Stage) -> int:
    proxy.advance(0.2)
    return proxy.metric("session_answers_dropped_total", "/mcp")


def arrives(servers: Servers, session: str, body: bytes) -> bool:
    """Whether an answer of the client's reaches the server; the client sees no difference."""
    servers.seen.clear()
    got = servers.ask(in_session(session, body))
    assert (got.status, got.body) == (202, b"")
    return servers.methods() == ["POST"]


def asked(servers: Servers, session: str, *numbers: object) -> Peer:
    """A call that its server has answered with questions so far."""
    servers.answers["tools/call"] = asking(*numbers)
    client = servers.tell(in_session(session, TOOL))
    assert client.take().count(b"elicitation/create") == len(numbers)
    del servers.answers["tools/call"]
    return client


@pytest.mark.parametrize("capability", ["sampling", "elicitation", "roots"])
def test_an_answer_is_passed_on_once(proxy: Stage, servers: Servers, capability: str) -> None:
    session = servers.open(**{capability: {}})
    asked(servers, session, 0, "a")
    assert arrives(servers, session, reply(0))
    assert not arrives(servers, session, reply(0))
    assert not arrives(servers, session, reply("0"))
    assert not arrives(servers, session, reply(1))
    assert arrives(servers, session, reply("a"))
    assert not arrives(servers, session, b'{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"?"}}')
    assert dropped(proxy) == 4


def test_who_declared_nothing_is_not_looked_at(proxy: Stage, servers: Servers) -> None:
    session = servers.open()
    assert arrives(servers, session, reply(0))
    for _ in range(2):
        asked(servers, session, 1)
        assert not proxy.plane.sessions.table.answered(slot_of(proxy, session), digest_of(b"1"))
        servers.forget()
        assert servers.ping(session).status == 200
    assert dropped(proxy) == 0


def test_questions_on_the_get_stream(proxy: Stage, other: DataPlane, servers: Servers) -> None:
    session = servers.open(elicitation={})
    servers.answers["GET"] = asking(0)
    client = servers.tell(bare("GET", named(session)), caller_at(proxy, other))
    assert b"elicitation/create" in client.take()
    assert arrives(servers, session, reply(0))


def test_a_question_in_pieces(proxy: Stage, servers: Servers) -> None:
    session = servers.open(elicitation={})
    servers.silent = {"tools/call"}
    client = servers.tell(in_session(session, TOOL))
    ((upstream, _),) = servers.pending
    text = event(question(5))
    upstream.send(STREAM, text[:40], text[40:])
    assert b"elicitation/create" in client.take()
    assert arrives(servers, session, reply(5))


@pytest.mark.parametrize("framing", ["length", "chunks", "close"])
def test_questions_in_json(servers: Servers, framing: str) -> None:
    """A batch of the first revision, say."""
    session = servers.open(elicitation={})
    body = b"[%b]" % question(3)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    servers.silent = {"tools/call"}
    client = servers.tell(in_session(session, TOOL))
    ((upstream, _),) = servers.pending
    servers.silent.clear()
    if framing == "length":
        text = answer(body)
        upstream.send(text[:-4], text[-4:])
    elif framing == "chunks":
        upstream.send(head + b"Transfer-Encoding: chunked\r\n\r\n", chunk(body[:9]), chunk(body[9:]) + LAST)
    else:
        upstream.send(head + b"Connection: close\r\n\r\n" + body[:9], body[9:])
        upstream.finish()
    servers.run()
    assert b"elicit" in client.take()
    assert arrives(servers, session, reply(3))


def test_a_late_answer_never_reaches_the_next_incarnation(proxy: Stage, servers: Servers) -> None:
    session = servers.open(elicitation={})
    client = asked(servers, session, 0)
    servers.forget()
    assert servers.ping(session).status == 200
    assert not arrives(servers, session, reply(0))
    proxy.advance(0.3)
    assert client.is_closing()
    # The new one asks the same.
    asked(servers, session, 0)
    assert arrives(servers, session, reply(0))
    assert not arrives(servers, session, reply(0))
    assert dropped(proxy) == 2


def test_what_the_old_server_still_asks_is_not_the_new_ones(
    proxy: Stage, other: DataPlane, servers: Servers
) -> None:
    session = servers.open(elicitation={})
    servers.silent = {"tools/call"}
    client = servers.tell(in_session(session, TOOL), caller_at(proxy, other))
    ((upstream, _),) = servers.pending
    servers.silent.clear()
    servers.forget()
    assert servers.ping(session).status == 200
    proxy.advance(2)
    upstream.send(asking(0))
    servers.run()
    assert b"elicit" in client.take()
    assert not arrives(servers, session, reply(0))


def test_more_questions_than_are_kept(proxy: Stage, servers: Servers) -> None:
    session = servers.open(elicitation={})
    asked(servers, session, *range(16))
    assert not arrives(servers, session, reply(99))
    asked(servers, session, 16)
    assert arrives(servers, session, reply(99))
    assert arrives(servers, session, reply(0))
    servers.forget()
    assert servers.ping(session).status == 200
    assert not arrives(servers, session, reply(99))


def test_answers_in_a_batch(proxy: Stage, servers: Servers) -> None:
    servers.version = "2025-03-26"
    session = servers.open(elicitation={})
    asked(servers, session, 0, 1)
    assert not arrives(servers, session, b"[%b]" % reply(7))
    servers.seen.clear()
    assert servers.ask(in_session(session, b"[%b,%b]" % (reply(7), reply(1)))).status == 202
    (seen,) = servers.seen
    assert [each["id"] for each in seen.message] == [1]
    assert arrives(servers, session, b"[%b]" % reply(0))
    assert dropped(proxy) == 2


def test_an_answer_that_was_not_sent_can_be_given_again(proxy: Stage, servers: Servers) -> None:
    session = servers.open(elicitation={})
    asked(servers, session, 0)
    for upstream in proxy.upstreams:
        upstream.reset()
    proxy.loop.failures = [TimeoutError()] * 2
    assert servers.ask(in_session(session, reply(0))).status == 504
    assert arrives(servers, session, reply(0))
    assert not arrives(servers, session, reply(0))


def test_an_answer_whose_client_leaves_before_it_is_sent(proxy: Stage, servers: Servers) -> None:
    session = servers.open(elicitation={})
    asked(servers, session, 0)
    for upstream in proxy.upstreams:
        upstream.reset()
    proxy.settle()
    proxy.loop.answering = False
    client = proxy.caller()
    client.send(in_session(session, reply(0)))
    client.reset()
    proxy.loop.answering = True
    proxy.settle()
    for upstream in proxy.upstreams:
        upstream.reset()
    assert arrives(servers, session, reply(0))


# Locks.


def stuck(proxy: Stage, other: DataPlane, servers: Servers, *reads: bytes) -> tuple[str, Peer, int]:
    """An answer with a question has come while another process holds the slot."""
    session = servers.open(elicitation={})
    servers.silent = {"tools/call"}
    client = servers.tell(in_session(session, TOOL))
    ((upstream, _),) = servers.pending
    servers.silent.clear()
    slot = slot_of(proxy, session).slot
    other.sessions.table._slots.lock(slot)
    upstream.send(*reads)
    proxy.settle()
    return session, client, slot


def test_a_question_waits_until_it_is_noted(proxy: Stage, other: DataPlane, servers: Servers) -> None:
    reads = asking(0), event(b'{"jsonrpc":"2.0","id":7,"result":{}}') + LAST
    session, client, slot = stuck(proxy, other, servers, *reads)
    assert client.take() == b""
    other.sessions.table._slots.unlock(slot)
    proxy.advance(0.1)
    received = client.take()
    assert received.endswith(b"".join(reads)[len(STREAM) :])
    assert arrives(servers, session, reply(0))
    # The connection is as good as any.
    assert servers.ping(session, client).status == 200


def test_a_question_in_json_waits(proxy: Stage, other: DataPlane, servers: Servers) -> None:
    text = answer(b"[%b]" % question(0))
    session, client, slot = stuck(proxy, other, servers, text[:-20], text[-20:])
    # Without its end it is no question yet.
    assert not client.take().endswith(text[-20:])
    other.sessions.table._slots.unlock(slot)
    proxy.advance(0.1)
    assert client.take().endswith(text[-20:])
    assert arrives(servers, session, reply(0))


@pytest.mark.parametrize("text", [asking(0), asking(0) + LAST, answer(b"[%b]" % question(0))])
def test_a_question_that_cannot_be_noted_is_not_passed_on(
    proxy: Stage, other: DataPlane, servers: Servers, text: bytes
) -> None:
    _, client, slot = stuck(proxy, other, servers, text)
    proxy.advance(0.1)
    assert client.take() == b""
    assert client.is_closing()
    other.sessions.table._slots.unlock(slot)
    proxy.advance(0.2)
    assert proxy.metric("requests_in_flight", "/mcp") == 0


@pytest.mark.parametrize("ends", [True, False])
def test_a_client_that_leaves_while_a_question_waits(
    proxy: Stage, other: DataPlane, servers: Servers, ends: bool
) -> None:
    text = asking(0)
    _, client, slot = stuck(proxy, other, servers, text + LAST if ends else text)
    client.reset()
    proxy.settle()
    other.sessions.table._slots.unlock(slot)
    proxy.advance(0.3)
    (upstream, _) = servers.pending[0]
    if not ends:
        upstream.send(event(question(1)) + LAST)
    proxy.advance(0.3)
    assert proxy.metric("requests_in_flight", "/mcp") == 0
    assert proxy.metric("detached_exchanges") == 0


def test_an_answer_waits_for_a_lock(proxy: Stage, other: DataPlane, servers: Servers) -> None:
    session = servers.open(elicitation={})
    asked(servers, session, 0)
    slot = slot_of(proxy, session).slot
    other.sessions.table._slots.lock(slot)
    client = servers.tell(in_session(session, reply(0)))
    late = servers.tell(in_session(session, reply(0)))
    late.reset()
    assert client.take() == b""
    other.sessions.table._slots.unlock(slot)
    servers.seen.clear()
    servers.advance(0.1)
    assert servers.received(client).status == 202
    assert servers.methods() == ["POST"]
    other.sessions.table._slots.lock(slot)
    client = servers.tell(in_session(session, reply(0)))
    servers.advance(0.1)
    assert split(client.take())[0].status == 503
    other.sessions.table._slots.unlock(slot)


# Resumption.


def resuming(servers: Servers, session: str) -> str | None:
    """What the server is told of the last event of a client that knows one."""
    servers.answers["GET"] = answer(b"", status="405 No")
    servers.seen.clear()
    assert servers.ask(bare("GET", named(session), ("Last-Event-ID", "17"))).status == 405
    (seen,) = servers.seen
    del servers.answers["GET"]
    return seen.got.header("Last-Event-ID")


def with_id(event_id: bytes) -> bytes:
    return chunk(b"id: %b\ndata: {}\n\n" % event_id)


@pytest.mark.parametrize("declared", [{}, {"elicitation": {}}])
@pytest.mark.parametrize("stream", ["POST", "GET"])
def test_event_ids_of_an_older_incarnation(
    proxy: Stage, other: DataPlane, servers: Servers, declared: dict[str, object], stream: str
) -> None:
    session = servers.open(**declared)
    assert resuming(servers, session) == "17"
    servers.forget()
    assert servers.ping(session).status == 200
    assert resuming(servers, session) is None
    # An empty id is none.
    # Nor does a call's stream tell what the client would go on with.
    for event_id, known in ((b"", None), (b"1", "17" if stream == "GET" else None)):
        request = bare("GET", named(session)) if stream == "GET" else in_session(session, TOOL)
        servers.answers = {each: STREAM + with_id(event_id) for each in ("tools/call", "GET")}
        client = servers.tell(request, caller_at(proxy, other))
        assert client.take().endswith(with_id(event_id))
        client.reset()
        servers.answers = {}
        assert resuming(servers, session) == known


def test_a_resumption_that_finds_its_session_gone(servers: Servers) -> None:
    session = servers.open()
    servers.forget()
    servers.answers["GET"] = STREAM + chunk(b":\n\n")
    servers.tell(bare("GET", named(session), ("Last-Event-ID", "17")))
    gets = [each.got.header("Last-Event-ID") for each in servers.seen if each.method == "GET"]
    assert gets == ["17", None]


def test_level_and_questions_at_once(servers: Servers) -> None:
    """One answer may be of interest for two reasons."""
    session = servers.open(elicitation={})
    done = event(b'{"jsonrpc":"2.0","id":7,"result":{}}') + LAST
    servers.answers["logging/setLevel"] = asking(4) + done
    servers.tell(in_session(session, call("logging/setLevel", level="debug")))
    servers.answers = {}
    assert arrives(servers, session, reply(4))
    servers.forget()
    assert servers.ask(in_session(session, LIST)).status == 200
    assert "logging/setLevel" in servers.methods()


def test_questions_in_json_that_comes_in_one_read(servers: Servers) -> None:
    session = servers.open(elicitation={})
    for number in range(5):
        servers.answers["tools/call"] = answer(b"[%b]" % question(number))
        assert servers.ask(in_session(session, TOOL)).status == 200
        del servers.answers["tools/call"]
        assert arrives(servers, session, reply(number))
