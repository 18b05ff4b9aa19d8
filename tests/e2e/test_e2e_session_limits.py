"""How many sessions there may be, and for how long: every limit, seen from outside."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from shadowcat.testing.raw_client import RawClient
from tests.e2e.harness import SLACK, Shadowcat, eventually
from tests.e2e.sessions import PATH, Session, initialize, whoami_in
from tests.e2e.traffic import legacy, modern, opening, samples
from tests.e2e.upstreams import Upstream, header, routes_to

WORKERS = 4
CAPACITY = 64
IDLE, LIFETIME, PER_PRINCIPAL = 5.0, 15.0, 12


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream("home") as process:
        yield process


@pytest.fixture(autouse=True)
def _fresh(upstream: Upstream) -> None:
    upstream.control.clear()


@pytest.fixture(scope="module")
def small(upstream: Upstream) -> Iterator[Shadowcat]:
    """Little room."""
    routes = routes_to(upstream)
    with Shadowcat({"workers": WORKERS, "routes": routes, "sessions": {"capacity": CAPACITY}}) as cat:
        yield cat


@pytest.fixture(scope="module")
def hasty(upstream: Upstream) -> Iterator[Shadowcat]:
    """Little time, and few sessions for each client."""
    sessions = {
        "capacity": 2 * PER_PRINCIPAL,
        "idle_timeout": f"{IDLE:.0f}s",
        "max_lifetime": f"{LIFETIME:.0f}s",
        "per_principal": PER_PRINCIPAL,
    }
    routes = routes_to(upstream)
    with Shadowcat({"workers": WORKERS, "routes": routes, "sessions": sessions}) as cat:
        yield cat


def opened(cat: Shadowcat) -> Session | None:
    """A new session, or None where there is no room for it."""
    answer = initialize(cat.address)
    if answer.status == 503:
        return None
    assert answer.status == 200, answer.body
    session_id = answer.header("mcp-session-id")
    assert session_id is not None
    return Session(cat.address, PATH, session_id)


def fill(cat: Shadowcat) -> list[Session]:
    """Open sessions until there is no room left."""
    sessions = []
    while one := opened(cat):
        sessions.append(one)
        assert len(sessions) <= CAPACITY
    return sessions


def test_a_full_table_refuses_new_sessions_and_disturbs_nobody(small: Shadowcat, upstream: Upstream) -> None:
    sessions = fill(small)
    # Four workers share the room, and none of it lies idle.
    assert len(sessions) == CAPACITY
    homes = [one.whoami() for one in sessions]
    upstream.control.clear()
    refused = initialize(small.address)
    assert refused.status == 503
    seconds = int(refused.header("retry-after") or "0")
    assert seconds >= 1
    error = json.loads(refused.body)["error"]
    assert (error["code"], error["data"]["retryAfterSeconds"]) == (-32603, seconds)
    # The connection is good for other things.
    with RawClient(small.address[1]) as client:
        client.send(legacy("initialize", opening()).wire(PATH))
        assert client.read_response().status == 503
        client.send(modern("tools/call", {"name": "whoami", "arguments": {}}).wire(PATH))
        assert whoami_in(client.read_response())["server"] == "home"

    stop = threading.Event()
    statuses = Counter[int]()

    def press() -> None:
        while not stop.is_set():
            statuses[initialize(small.address).status] += 1

    crowd = [threading.Thread(target=press) for _ in range(4)]
    for thread in crowd:
        thread.start()
    try:
        for one, home in zip(sessions, homes, strict=True):
            assert one.whoami() == home
    finally:
        stop.set()
        for thread in crowd:
            thread.join()
    assert set(statuses) == {503}
    # What is refused costs the upstream nothing.
    assert upstream.seen(rpc_method="initialize") == []

    assert sessions.pop().delete().status == 200
    sessions.append(eventually(lambda: opened(small), what="the place that came free"))
    assert all(one.delete().status == 200 for one in sessions)


def test_after_much_coming_and_going_all_room_is_usable(small: Shadowcat) -> None:
    dice = random.Random(4)
    sessions: list[Session] = []
    coming = 4 * CAPACITY
    while coming:
        if sessions and (len(sessions) == CAPACITY or dice.random() < 0.4):
            gone = sessions.pop(dice.randrange(len(sessions)))
            assert gone.delete().status == 200
        else:
            sessions.append(Session.open(small.address))
            coming -= 1
    sessions += fill(small)
    assert len(sessions) == CAPACITY
    assert len({one.id for one in sessions}) == CAPACITY
    # Each is itself still: a place that was used again did not mix two sessions up.
    assert len({one.whoami()["session"] for one in sessions}) == CAPACITY
    for one in sessions:
        assert one.delete().status == 200


def test_a_client_has_only_so_many_sessions(hasty: Shadowcat) -> None:
    sessions = [Session.open(hasty.address) for _ in range(PER_PRINCIPAL)]
    refused = initialize(hasty.address)
    assert refused.status == 503
    assert int(refused.header("retry-after") or "0") >= 1
    assert all(one.ask("ping").status == 200 for one in sessions)
    # Another client has its own share.
    body = legacy("initialize", opening())
    with socket.create_connection(hasty.address, 10, source_address=("127.0.0.2", 0)) as other:
        other.sendall(body.wire(PATH))
        assert other.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert initialize(hasty.address).status == 503
    assert sessions.pop().delete().status == 200
    sessions.append(eventually(lambda: opened(hasty), what="the share that came free"))
    assert all(one.delete().status == 200 for one in sessions)


def test_sessions_that_nobody_deletes_make_room_in_time(hasty: Shadowcat, upstream: Upstream) -> None:
    def levels() -> tuple[float, float]:
        page = samples(hasty.admin("/metrics")[1])
        return page["shadowcat_sessions"], page["shadowcat_sessions_capacity"]

    began = time.monotonic()
    for _ in range(2 * PER_PRINCIPAL):
        # Beyond the cap only time helps: who comes now has to wait for the oldest to expire.
        eventually(lambda: opened(hasty), timeout=30, what="room for one more")
        live, capacity = levels()
        assert 0 < live <= capacity == 2 * PER_PRINCIPAL
    assert time.monotonic() - began >= IDLE
    # The upstream is told in the end, of every one of them.
    eventually(
        lambda: len(upstream.seen(method="DELETE", status=200)) >= 2 * PER_PRINCIPAL,
        timeout=30,
        what="a DELETE upstream for each session that expired",
    )
    eventually(lambda: levels()[0] == 0, what="an empty table")


def test_what_keeps_a_session_alive_and_what_does_not(hasty: Shadowcat, upstream: Upstream) -> None:
    began = time.monotonic()
    idle, busy, streaming, calling = (Session.open(hasty.address) for _ in range(4))
    inner = {one.id: one.whoami()["session"] for one in (idle, busy, streaming, calling)}
    opened_at = time.monotonic()
    opening = opened_at - began
    statuses: dict[str, int] = {}

    def call() -> None:
        statuses["call"] = calling.call("slow", seconds=IDLE + 1.5).status

    def use() -> bool:
        assert busy.ask("ping").status == 200
        return time.monotonic() - opened_at > IDLE + 1.2

    caller = threading.Thread(target=call)
    caller.start()
    with streaming.stream() as stream:
        assert stream.head.status == 200
        # Past the time that it may be idle by more than the second within which a look at it is recorded.
        eventually(use, what="the end of idle sessions")
        assert idle.ask("ping").status == 404
        assert streaming.ask("ping").status == 200
        caller.join()
        assert statuses["call"] == 200
        assert calling.ask("ping").status == 200
        # Its greatest age ends a session, whatever it does.
        eventually(lambda: busy.ask("ping").status == 404, what="the greatest age")
        assert LIFETIME - 0.5 - opening < time.monotonic() - opened_at < LIFETIME + 1.5 + SLACK
        eventually(lambda: streaming.ask("ping").status == 404, timeout=SLACK, what="the end of the next one")
        stream.wait_end(30)

    def untold() -> set[str]:
        ends = upstream.seen(method="DELETE", status=200)
        return set(inner.values()) - {header(end, "mcp-session-id") or "" for end in ends}

    eventually(lambda: not untold(), timeout=30, what="a DELETE upstream for each of them")
