"""Requests that are sent again, and those that must not be."""

from __future__ import annotations

import pytest

from shadowcat.testing.loopback import Peer

from .stage import MODERN, OK, Stage, bare, message, post, split, stage

CALL = post()
LIST = post(message("tools/list"))
READS = ["tools/list", "prompts/get", "resources/read", "server/discover", "ping", "completion/complete"]
WRITES = ["tools/call", "initialize", "logging/setLevel", "notifications/initialized", "subscriptions/listen"]


def refused() -> OSError:
    return ConnectionRefusedError(111, "Connection refused")


def hosts(proxy: Stage) -> str:
    """The upstreams that were dialled, by their letters."""
    return "".join(host[0] for host, _ in proxy.loop.dialled)


def started(proxy: Stage, sent: bytes) -> Peer:
    client = proxy.caller()
    proxy.tell(client, sent)
    return client


@pytest.mark.parametrize("failure", [refused(), TimeoutError(), OSError(113, "No route to host")])
@pytest.mark.parametrize(
    "sent", [CALL, LIST, bare("GET"), bare("DELETE"), post(message(), MODERN), post(message("initialize"))]
)
def test_who_cannot_be_reached_is_replaced_by_another(sent: bytes, failure: OSError) -> None:
    with stage(upstreams=3) as proxy:
        proxy.loop.failures = [failure]
        client = started(proxy, sent)
        first, second = hosts(proxy)
        assert first != second
        (got,) = split(proxy.upstreams[0].take())
        assert got.header("Host") == f"{second}.example:3001"
        proxy.upstreams[0].send(OK)
        proxy.settle()
        assert client.take() == OK


def test_all_are_tried_and_each_once() -> None:
    with stage(upstreams=3, retry={"attempts": 5}) as proxy:
        proxy.loop.failures = [refused(), refused()]
        client = started(proxy, CALL)
        assert sorted(hosts(proxy)) == ["a", "b", "c"]
        assert client.take() == b""


def test_turns_of_others_do_not_lead_back_to_the_one_that_failed() -> None:
    with stage(upstreams=2) as proxy:
        proxy.loop.answering = False
        clients = [proxy.caller() for _ in range(4)]
        for client in clients:
            client.send(CALL)
        proxy.settle()
        proxy.loop.answering = True
        first = hosts(proxy)
        assert sorted(first) == ["a", "a", "b", "b"]
        proxy.advance(5.2)  # All four dials time out.
        assert sorted(hosts(proxy)[4:]) == ["a", "a", "b", "b"]
        for upstream in proxy.upstreams:
            upstream.send(OK)
        proxy.settle()
        assert [client.take() for client in clients] == [OK] * 4


def test_one_upstream_is_dialled_again() -> None:
    with stage() as proxy:
        proxy.loop.failures = [refused()]
        started(proxy, CALL)
        assert hosts(proxy) == "aa"
        assert len(proxy.upstreams) == 1


@pytest.mark.parametrize("attempts", [1, 2, 4])
def test_attempts_count_all_tries(attempts: int) -> None:
    with stage(upstreams=2, retry={"attempts": attempts}) as proxy:
        proxy.loop.failures = [refused() for _ in range(20)]
        (got,) = split(started(proxy, CALL).take())
        assert (got.status, got.code, got.error["id"]) == (502, -32603, 7)
        assert len(hosts(proxy)) == attempts


def test_one_attempt_excludes_a_list_too() -> None:
    with stage(retry={"attempts": 1}) as proxy:
        client = started(proxy, LIST)
        proxy.upstreams[0].reset()
        proxy.settle()
        assert split(client.take())[0].status == 502
        assert hosts(proxy) == "a"


def test_the_budget() -> None:
    with stage(upstreams=2, retry={"budget": 0.0}) as proxy:
        for number in range(12):
            before = len(hosts(proxy))
            proxy.loop.failures = [refused(), refused()]
            assert split(started(proxy, CALL).take())[0].status == 502
            assert len(hosts(proxy)) - before == (2 if number < 10 else 1)
            proxy.loop.failures = []
        proxy.advance(11.5)
        proxy.loop.failures = [refused()]
        client = started(proxy, CALL)
        assert client.take() == b""  # It is with the other upstream.


def test_a_call_that_may_not_be_repeated_takes_nothing_from_the_budget() -> None:
    with stage(retry={"budget": 0.0}) as proxy:
        for _ in range(12):
            client = started(proxy, CALL)
            proxy.upstreams[-1].reset()
            proxy.settle()
            assert split(client.take())[0].status == 502
        proxy.loop.failures = [refused()]
        assert started(proxy, CALL).take() == b""


