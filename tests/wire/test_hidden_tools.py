"""Tools that are hidden: on no list that a client gets, and unknown when it calls them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import pytest
from msgspec.structs import replace

from shadowcat.config.model import Policy, Tools
from shadowcat.errors import Refusal
from shadowcat.mcp.list_events import MAX_EVENT
from shadowcat.testing.loopback import Peer

from .hidden import (
    CHUNKED,
    EVENT,
    FULL,
    HEAD,
    HIDDEN,
    JSON,
    LEFT,
    LIST,
    NOTE,
    POLICY,
    PRIVATE,
    SSE,
    A,
    Notebook,
    listed,
    unknown,
)
from .reference import ResponseMessage, read_response
from .servers import RECOVERED, Servers
from .sessions import Turn, answer, in_session, open_session, refusal, turn
from .stage import MODERN, STREAM, Stage, bare, chunk, message, post, split
from .streams import HELLO, LAST, alone, get


@pytest.fixture
def proxy() -> Iterator[Stage]:
    with alone(policy=POLICY) as running:
        yield running


@pytest.fixture(params=["legacy", "modern", "session"])
def asking(request: pytest.FixtureRequest, proxy: Stage) -> bytes:
    """A `tools/list`."""
    if request.param == "modern":
        return post(LIST, MODERN)
    return post(LIST) if request.param == "legacy" else in_session(open_session(proxy), LIST)


def left(asking: bytes) -> bytes:
    return PRIVATE if b"2026" in asking else LEFT


def bytewise(*reads: bytes) -> list[bytes]:
    whole = b"".join(reads)
    return [whole[at : at + 1] for at in range(len(whole))]


def said(done: Turn) -> ResponseMessage:
    """The answer that the client got; it must be whole."""
    response = read_response(done.client, ended=False)
    assert response.complete
    assert response.rest == b""
    return response


# Lists.


@pytest.mark.parametrize("is_bytewise", [False, True])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_a_list_as_json(proxy: Stage, asking: bytes, framing: str, is_bytewise: bool) -> None:
    reads = {
        "length": [HEAD % (JSON, b"Content-Length: %d\r\n" % len(FULL)), FULL],
        "chunked": [HEAD % (JSON, CHUNKED), chunk(FULL[:50]), chunk(FULL[50:]), LAST],
        "close": [HEAD % (JSON, b"Connection: close\r\n"), FULL],
    }[framing]
    client = proxy.caller()
    proxy.tell(client, asking)
    upstream = next(each for each in proxy.upstreams if each.writes)
    upstream.take()
    upstream.send(*(bytewise(*reads) if is_bytewise else reads))
    if framing == "close":
        assert client.take() == b""
        upstream.finish()
    proxy.settle()
    (got,) = split(client.take())
    assert (got.status, got.header("X-Other"), got.header("Content-Type")) == (200, "y", JSON.decode())
    assert got.body == left(asking)
    # Both connections go on.
    if framing != "close":
        assert turn(proxy, post(message(), MODERN), client=client).answer.status == 200
        assert len(proxy.upstreams) == 1


def test_a_list_that_comes_at_once(proxy: Stage, asking: bytes) -> None:
    assert turn(proxy, asking, answer(FULL)).answer.body == left(asking)
    assert turn(proxy, asking, answer(LEFT)).answer.body == left(asking)


def test_a_large_list(proxy: Stage, asking: bytes) -> None:
    large = [b'{"name":"t%d","description":"%b"}' % (n, b"x" * 1000) for n in range(500)]
    full = answer(listed(*large, *HIDDEN))
    reads = [full[at : at + 65536] for at in range(0, len(full), 65536)]
    tools = json.loads(turn(proxy, asking, *reads).answer.body)["result"]["tools"]
    assert [tool["name"] for tool in tools] == [f"t{n}" for n in range(500)]


@pytest.mark.parametrize("is_bytewise", [False, True])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_a_list_in_a_stream(proxy: Stage, asking: bytes, framing: str, is_bytewise: bool) -> None:
    events = [b"id: 1\ndata:\n\n", NOTE, EVENT % FULL]
    whole = b"".join(events)
    reads = {
        "length": [HEAD % (SSE, b"Content-Length: %d\r\n" % len(whole)), whole],
        "chunked": [HEAD % (SSE, CHUNKED), *map(chunk, events), LAST],
        "close": [HEAD % (SSE, b"Connection: close\r\n"), *events],
    }[framing]
    client = proxy.caller()
    proxy.tell(client, asking)
    upstream = next(each for each in proxy.upstreams if each.writes)
    upstream.take()
    upstream.send(*(bytewise(*reads) if is_bytewise else reads))
    if framing == "close":
        upstream.finish()
    proxy.settle()
    response = read_response(client.take(), ended=False)
    assert (response.status, response.complete, response.rest) == (200, True, b"")
    assert response.body == events[0] + NOTE + EVENT % left(asking)


def test_other_events_pass_at_once(proxy: Stage, asking: bytes) -> None:
    client = proxy.caller()
    proxy.tell(client, asking)
    upstream = next(each for each in proxy.upstreams if each.writes)
    upstream.take()
    upstream.send(HEAD % (SSE, CHUNKED))
    assert client.take().endswith(b"Transfer-Encoding: chunked\r\n\r\n")
    upstream.send(chunk(NOTE))
    assert client.take() == chunk(NOTE)
    half = EVENT % FULL
    upstream.send(chunk(NOTE + half[:20]), chunk(half[20:]))
    assert client.take() == chunk(NOTE) + chunk(EVENT % left(asking))
    upstream.send(LAST)
    assert client.take() == LAST


def test_a_quiet_stream_gets_comments(proxy: Stage, asking: bytes) -> None:
    client = proxy.caller()
    proxy.tell(client, asking)
    upstream = next(each for each in proxy.upstreams if each.writes)
    upstream.take()
    upstream.send(HEAD % (SSE, CHUNKED), chunk(NOTE))
    client.take()
    proxy.advance(16)
    assert client.take() == chunk(b":\n\n")
    upstream.send(chunk((EVENT % FULL)[:9]))
    proxy.advance(16)
    assert client.take() == b""
    upstream.send(chunk((EVENT % FULL)[9:]), LAST)
    assert client.take() == chunk(EVENT % left(asking)) + LAST


@pytest.mark.parametrize("kind", [JSON, SSE])
def test_a_client_of_http_1_0(proxy: Stage, kind: bytes) -> None:
    content = FULL if kind == JSON else EVENT % FULL
    done = turn(proxy, post(LIST, version="1.0"), HEAD % (kind, CHUNKED), chunk(content), LAST)
    response = read_response(done.client, ended=False)
    assert response.body == (LEFT if kind == JSON else EVENT % LEFT)
    assert b"chunked" not in done.client


def test_fields_of_the_answer_stay(proxy: Stage) -> None:
    session = open_session(proxy)
    page = ("Origin", "http://localhost:3000")
    got = turn(proxy, in_session(session, LIST, page), answer(FULL, "up-1")).answer
    assert got.header("Mcp-Session-Id") == session
    assert got.header("Access-Control-Allow-Origin") == page[1]
    assert got.body == LEFT


@pytest.mark.parametrize("kind", [JSON, SSE])
def test_a_batch(proxy: Stage, kind: bytes) -> None:
    session = open_session(proxy, version="2025-03-26")
    content = b"[%b, %b]" % (FULL, FULL)
    wanted = b"[%b, %b]" % (LEFT, LEFT)
    if kind == SSE:
        content, wanted = EVENT % content + EVENT % FULL, EVENT % wanted + EVENT % LEFT
    done = turn(
        proxy, in_session(session, b"[%b,%b]" % (LIST, LIST)), HEAD % (kind, CHUNKED), chunk(content), LAST
    )
    assert said(done).body == wanted
    assert json.loads(done.request.body) == [json.loads(LIST)] * 2


def opened(proxy: Stage, session: str, last: str | None = None) -> tuple[Peer, Peer]:
    """A GET stream: the client, and the upstream's side."""
    client = proxy.caller()
    proxy.tell(client, get(session, last))
    (upstream,) = [each for each in proxy.upstreams if each.writes]
    upstream.take()
    upstream.send(STREAM, HELLO)
    proxy.settle()
    assert client.take().endswith(HELLO)
    return client, upstream


