"""How long an answer is waited for, by what was asked."""

from __future__ import annotations

import pytest

from shadowcat.testing.loopback import Peer

from .stage import MODERN, OK, STREAM, Stage, bare, chunk, message, post, split, stage

TIMES = {"first_byte": 5, "request": 20, "tools": {"report_*": 40, "quick": 2, "*": 30}}
EVENT = chunk(b"data: {}\n\n")
LISTEN = post(message("subscriptions/listen"), MODERN)


def started(proxy: Stage, sent: bytes) -> Peer:
    client = proxy.caller()
    proxy.tell(client, sent)
    return client


def lasts(proxy: Stage, client: Peer, seconds: float) -> bytes:
    """What the client gets when the time is up, which is neither earlier nor much later."""
    client.take()
    proxy.advance(seconds - 0.1)
    assert client.take() == b""
    assert client.ending == "open"
    proxy.advance(0.35)
    return client.take()


@pytest.mark.parametrize(
    ("sent", "seconds", "reason"),
    [
        (post(message("tools/list")), 5, "first_byte_timeout"),
        (post(message("tools/list"), MODERN), 5, "first_byte_timeout"),
        (post(message("prompts/get")), 5, "first_byte_timeout"),
        (post(message("ping")), 5, "first_byte_timeout"),
        (post(message("server/discover"), MODERN), 5, "first_byte_timeout"),
        (post(message("resources/read")), 20, "request_timeout"),
        (post(message("initialize")), 20, "request_timeout"),
        (post(b'{"jsonrpc":"2.0","id":7,"result":{}}'), 20, "request_timeout"),
        (bare("DELETE"), 20, "request_timeout"),
        (bare("GET"), 20, "first_byte_timeout"),
        (LISTEN, 20, "first_byte_timeout"),
        (post(message(name="report_x")), 40, "request_timeout"),
        (post(message(name="report_x"), MODERN), 40, "request_timeout"),
        (post(message(name="quick")), 2, "request_timeout"),
        (post(message(name="other")), 30, "request_timeout"),
    ],
)
def test_the_wait_for_a_head(sent: bytes, seconds: float, reason: str) -> None:
    with stage(timeouts=TIMES) as proxy:
        client = started(proxy, sent)
        (got,) = split(lasts(proxy, client, seconds))
        assert (got.status, got.code) == (504, -32603)
        assert got.error.get("id") == (7 if b'"id": 7' in sent else None)
        assert proxy.upstreams[0].ending == "aborted"
        proxy.upstreams[0].take()
        assert proxy.metric("refusals_total", reason) == 1
        assert client.ending == "open"
        assert proxy.passes(post())[1] == OK


def test_without_patterns_a_call_has_the_time_of_a_request() -> None:
    with stage(timeouts={"first_byte": 5, "request": 20}) as proxy:
        client = started(proxy, post())
        assert split(lasts(proxy, client, 20))[0].status == 504


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [
        (post(message("tools/list")), 20),
        (post(message(name="report_x")), 40),
        (post(message("initialize")), 20),
    ],
)
@pytest.mark.parametrize("answer", [STREAM, STREAM + EVENT, STREAM + b"9\r\ndata"])
def test_the_whole_answer_has_a_limit_from_the_moment_of_the_request(
    sent: bytes, seconds: float, answer: bytes
) -> None:
    with stage(timeouts=TIMES) as proxy:
        client = started(proxy, sent)
        proxy.advance(4)
        proxy.upstreams[0].send(answer)
        proxy.settle()
        client.take()
        proxy.advance(seconds - 4.2)
        assert client.ending == "open"
        proxy.advance(0.5)
        # No last chunk: what the client has must not pass for the whole.
        assert client.ending == "closed"
        assert not client.received.endswith(b"0\r\n\r\n")
        assert proxy.upstreams[0].ending == "aborted"


@pytest.mark.parametrize("sent", [bare("GET"), LISTEN])
def test_streams_last_as_long_as_their_client(sent: bytes) -> None:
    with stage(timeouts=TIMES) as proxy:
        client = started(proxy, sent)
        proxy.upstreams[0].send(STREAM, EVENT)
        proxy.settle()
        client.take()
        for _ in range(3):
            proxy.loop.stall(86400)
            proxy.advance(0.5)
        assert (client.ending, proxy.upstreams[0].ending) == ("open", "open")
        client.take()
        proxy.upstreams[0].send(EVENT)
        assert client.take() == EVENT


def test_events_do_not_lengthen_a_call() -> None:
    with stage(timeouts={"request": 3}) as proxy:
        client = started(proxy, post())
        proxy.upstreams[0].send(STREAM)
        for _ in range(28):
            proxy.advance(0.1)
            proxy.upstreams[0].send(EVENT)
        assert client.ending == "open"
        proxy.advance(0.5)
        assert client.ending == "closed"


def test_a_time_that_did_not_pass_leaves_nothing_behind() -> None:
    with stage(timeouts=TIMES, pool={"idle_timeout": 100}) as proxy:
        client = started(proxy, post(message("ping")))
        proxy.upstreams[0].send(OK)
        proxy.settle()
        assert client.take() == OK
        proxy.advance(6)
        proxy.tell(client, post())
        assert client.take() == b""
        assert len(proxy.upstreams) == 1
        proxy.upstreams[0].send(OK)
        assert client.take() == OK
