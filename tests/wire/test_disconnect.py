"""A client that leaves: cancellation in the modern era and of streams, not of a legacy POST."""

from __future__ import annotations

import pytest

from shadowcat.proxy import plane
from shadowcat.testing.loopback import Peer
from shadowcat.testing.script import Hang, Receive
from shadowcat.testing.scripted import ScriptedUpstream
from shadowcat.testing.wire import chunks, request, response_head

from .conftest import Serve
from .stage import MODERN, OK, STREAM, Stage, bare, chunk, message, post, stage

EVENT = chunk(b"data: {}\n\n")
LIST = message("tools/list")
CANCELLED = {
    "modern call": post(message(), MODERN),
    "modern list": post(LIST, MODERN),
    "modern notification": post(b'{"jsonrpc":"2.0","method":"notifications/x"}', MODERN),
    "GET": bare("GET"),
    "DELETE": bare("DELETE"),
}
DETACHED = {
    "call": post(),
    "list": post(LIST),
    "notification": post(b'{"jsonrpc":"2.0","method":"notifications/x"}'),
    "response": post(b'{"jsonrpc":"2.0","id":1,"result":{}}'),
}


def begun(proxy: Stage, sent: bytes, *answer: bytes) -> tuple[Peer, Peer]:
    """A client whose request is being answered, and its upstream."""
    client = proxy.caller()
    proxy.tell(client, sent)
    upstream = proxy.upstreams[-1]
    upstream.send(*answer)
    proxy.settle()
    return client, upstream


def leave(proxy: Stage, client: Peer, how: str) -> None:
    client.reset() if how == "reset" else client.finish()
    proxy.settle()


@pytest.mark.parametrize("how", ["reset", "finish"])
@pytest.mark.parametrize("answer", [(), (STREAM,), (STREAM, EVENT), (STREAM, b"9\r\ndata")])
@pytest.mark.parametrize("sent", CANCELLED.values(), ids=CANCELLED)
def test_cancellation_reaches_the_upstream_at_once(sent: bytes, answer: tuple[bytes, ...], how: str) -> None:
    with stage() as proxy:
        client, upstream = begun(proxy, sent, *answer)
        leave(proxy, client, how)
        assert upstream.ending == "aborted"
        proxy.advance(0.2)
        assert proxy.metric("client_aborts_total", "/mcp") == 1
        assert proxy.metric("requests_in_flight", "/mcp") == 0
        assert proxy.plane.open_connections == 0


@pytest.mark.parametrize("how", ["reset", "finish"])
@pytest.mark.parametrize("behind", [post(message(), MODERN), post(message(), MODERN)[:-1], b"P", post()])
def test_cancellation_with_a_request_behind_it(behind: bytes, how: str) -> None:
    with stage() as proxy:
        client, upstream = begun(proxy, post(message(), MODERN) + behind, STREAM)
        leave(proxy, client, how)
        assert upstream.ending == "aborted"
        assert len(proxy.upstreams) == 1
        assert upstream.received.count(b"POST ") == 1


@pytest.mark.parametrize("how", ["reset", "finish"])
def test_cancellation_by_a_reader_that_stalled(how: str) -> None:
    with stage() as proxy:
        client, upstream = begun(proxy, post(message(), MODERN), STREAM, EVENT)
        client.stall()
        assert not upstream.reading
        leave(proxy, client, how)
        assert upstream.ending == "aborted"


@pytest.mark.parametrize("sent", [*CANCELLED.values(), *DETACHED.values()], ids=[*CANCELLED, *DETACHED])
def test_a_request_that_still_waits_for_a_connection_is_never_sent(sent: bytes) -> None:
    with stage(pool={"max_connections": 1}) as proxy:
        first, upstream = begun(proxy, post())
        second = proxy.caller()
        proxy.tell(second, sent)
        second.reset()
        upstream.take()
        upstream.send(OK)
        proxy.settle()
        assert first.take() == OK
        assert upstream.take() == b""
        assert len(proxy.upstreams) == 1
        assert proxy.plane.open_connections == 1