@pytest.mark.parametrize("last", [None, "3/4"])
def test_a_get_stream_and_its_resumption(proxy: Stage, last: str | None) -> None:
    session = open_session(proxy)
    if last is not None:
        # The id is of this incarnation of the session.
        opened(proxy, session)[0].abort()
        proxy.settle()
    client, upstream = opened(proxy, session, last)
    upstream.send(chunk(EVENT % FULL))
    assert client.take() == chunk(EVENT % LEFT)
    upstream.send(chunk((EVENT % FULL)[:30]))
    assert client.take() == b""
    upstream.send(chunk((EVENT % FULL)[30:]))
    assert client.take() == chunk(EVENT % LEFT)
    upstream.send(LAST)
    assert client.take() == LAST


def test_a_get_stream_without_a_session(proxy: Stage) -> None:
    client = proxy.caller()
    proxy.tell(client, bare("GET", ("Last-Event-ID", "3/4")))
    (upstream,) = proxy.upstreams
    upstream.take()
    upstream.send(STREAM, chunk(EVENT % FULL))
    assert client.take().endswith(b"\r\n\r\n" + chunk(EVENT % LEFT))


def test_a_get_stream_ends_in_good_order_when_the_worker_stops(proxy: Stage) -> None:
    client, upstream = opened(proxy, open_session(proxy))
    upstream.send(chunk(EVENT % FULL))
    client.take()
    proxy.plane.begin_drain()
    proxy.settle()
    assert (client.take(), upstream.ending) == (LAST, "aborted")