@pytest.mark.parametrize("fields", [(), (MODERN,)])
@pytest.mark.parametrize("method", READS)
@pytest.mark.parametrize("end", ["reset", "finish"])
def test_a_read_is_sent_once_more_over_a_fresh_connection(
    method: str, fields: tuple[tuple[str, str], ...], end: str
) -> None:
    with stage(upstreams=2) as proxy:
        # Two idle connections to each: the retry must use neither.
        clients = [started(proxy, CALL) for _ in range(4)]
        for upstream in proxy.upstreams:
            upstream.send(OK)
        proxy.settle()
        assert [client.take() for client in clients] == [OK] * 4
        for upstream in proxy.upstreams:
            upstream.take()

        sent = post(message(method), *fields)
        client = started(proxy, sent)
        (stale,) = [upstream for upstream in proxy.upstreams if upstream.writes]
        (first,) = split(stale.take())
        getattr(stale, end)()
        proxy.settle()
        assert len(proxy.upstreams) == 5
        fresh = proxy.upstreams[4]
        (second,) = split(fresh.take())
        assert second == first
        fresh.send(OK)
        proxy.settle()
        assert client.take() == OK


def test_a_read_is_not_sent_a_third_time() -> None:
    with stage(retry={"attempts": 10}) as proxy:
        client = started(proxy, LIST)
        for number in range(2):
            proxy.upstreams[number].reset()
            proxy.settle()
        (got,) = split(client.take())
        assert (got.status, got.code, got.error["id"]) == (502, -32603, 7)
        assert hosts(proxy) == "aa"


@pytest.mark.parametrize(
    "part", [b"H", b"HTTP/1.1 200 OK\r\nContent-", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"]
)
def test_a_read_is_repeated_while_its_client_has_nothing_of_the_answer(part: bytes) -> None:
    with stage() as proxy:
        client = started(proxy, LIST)
        proxy.upstreams[0].send(part)
        proxy.upstreams[0].reset()
        proxy.settle()
        assert hosts(proxy) == "aa"
        assert client.take() == b""
        proxy.upstreams[1].send(OK)
        assert client.take() == OK


@pytest.mark.parametrize(
    "part",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 5\r\n\r\n",
    ],
)
def test_a_read_whose_client_has_a_part_of_the_answer_is_not_repeated(part: bytes) -> None:
    with stage() as proxy:
        client = started(proxy, LIST)
        proxy.upstreams[0].send(part)
        proxy.upstreams[0].reset()
        proxy.settle()
        assert hosts(proxy) == "a"
        assert client.take().startswith(part[:12])
        assert client.ending == "closed"


@pytest.mark.parametrize("method", [method for method in WRITES if method != "initialize"])
def test_a_write_is_not_repeated_though_its_client_has_nothing(method: str) -> None:
    with stage() as proxy:
        client = started(proxy, post(message(method)))
        proxy.upstreams[0].send(OK[:-1])
        assert client.take() == b""
        proxy.upstreams[0].reset()
        proxy.settle()
        assert hosts(proxy) == "a"
        (got,) = split(client.take())
        assert (got.status, got.code) == (502, -32603)


@pytest.mark.parametrize("method", WRITES)
@pytest.mark.parametrize("end", ["reset", "finish"])
def test_what_may_have_run_is_never_repeated(method: str, end: str) -> None:
    with stage(upstreams=2) as proxy:
        client = started(proxy, post(message(method)))
        getattr(proxy.upstreams[0], end)()
        proxy.settle()
        assert split(client.take())[0].status == 502
        assert len(proxy.upstreams) == 1
        assert len(hosts(proxy)) == 1


def test_a_delete_is_never_repeated() -> None:
    with stage(upstreams=2) as proxy:
        client = started(proxy, bare("DELETE"))
        proxy.upstreams[0].reset()
        proxy.settle()
        assert split(client.take())[0].status == 502
        assert len(hosts(proxy)) == 1


def test_time_is_not_a_reason_to_ask_again() -> None:
    with stage(timeouts={"first_byte": 1}) as proxy:
        client = started(proxy, LIST)
        proxy.advance(1.3)
        assert split(client.take())[0].status == 504
        assert hosts(proxy) == "a"


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_an_answer_is_an_answer(status: int) -> None:
    answer = b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status
    with stage(upstreams=2) as proxy:
        assert proxy.passes(LIST, answer=answer)[1] == answer
        assert len(hosts(proxy)) == 1
