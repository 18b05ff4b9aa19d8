"""What only the upstream that issued it can serve goes back there: task ids and request states."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from shadowcat.config.model import Route, StrategyName, Upstream
from shadowcat.mcp.envelope import peek
from shadowcat.proxy.plane import DataPlane
from shadowcat.shm.affinity import LIFE
from shadowcat.testing.loopback import Peer

from .sessions import answer, caller_at, event, turn
from .stage import MODERN, STREAM, Stage, chunk, post, split, stage
from .streams import pair

LAST = b"0\r\n\r\n"
CHUNKED = STREAM.replace(b"text/event-stream", b"application/json")
OTHER = post(json.dumps({"jsonrpc": "2.0", "id": 7, "method": "tools/list"}).encode(), MODERN)


@pytest.fixture
def both() -> Iterator[tuple[Stage, DataPlane]]:
    with pair(upstreams=2) as running:
        yield running


def request(
    method: str, fields: tuple[tuple[str, str], ...] = (MODERN,), path: str = "/mcp", **params: Any
) -> bytes:
    body = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
    return post(json.dumps(body).encode(), *fields, path=path)


def result(**members: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 7, "result": members}).encode()


def task(name: str) -> bytes:
    return result(resultType="task", taskId=name, status="working")


def state(value: str) -> bytes:
    return result(resultType="input_required", inputRequests={}, requestState=value)


CALL = request("tools/call", name="echo")
TASK, STATE = task("t-1"), state("s-1")
GET = request("tasks/get", taskId="t-1")
AGAIN = request("tools/call", name="echo", requestState="s-1")
PRESENTED = [
    (TASK, GET),
    (TASK, request("tasks/update", taskId="t-1", inputResponses={})),
    (TASK, request("tasks/cancel", taskId="t-1")),
    (TASK, request("subscriptions/listen", notifications={"taskIds": ["t-0", "t-1"]})),
    (result(task={"taskId": "t-1"}), GET),
    (STATE, AGAIN),
    (STATE, request("prompts/get", name="echo", requestState="s-1", inputResponses={})),
]


def hosts(proxy: Stage, sent: bytes, times: int = 4, plane: DataPlane | None = None) -> str:
    """The letters of the upstreams that get a request, sent so many times."""
    found = ""
    for _ in range(times):
        client = caller_at(proxy, plane) if plane is not None else proxy.caller()
        found += turn(proxy, sent, client=client).host[0]
        client.abort()
        proxy.settle()
    return found


def issued(proxy: Stage, *reads: bytes, sent: bytes = CALL, client: Peer | None = None) -> str:
    """Let an upstream answer with these bytes; its letter."""
    return turn(proxy, sent, *reads, client=client).host[0]


def asked(proxy: Stage, sent: bytes) -> tuple[Peer, Peer, str]:
    """Send something that is not answered yet: its upstream, its client, and the upstream's letter."""
    client = proxy.caller()
    proxy.tell(client, sent)
    (upstream,) = [each for each in proxy.upstreams if each.writes]
    (got,) = split(upstream.take())
    host = got.header("Host")
    assert host is not None
    return upstream, client, host[0]


def knows(proxy: Stage) -> bool:
    """Whether the task is known to be somewhere."""
    body = GET.partition(b"\r\n\r\n")[2]
    return proxy.plane.affinity.home(proxy.plane.routes[0], peek(body), body) is not None


def note(proxy: Stage, upstream: int, handle: bytes = b"task:t-1") -> None:
    route = proxy.plane.routes[0]
    proxy.plane.affinity.note(route, route.pools[upstream], [handle])


@pytest.mark.parametrize(("content", "sent"), PRESENTED)
def test_it_goes_back_from_every_worker(proxy: Stage, other: DataPlane, content: bytes, sent: bytes) -> None:
    assert sorted(hosts(proxy, sent, 2)) == ["a", "b"]
    home = issued(proxy, answer(content))
    assert hosts(proxy, sent) == hosts(proxy, sent, plane=other) == home * 4
    # Everything else is balanced as before.
    assert Counter(hosts(proxy, OTHER) + hosts(proxy, OTHER, plane=other)) == {"a": 4, "b": 4}


CUT = TASK.index(b"taskId") + 3
EVENT = b"event: message\r\ndata: %b\r\n\r\n" % TASK
WHOLE = answer(TASK)
FORMS = {
    "in_two_reads": (WHOLE[: -len(TASK)], TASK),
    "byte_by_byte": [WHOLE[at : at + 1] for at in range(len(WHOLE))],
    "long": (answer(b"%b%b" % (TASK[:-1], b' ,"x":"%b"}' % (b"x" * 100_000))),),
    "long_in_reads": (
        answer(b'{"x":"%b",%b' % (b"x" * 100_000, TASK[1:]))[:50_000],
        answer(b'{"x":"%b",%b' % (b"x" * 100_000, TASK[1:]))[50_000:],
    ),
    "keep_alive": (WHOLE.replace(b"\r\n\r\n", b"\r\nKeep-Alive: timeout=5\r\n\r\n"),),
    "chunks": (CHUNKED, chunk(TASK[:CUT]), chunk(TASK[CUT:]), LAST),
    "to_the_end_of_the_connection": (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + TASK,),
    "events": (STREAM, event(b'{"method":"notifications/progress"}'), event(TASK), LAST),
    "events_at_once": (STREAM + event(b'{"method":"notifications/progress"}') + event(TASK) + LAST,),
    "events_cut": (STREAM, chunk(EVENT[:-40]), chunk(EVENT[-40:-3]), chunk(EVENT[-3:]), LAST),
    "events_with_a_length": (answer(EVENT, kind="text/event-stream"),),
    "a_status_of_its_own": (answer(TASK, status="202 Accepted"),),
}


