"""Comments that the proxy puts into quiet streams of events, and into nothing else."""

from __future__ import annotations

import gzip
from collections.abc import Iterable

import pytest

from shadowcat.mcp.sse import EventScanner
from shadowcat.proxy.upstreams import upstream as upstream_module
from shadowcat.testing.loopback import Peer
from shadowcat.testing.script import Hang, Receive
from shadowcat.testing.scripted import ScriptedUpstream
from shadowcat.testing.wire import chunks, request, response_head

from .conftest import Serve
from .stage import MODERN, OK, STREAM, Stage, bare, chunk, message, post, stage

EVENT = chunk(b"data: {}\n\n")
COMMENT = chunk(b":\n\n")
LAST = b"0\r\n\r\n"
CLOSING = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
REQUESTS = {
    "GET": bare("GET"),
    "listen": post(message("subscriptions/listen"), MODERN),
    "call": post(),
    "modern call": post(message(), MODERN),
}


def streaming(proxy: Stage, *answer: bytes, sent: bytes = REQUESTS["GET"]) -> tuple[Peer, Peer]:
    """A client that has been sent the beginning of a stream, and its upstream."""
    client = proxy.caller()
    proxy.tell(client, sent)
    upstream = proxy.upstreams[-1]
    upstream.send(*answer)
    proxy.settle()
    client.take()
    return client, upstream


@pytest.mark.parametrize("sent", REQUESTS.values(), ids=REQUESTS)
@pytest.mark.parametrize("begun", [STREAM, STREAM + EVENT])
def test_every_fifteen_seconds(sent: bytes, begun: bytes) -> None:
    with stage() as proxy:
        client, upstream = streaming(proxy, begun, sent=sent)
        for _ in range(3):
            proxy.advance(14.7)
            assert client.take() == b""
            proxy.advance(0.5)
            assert client.take() == COMMENT
        upstream.send(EVENT + LAST)
        assert client.take() == EVENT + LAST
        assert client.ending == "open"


def test_an_event_puts_it_off() -> None:
    with stage() as proxy:
        client, upstream = streaming(proxy, STREAM)
        for _ in range(3):
            proxy.advance(10)
            upstream.send(EVENT)
            assert client.take() == EVENT
        proxy.advance(14.7)
        assert client.take() == b""
        proxy.advance(0.5)
        assert client.take() == COMMENT


def test_a_client_that_takes_nothing_gets_none() -> None:
    with stage(http={"write_timeout": 100}) as proxy:
        client, _ = streaming(proxy, STREAM, EVENT)
        client.stall()
        proxy.advance(40)
        assert client.take() == b""
        client.catch_up()
        proxy.advance(15.3)
        assert client.take() == COMMENT


@pytest.mark.parametrize(
    "part",
    [chunk(b"data: {}\n"), chunk(b"d"), chunk(b"data: {}\n\ndata: x"), chunk(b"data: {}\r\n"), b"3\r\n:\n",
     b"14\r\ndata: {}\n\n", b"A\r\ndata: {}\n\n", b"A\r\ndata: {}\n\n\r"],
)  # fmt: skip
def test_never_within_an_event_or_a_chunk(part: bytes) -> None:
    with stage() as proxy:
        client, _ = streaming(proxy, STREAM + EVENT + part)
        proxy.advance(60)
        assert client.take() == b""
        assert client.ending == "open"


@pytest.mark.parametrize(("held", "rest"), [(b"", b"a\r"), (b"a", b"\r"), (b"a\r", b""), (b"a;x=y\r", b"")])
def test_a_chunk_of_which_nothing_was_handed_on_is_no_obstacle(held: bytes, rest: bytes) -> None:
    with stage() as proxy:
        client, upstream = streaming(proxy, STREAM + EVENT + held)
        proxy.advance(15.3)
        assert client.take() == COMMENT
        upstream.send(rest + b"\ndata: {}\n\n\r\n")
        assert client.take() == EVENT


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (STREAM.replace(b"text/event-stream", b"application/json"), EVENT),
        (STREAM.replace(b"text/event-stream", b"text/plain"), EVENT),
        (
            STREAM.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n"),
            chunk(gzip.compress(b"", mtime=0) + b"\n\n"),
        ),
        (STREAM.replace(b"Transfer-Encoding: chunked", b"Content-Length: 100"), b"data: {}\n\n"),
        (CLOSING.replace(b"text/event-stream", b"application/json"), b"{}\n\n"),
    ],
)
def test_other_answers_get_none(head: bytes, body: bytes) -> None:
    with stage() as proxy:
        client, _ = streaming(proxy, head + body, sent=post())
        proxy.advance(60)
        assert client.take() == b""


def test_an_identity_coding_is_none() -> None:
    with stage() as proxy:
        client, _ = streaming(proxy, STREAM.replace(b"\r\n\r\n", b"\r\nContent-Encoding: identity\r\n\r\n"))
        proxy.advance(15.3)
        assert client.take() == COMMENT


def test_no_answer_yet_means_no_comment() -> None:
    with stage() as proxy:
        client, _ = streaming(proxy, STREAM[:-2])
        proxy.advance(60)
        assert client.take() == b""