def test_only_lists_are_touched(proxy: Stage, asking: bytes) -> None:
    strange = answer(FULL, kind="text/plain")
    for method in ("tools/call", "resources/list", "server/discover"):
        body = message(method)
        other = asking[: asking.index(b"Content-Length")].replace(b"\r\n\r\n", b"")
        sent = other + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        assert turn(proxy, sent, strange).answer.body == FULL
    assert turn(proxy, asking, answer(b"no list", kind="text/plain")).answer.body == b"no list"
    got = turn(proxy, asking, answer(b"busy", status="500 Oh")).answer
    assert (got.status, got.body) == (500, b"busy")
    got = turn(proxy, asking, b"HTTP/1.1 204 No Content\r\n\r\n").answer
    assert (got.status, got.body) == (204, b"")


def test_a_list_of_any_status_is_filtered(proxy: Stage, asking: bytes) -> None:
    got = turn(proxy, asking, answer(FULL, status="400 Bad")).answer
    assert (got.status, got.body) == (400, left(asking))


# What is no list that can be read.


def failed(proxy: Stage, asking: bytes, *reads: bytes) -> int:
    """The status that a client gets for an answer that cannot be passed on."""
    client = proxy.caller()
    proxy.tell(client, asking)
    upstream = next(each for each in proxy.upstreams if each.writes)
    upstream.take()
    upstream.send(*reads)
    proxy.settle()
    (got,) = split(client.take())
    assert got.error["id"] == 7
    # The client's connection goes on.
    assert turn(proxy, post(message(), MODERN), client=client).answer.status == 200
    proxy.advance(0.2)
    assert proxy.answered("/mcp", got.status) == 1
    return got.status