@pytest.mark.parametrize("answer", [(), (STREAM,), (STREAM, EVENT), (STREAM, b"9\r\ndata")])
@pytest.mark.parametrize("sent", DETACHED.values(), ids=DETACHED)
def test_a_legacy_post_goes_on_and_its_connection_stays_good(sent: bytes, answer: tuple[bytes, ...]) -> None:
    with stage() as proxy:
        client, upstream = begun(proxy, sent, *answer)
        leave(proxy, client, "reset")
        assert upstream.ending == "open"
        proxy.advance(0.2)
        assert proxy.metric("detached_exchanges") == 1
        assert proxy.plane.open_connections == 1
        rest = {0: OK, 1: EVENT + b"0\r\n\r\n", 2: b"0\r\n\r\n"}[len(answer)]
        if answer[-1:] == (b"9\r\ndata",):
            rest = b": {}\n\r\n0\r\n\r\n"
        upstream.send(rest)
        proxy.settle()
        assert proxy.plane.open_connections == 0
        assert upstream.ending == "open"
        upstream.take()
        assert proxy.passes(post())[1] == OK
        assert len(proxy.upstreams) == 1


def test_a_reader_that_stalled_and_left_does_not_hold_up_its_upstream() -> None:
    with stage() as proxy:
        client, upstream = begun(proxy, post(), STREAM, EVENT)
        client.stall()
        assert not upstream.reading
        leave(proxy, client, "reset")
        assert (upstream.reading, upstream.ending) == (True, "open")


@pytest.mark.parametrize(
    ("before", "after"),
    [((), ()), ((), (STREAM,)), ((), (STREAM, EVENT)), ((STREAM,), ()), ((STREAM,), (EVENT,))],
)
def test_a_detached_exchange_has_a_limit(before: tuple[bytes, ...], after: tuple[bytes, ...]) -> None:
    with stage(timeouts={"detached": 20}) as proxy:
        client, upstream = begun(proxy, post(), *before)
        leave(proxy, client, "reset")
        proxy.advance(10)
        upstream.send(*after)
        proxy.advance(9.8)
        assert upstream.ending == "open"
        proxy.advance(0.4)
        assert upstream.ending == "aborted"
        assert proxy.plane.open_connections == 0


def test_a_list_without_its_client_is_not_asked_for_again() -> None:
    with stage() as proxy:
        client, upstream = begun(proxy, post(LIST))
        leave(proxy, client, "reset")
        upstream.reset()
        proxy.settle()
        assert len(proxy.upstreams) == 1
        assert proxy.plane.open_connections == 0


def test_the_oldest_of_too_many_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plane, "MOST_DETACHED", 2)
    with stage() as proxy:
        for _ in range(3):
            client, _ = begun(proxy, post())
            leave(proxy, client, "reset")
        assert [upstream.ending for upstream in proxy.upstreams] == ["aborted", "open", "open"]
        assert proxy.plane.open_connections == 2


def test_a_stream_is_closed_before_its_successor_is_opened() -> None:
    """SDK servers have one GET stream per session: a second beside it gets 409."""
    with stage() as proxy:
        client, first = begun(proxy, bare("GET"), STREAM)
        leave(proxy, client, "finish")
        assert first.ending == "aborted"
        _, second = begun(proxy, bare("GET"), STREAM)
        assert second is not first


@pytest.mark.parametrize("how", ["close", "reset", "half"])
def test_what_the_upstream_sees_of_a_cancellation(serve: Serve, how: str) -> None:
    sse = response_head(200, [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")])
    with ScriptedUpstream([Receive(), sse + chunks(b"data: {}\n\n", last=False)]) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            client.send(request(body=message(), headers=[MODERN]))
            client.read_head()
            assert client.read_chunk() == b"data: {}\n\n"
            {"close": client.close, "reset": client.reset, "half": client.half_close}[how]()
            assert upstream.wait_for_end(0, timeout=8) in ("peer closed", "peer reset")


def test_a_request_behind_a_cancelled_one_is_never_sent(serve: Serve) -> None:
    with ScriptedUpstream([Receive(), Hang()]) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            client.send(request(body=message(), headers=[MODERN]) * 2)
            upstream.wait_for_requests(1)
            client.half_close()
            proxy.wait_until(lambda: proxy.pooled() == 0, "the cancellation")
            proxy.wait_until(lambda: proxy.metric("connections") == 0, "the end of the client connection")
        assert len(upstream.connections) == 1