@pytest.mark.parametrize("reads", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("strategy", ["round_robin", "least_connections"])
def test_it_is_found_in_every_form(reads: list[bytes], version: str, strategy: StrategyName) -> None:
    sent = CALL.replace(b"HTTP/1.1", b"HTTP/" + version.encode())
    with stage(upstreams=2, balance={"strategy": strategy}) as proxy:
        # More than once, as connections remember the heads of upstreams: then there is a shorter way.
        for _ in range(6):
            upstream, client, home = asked(proxy, sent)
            upstream.send(*reads)
            if reads is FORMS["to_the_end_of_the_connection"]:
                upstream.finish()
            proxy.settle()
            assert client.take()
            client.abort()
            proxy.settle()
            assert hosts(proxy, GET) == home * 4


@pytest.mark.parametrize("reads", [(answer(TASK),), (STREAM, event(TASK))], ids=["json", "events"])
def test_it_is_known_before_the_client_has_it(
    proxy: Stage, other: DataPlane, reads: tuple[bytes, ...]
) -> None:
    """Not only when the stream ends: the client may use it at once."""
    # The upstreams' heads are known, so that the short way is taken.
    assert Counter(hosts(proxy, OTHER)) == {"a": 2, "b": 2}
    upstream, client, home = asked(proxy, CALL)
    known: list[bool] = []
    write = client.write

    def look(data: bytes | bytearray | memoryview) -> None:
        known.append(knows(proxy))
        write(data)

    client.write = look  # type: ignore[method-assign]
    upstream.send(*reads)
    proxy.settle()
    assert known[-1]
    assert hosts(proxy, GET, plane=other) == home * 4


@pytest.mark.parametrize("reads", [(answer(STATE),), (STREAM, event(STATE), LAST)], ids=["json", "events"])
def test_a_state_is_found_again_and_again(proxy: Stage, reads: tuple[bytes, ...]) -> None:
    for _ in range(6):
        home = issued(proxy, *reads)
        assert hosts(proxy, AGAIN) == home * 4


def test_what_passes_on_a_listen_stream_was_issued_before(proxy: Stage) -> None:
    sent = request("subscriptions/listen", notifications={"toolsListChanged": True})
    issued(proxy, STREAM, event(TASK), LAST, sent=sent)
    assert Counter(hosts(proxy, GET)) == {"a": 2, "b": 2}


def test_a_listener_goes_where_most_of_its_tasks_run(proxy: Stage) -> None:
    for name in ("x", "y", "z"):
        note(proxy, 1, b"task:" + name.encode())
    note(proxy, 0)
    sent = request("subscriptions/listen", notifications={"taskIds": ["t-1", "x", "?", "y", "z"]})
    assert hosts(proxy, sent) == "bbbb"


def test_a_listener_without_tasks_goes_anywhere(proxy: Stage) -> None:
    sent = request("subscriptions/listen", notifications={"resourceSubscriptions": ["t-1"]})
    note(proxy, 0)
    assert Counter(hosts(proxy, sent)) == {"a": 2, "b": 2}


def test_whoever_answers_for_an_unknown_task_has_it(proxy: Stage) -> None:
    home = issued(proxy, answer(result(resultType="complete", taskId="t-1", status="working")), sent=GET)
    assert hosts(proxy, GET) == home * 4


def test_who_denies_a_task_does_not_have_it(proxy: Stage) -> None:
    error = json.dumps({"jsonrpc": "2.0", "id": 7, "error": {"code": -32602, "data": {"taskId": "t-1"}}})
    issued(proxy, answer(error.encode()), sent=GET)
    assert Counter(hosts(proxy, GET)) == {"a": 2, "b": 2}


def test_each_route_has_its_own() -> None:
    more = Route(
        path="/two",
        upstreams=[Upstream(url=f"http://{name}.example:3001/mcp") for name in "cd"],
    )
    with stage(upstreams=2, routes=[more]) as proxy:
        note(proxy, 0)
        sent = request("tasks/get", path="/two", taskId="t-1")
        assert sorted(hosts(proxy, sent, 2)) == ["c", "d"]
        home = issued(proxy, answer(TASK), sent=request("tools/call", path="/two", name="echo"))
        assert hosts(proxy, sent) == home * 4
        assert hosts(proxy, GET) == "aaaa"


def test_it_is_forgotten_after_an_hour(proxy: Stage) -> None:
    issued(proxy, answer(TASK))
    proxy.loop.stall(LIFE - 60)
    assert len(set(hosts(proxy, GET))) == 1
    proxy.loop.stall(LIFE - 60)
    assert len(set(hosts(proxy, GET))) == 1
    proxy.loop.stall(LIFE + 60)
    assert Counter(hosts(proxy, GET)) == {"a": 2, "b": 2}


def test_another_upstream_that_has_the_row_now_is_asked_nothing(proxy: Stage) -> None:
    note(proxy, 0)
    proxy.plane.routes[0].pools[0].generation += 1
    assert Counter(hosts(proxy, GET)) == {"a": 2, "b": 2}


def test_a_row_that_is_not_there_any_more(proxy: Stage) -> None:
    note(proxy, 1)
    pools = proxy.plane.sessions.pools
    del pools[proxy.plane.routes[0].pools[1].row]
    assert Counter(hosts(proxy, GET)) == {"a": 2, "b": 2}


@pytest.mark.parametrize("strategy", ["round_robin", "least_connections"])
def test_an_upstream_that_leaves_serves_what_it_issued(strategy: StrategyName) -> None:
    with stage(upstreams=2, balance={"strategy": strategy}) as proxy:
        note(proxy, 1)
        (route,) = proxy.config.routes
        proxy.publish(replace(proxy.config, routes=[replace(route, upstreams=route.upstreams[:1])]))
        assert hosts(proxy, GET) == "bbbb"
        assert hosts(proxy, OTHER) == "aaaa"


def test_an_upstream_that_is_added_makes_a_choice() -> None:
    with stage() as proxy:
        hosts(proxy, CALL)
        (route,) = proxy.config.routes
        more = [*route.upstreams, Upstream(url="http://b.example:3001/mcp")]
        proxy.publish(replace(proxy.config, routes=[replace(route, upstreams=more)]))
        home = issued(proxy, answer(TASK))
        assert hosts(proxy, GET) == home * 4


def test_a_disabled_upstream_serves_what_it_issued() -> None:
    with stage(upstreams=2, keys=[{}, {"enabled": False}]) as proxy:
        note(proxy, 1)
        assert hosts(proxy, GET) == "bbbb"
        assert hosts(proxy, OTHER) == "aaaa"


def test_one_upstream_alone_needs_nothing_of_this() -> None:
    with stage() as proxy:
        issued(proxy, answer(TASK))
        assert not knows(proxy)


def test_the_legacy_era_has_sessions_for_it(proxy: Stage) -> None:
    legacy = (("MCP-Protocol-Version", "2025-11-25"),)
    issued(proxy, answer(TASK), sent=request("tools/call", legacy, name="echo"))
    assert Counter(hosts(proxy, GET)) == {"a": 2, "b": 2}
    note(proxy, 0)
    assert Counter(hosts(proxy, request("tasks/get", legacy, taskId="t-1"))) == {"a": 2, "b": 2}


# Failures


@pytest.mark.parametrize("failures", [1, 2])
def test_no_other_upstream_is_tried(proxy: Stage, failures: int) -> None:
    note(proxy, 1)
    proxy.loop.failures = [ConnectionRefusedError(111, "Connection refused") for _ in range(failures)]
    client = proxy.caller()
    proxy.tell(client, GET)
    assert proxy.loop.dialled == [("b.example", 3001)] * 2
    if failures == 1:
        (upstream,) = [each for each in proxy.upstreams if each.writes]
        upstream.take()
        upstream.send(answer())
        proxy.settle()
    (got,) = split(client.take())
    assert got.status == (200 if failures == 1 else 502)


def test_a_read_that_was_reset_is_sent_there_again(proxy: Stage) -> None:
    note(proxy, 1)
    upstream, _, _ = asked(proxy, GET)
    upstream.reset()
    proxy.settle()
    assert proxy.loop.dialled == [("b.example", 3001)] * 2


# Load


@pytest.mark.parametrize("strategy", ["least_connections", "power_of_two"])
def test_it_is_load_as_any_other_request(strategy: StrategyName) -> None:
    with stage(upstreams=2, balance={"strategy": strategy}) as proxy:
        note(proxy, 1)
        for _ in range(3):
            upstream, client, home = asked(proxy, GET)
            assert home == "b"
            # While it is under way the other one has less to do, and afterwards it has not.
            assert hosts(proxy, OTHER, 3) == "aaa"
            upstream.send(answer())
            proxy.settle()
            client.abort()
            upstream, client, home = asked(proxy, OTHER)
            if home == "a":
                assert hosts(proxy, OTHER, 3) == "bbb"
            else:
                assert hosts(proxy, OTHER, 3) == "aaa"
            upstream.send(answer())
            proxy.settle()
            client.abort()
            proxy.settle()