def test_http_1_0_gets_it_without_a_chunk() -> None:
    with stage() as proxy:
        client, upstream = streaming(
            proxy, STREAM + EVENT, sent=bare("GET").replace(b"HTTP/1.1", b"HTTP/1.0")
        )
        proxy.advance(15.3)
        assert client.take() == b":\n\n"
        upstream.send(EVENT)
        assert client.take() == b"data: {}\n\n"


@pytest.mark.parametrize(("version", "comment"), [(b"HTTP/1.1", COMMENT), (b"HTTP/1.0", b":\n\n")])
def test_a_stream_that_ends_with_its_connection(version: bytes, comment: bytes) -> None:
    with stage() as proxy:
        client, upstream = streaming(
            proxy, CLOSING + b"data: {}\n\n", sent=bare("GET").replace(b"HTTP/1.1", version)
        )
        proxy.advance(15.3)
        assert client.take() == comment
        upstream.send(b"data: {}\n")
        client.take()
        proxy.advance(60)
        assert client.take() == b""
        upstream.send(b"\n")
        client.take()
        proxy.advance(15.3)
        assert client.take() == comment


def test_a_comment_does_not_lengthen_a_call() -> None:
    with stage(timeouts={"request": 20}) as proxy:
        client, upstream = streaming(proxy, STREAM + EVENT, sent=post())
        proxy.advance(15.3)
        assert client.take() == COMMENT
        proxy.advance(4.4)
        assert client.ending == "open"
        proxy.advance(0.6)
        assert (client.ending, upstream.ending) == ("closed", "aborted")


def test_a_detached_call_needs_none_and_keeps_its_limit() -> None:
    with stage(timeouts={"detached": 20}) as proxy:
        client, upstream = streaming(proxy, STREAM + EVENT, sent=post())
        client.reset()
        proxy.advance(10)
        upstream.send(EVENT)
        proxy.advance(9.7)
        assert upstream.ending == "open"
        proxy.advance(0.6)
        assert upstream.ending == "aborted"


def test_the_next_answer_on_the_connection_is_left_alone() -> None:
    with stage(pool={"idle_timeout": 100}) as proxy:
        client, upstream = streaming(proxy, STREAM + EVENT + LAST, sent=post())
        proxy.tell(client, post())
        upstream.send(OK[:-1])
        proxy.advance(60)
        assert client.take() == b""
        upstream.send(OK[-1:])
        proxy.advance(60)
        assert client.take() == OK
        assert len(proxy.upstreams) == 1


CONTENT = [
    b": hi\n\nid: 1\ndata: a\ndata: b\n\n\nretry: 3\n\ndata: 2\n\n",
    b"id: 1\r\nevent: x\r\ndata: {}\r\n\r\ndata: \r\n\r\n",
    b"id: 1\rdata: {}\r\rdata: 1\r\r",
    b"data: 1\r\n\ndata: 2\n\r\ndata: 3\r\n\r\n",
]


def pieces_of(content: bytes, size: int) -> Iterable[bytes]:
    return (content[at : at + size] for at in range(0, len(content), size))


def content_of(wire: bytes) -> bytes:
    """The content of a whole chunked body."""
    content = b""
    while True:
        size, _, wire = wire.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            assert wire == b"\r\n"
            return content
        assert wire[length : length + 2] == b"\r\n"
        content, wire = content + wire[:length], wire[length + 2 :]


def dispatched(content: bytes) -> list[object]:
    return list(EventScanner(10_000).feed(content))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("content", CONTENT)
def test_wherever_a_stream_falls_silent_its_events_stay_whole(
    monkeypatch: pytest.MonkeyPatch, content: bytes, size: int
) -> None:
    monkeypatch.setattr(upstream_module, "QUIET_TIME", 0.1)
    wire = b"".join(chunk(piece) for piece in pieces_of(content, size)) + LAST
    commented = 0
    with stage() as proxy:
        for at in range(len(wire) - len(LAST) + 1):
            client, upstream = streaming(proxy, STREAM)
            upstream.send(wire[:at])
            proxy.advance(0.3)
            upstream.send(wire[at:])
            received = client.take()
            assert len(received) > len(wire) or received == wire
            commented += COMMENT in received
            assert dispatched(content_of(received)) == dispatched(content), at
            client.abort()
            proxy.settle()
            upstream.take()
    assert commented > 3


def test_on_the_wire(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream_module, "QUIET_TIME", 0.2)
    sse = response_head(200, [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")])
    with ScriptedUpstream([Receive(), sse + chunks(b"data: {}\n\n", last=False), Hang()]) as upstream:
        proxy = serve(f"{upstream.url}/mcp")
        with proxy.client() as client:
            client.send(request("GET"))
            client.read_head("GET")
            assert [client.read_chunk(timeout=8) for _ in range(4)] == [b"data: {}\n\n", *[b":\n\n"] * 3]
        proxy.wait_until(lambda: proxy.pooled() == 0, "the end of the upstream connection")