@pytest.mark.parametrize(
    "reads",
    [
        [answer(FULL[:-1])],
        [HEAD % (JSON, CHUNKED), chunk(FULL + b"x"), LAST],
        [answer(b"<html>" + FULL, status="200 OK", kind="text/html")],
        [answer(b"data: " + FULL[:-1] + b"\n\n", kind="text/event-stream")],
        [answer(FULL).replace(b"X-", b"").replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")],
        [HEAD % (SSE, CHUNKED + b"Content-Encoding: br\r\n"), chunk(b"?")],
        [HEAD % (JSON, CHUNKED), chunk(FULL), b"oops\r\n"],
        [HEAD % (JSON, CHUNKED), *[chunk(b" " * 2**20)] * (MAX_EVENT // 2**20 + 1)],
        [HEAD % (JSON, b"Content-Length: 17000000\r\n"), *[b" " * 2**20] * (MAX_EVENT // 2**20 + 1)],
        [answer(listed(b'"%b"' % (b"x" * 5_000_000)))],
    ],
)
def test_what_cannot_be_read_is_not_passed_on(proxy: Stage, asking: bytes, reads: Sequence[bytes]) -> None:
    assert failed(proxy, asking, *reads) == 502


def test_an_upstream_that_breaks_off(proxy: Stage, asking: bytes) -> None:
    client = proxy.caller()
    proxy.tell(client, asking)
    upstream = next(each for each in proxy.upstreams if each.writes)
    upstream.take()
    upstream.send(HEAD % (JSON, b"Content-Length: 90000\r\n"), FULL)
    upstream.reset()
    proxy.settle()
    (got,) = split(client.take())
    assert got.status == 502
    assert proxy.metric("refusals_total", "reset") == 1


def test_an_upstream_that_takes_too_long(proxy: Stage, asking: bytes) -> None:
    client = proxy.caller()
    proxy.tell(client, asking)
    upstream = next(each for each in proxy.upstreams if each.writes)
    upstream.take()
    upstream.send(HEAD % (JSON, CHUNKED), chunk(FULL))
    proxy.advance(601)
    (got,) = split(client.take())
    assert got.status == 504
    assert upstream.ending == "aborted"


@pytest.mark.parametrize("bad", [b'data: {"tools":\n\n', b"data: " + b"x" * (MAX_EVENT + 1)])
def test_a_stream_that_cannot_be_read_is_cut_off(proxy: Stage, asking: bytes, bad: bytes) -> None:
    client = proxy.caller()
    proxy.tell(client, asking)
    upstream = next(each for each in proxy.upstreams if each.writes)
    upstream.take()
    upstream.send(HEAD % (SSE, CHUNKED), chunk(NOTE), chunk(bad))
    proxy.settle()
    received = client.take()
    assert received.endswith(b"\r\n\r\n" + chunk(NOTE))
    assert (client.ending, upstream.ending) == ("closed", "aborted")


@pytest.mark.parametrize("kind", [JSON, SSE])
def test_a_client_that_leaves(proxy: Stage, asking: bytes, kind: bytes) -> None:
    client = proxy.caller()
    proxy.tell(client, asking)
    upstream = next(each for each in proxy.upstreams if each.writes)
    upstream.take()
    upstream.send(HEAD % (kind, CHUNKED), chunk(FULL[:40]))
    client.reset()
    upstream.send(chunk(FULL[40:]), LAST)
    proxy.settle()
    assert turn(proxy, post(message(), MODERN)).answer.status == 200
    proxy.advance(0.2)
    assert proxy.metric("detached_exchanges") == 0


def test_only_what_is_allowed() -> None:
    with alone(policy=Policy(tools=Tools(allow=["a", "d*"], deny=["drop"]))) as proxy:
        assert turn(proxy, post(LIST), answer(FULL)).answer.body == listed(HIDDEN[0], A)
        assert refusal(proxy, post(message(name="drop"))).error == unknown("drop")
        assert refusal(proxy, post(message(name="b"))).error == unknown("b")
        assert turn(proxy, post(message(name="delete_all"))).answer.status == 200


# With other features.


def test_it_takes_effect_and_ends_while_the_worker_runs() -> None:
    with alone() as proxy:
        client = proxy.caller()
        (route,) = proxy.config.routes
        for policy in (None, POLICY, Policy(), POLICY, None):
            proxy.publish(replace(proxy.config, routes=[replace(route, policy=policy)]))
            hides = policy is POLICY
            done = turn(proxy, post(LIST, MODERN), answer(FULL), client=client)
            assert done.answer.body == (PRIVATE if hides else FULL)
            if hides:
                proxy.tell(client, post(message(name="drop")))
                (got,) = split(client.take())
                assert got.error == unknown("drop")
            else:
                assert turn(proxy, post(message(name="drop")), client=client).answer.status == 200


@pytest.mark.parametrize("strategy", ["round_robin", "power_of_two"])
def test_with_several_upstreams(strategy: str) -> None:
    with alone(upstreams=2, policy=POLICY, balance={"strategy": strategy}) as proxy:
        for _ in range(3):
            assert turn(proxy, post(LIST, MODERN), answer(FULL)).answer.body == PRIVATE
            assert turn(proxy, post(LIST), HEAD % (SSE, CHUNKED), chunk(EVENT % FULL), LAST).client.endswith(
                chunk(EVENT % LEFT) + LAST
            )
            assert refusal(proxy, post(message(name="drop"), MODERN)).status == 200
        session = open_session(proxy)
        assert turn(proxy, in_session(session, LIST), answer(FULL)).answer.body == LEFT


def test_what_is_told_is_what_the_client_got(proxy: Stage, asking: bytes) -> None:
    notebook = Notebook()
    proxy.plane.observers = (notebook,)
    clients = [
        turn(proxy, asking, answer(FULL)).client,
        turn(proxy, asking, HEAD % (SSE, CHUNKED), chunk(EVENT % FULL), LAST).client,
        turn(proxy, asking, answer(FULL[:-1])).client,
    ]
    assert [each.sent for each in notebook.told] == [len(client) for client in clients]
    assert [(each.status, each.refusal) for each in notebook.told] == [
        (200, None),
        (200, None),
        (502, Refusal.BAD_RESPONSE),
    ]
    assert all(each.complete for each in notebook.told)
    turn(proxy, asking, HEAD % (SSE, CHUNKED), chunk(NOTE), chunk(b'data: "tools"x\n\n'))
    assert not notebook.told[-1].complete
    refusal(proxy, post(message(name="drop"), MODERN))
    last = notebook.told[-1]
    assert (last.status, last.refusal, last.complete) == (200, Refusal.UNKNOWN_TOOL, True)


def test_a_lost_session_of_a_list(proxy: Stage) -> None:
    """It is initialized anew, and the list asked for again."""
    servers = Servers(proxy)
    session = servers.open()
    servers.forget()
    servers.answers["tools/list"] = answer(FULL)
    assert servers.ask(in_session(session, LIST)).body == LEFT
    assert servers.methods() == RECOVERED


def test_a_session_whose_server_may_ask(proxy: Stage) -> None:
    """Its answers pass another gate besides."""
    session = open_session(proxy)
    ask = b'{"jsonrpc":"2.0","id":5,"method":"roots/list"}'
    done = turn(
        proxy, in_session(session, LIST), HEAD % (SSE, CHUNKED), chunk(EVENT % ask + EVENT % FULL), LAST
    )
    assert said(done).body == EVENT % ask + EVENT % LEFT
    reply = b'{"jsonrpc":"2.0","id":5,"result":{"roots":[]}}'
    assert turn(proxy, in_session(session, reply), answer()).request.body == reply


def test_delete_and_initialize_are_as_ever(proxy: Stage) -> None:
    session = open_session(proxy)
    assert turn(proxy, bare("DELETE", ("Mcp-Session-Id", session)), answer()).answer.status == 200
