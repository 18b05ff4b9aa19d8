"""A host with more to do than it can: what it gives up, and how it comes back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.e2e.counting import CountingUpstream
from tests.e2e.harness import PATIENCE, Shadowcat, eventually, post
from tests.e2e.traffic import Connection, samples, tool

CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo"}}'
OPENING = json.dumps(
    {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "t", "version": "1"},
        },
    }
).encode()
PLACES = 4
MANY = 40


def metric(cat: Shadowcat, name: str) -> float:
    """The sum over all labels."""
    page = samples(cat.admin("/metrics")[1])
    return sum(value for key, value in page.items() if key.partition("{")[0] == f"shadowcat_{name}")


def config(upstream: CountingUpstream, **overload: Any) -> dict[str, Any]:
    routes = [
        {"path": f"/{priority}", "priority": priority, "upstreams": [{"name": "u", "url": upstream.url}]}
        for priority in ("low", "normal", "high")
    ]
    return {"routes": routes, "overload": {"max_in_flight": PLACES} | overload}


def statuses(found: list[tuple[int, bytes]]) -> Counter[int]:
    return Counter(status for status, _ in found)


def test_what_is_given_up_first_and_that_it_recovers() -> None:
    with (
        CountingUpstream(held=True) as upstream,
        Shadowcat(config(upstream, queue=8, queue_timeout="20s")) as cat,
        ThreadPoolExecutor(64) as pool,
    ):

        def ask(path: str, count: int, body: bytes = CALL) -> list[Any]:
            return [pool.submit(post, cat.address, path, body, 30) for _ in range(count)]

        def waiting() -> float:
            return metric(cat, "overload_queue")

        running = ask("/normal", PLACES)
        eventually(lambda: upstream.most_requests == PLACES, what="all places taken")
        # Each worker has a queue of four. So many at a time that in no way both get less than four of them,
        # even if all stay where the kernel puts them.
        opening = ask("/high", MANY, OPENING)
        eventually(lambda: waiting() == 8, what="full queues")
        low = ask("/low", MANY)
        eventually(lambda: sum(each.done() for each in opening) == MANY, what="no new sessions")
        normal = ask("/normal", MANY)
        eventually(lambda: sum(each.done() for each in low) == MANY, what="no low priority")
        high = ask("/high", MANY)
        eventually(lambda: sum(each.done() for each in normal) == MANY, what="no normal priority")
        eventually(lambda: sum(each.done() for each in high) == MANY - 8, what="as many as can wait")
        assert waiting() == 8
        assert upstream.most_requests == PLACES
        upstream.release()
        for given_up in (opening, low, normal):
            assert statuses([each.result(20) for each in given_up]) == {503: MANY}
        assert statuses([each.result(20) for each in high]) == {200: 8, 503: MANY - 8}
        assert statuses([each.result(20) for each in running]) == {200: PLACES}
        # It comes back by itself, for all.
        for path, body in (("/low", CALL), ("/high", CALL), ("/normal", OPENING)):
            assert post(cat.address, path, body, 10)[0] == 200
        assert upstream.most_requests == PLACES
        assert metric(cat, "shed_total") == 4 * MANY - 8
        eventually(lambda: metric(cat, "overload_in_flight") == 0, what="all places free")


def test_a_killed_worker_leaves_no_places_taken() -> None:
    with (
        CountingUpstream(held=True) as upstream,
        Shadowcat(config(upstream, queue_timeout="20s")) as cat,
        ThreadPoolExecutor(16) as pool,
    ):

        def try_one() -> int:
            with contextlib.suppress(OSError):
                return post(cat.address, "/normal", CALL)[0]
            return 0

        calls = [pool.submit(try_one) for _ in range(PLACES)]
        eventually(lambda: upstream.most_requests == PLACES, what="all places taken")
        for name, process in cat.children().items():
            if name.startswith("worker"):
                process.kill()
        assert [each.result(20) for each in calls] == [0] * PLACES
        again = [pool.submit(try_one) for _ in range(PLACES)]
        eventually(lambda: upstream.requests == 2 * PLACES, what="all places again")
        upstream.release()
        assert [each.result(20) for each in again] == [200] * PLACES


def connect(cat: Shadowcat) -> socket.socket:
    one = socket.create_connection(cat.address, timeout=PATIENCE)
    one.setblocking(False)
    return one


def said(one: socket.socket) -> bytes | None:
    """What has come; None while the connection is merely open."""
    try:
        return one.recv(4096)
    except BlockingIOError:
        return None
    except OSError:
        return b""


@contextlib.contextmanager
def crowd(cat: Shadowcat, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(connect(cat)) for _ in range(count)]


def test_too_many_clients_are_told_so_and_the_others_served() -> None:
    with CountingUpstream(held=True) as upstream:
        settings = config(upstream, max_connections=10, queue_timeout="20s")
        with Shadowcat(settings) as cat, ThreadPoolExecutor(10) as pool:
            running = [pool.submit(post, cat.address, "/normal", CALL, 30) for _ in range(10)]
            eventually(lambda: metric(cat, "connections") == 10, what="ten clients")
            with crowd(cat, 10) as late:
                answers = [eventually(lambda one=one: said(one), what="an answer") for one in late]
            assert all(answer.startswith(b"HTTP/1.1 503 ") for answer in answers)
            assert all(b"\r\nRetry-After: 1\r\n" in answer for answer in answers)
            upstream.release()
            assert statuses([each.result(20) for each in running]) == {200: 10}
            eventually(lambda: metric(cat, "connections") == 0, what="the end of all ten")
            assert post(cat.address, "/normal", CALL, 10)[0] == 200


def test_it_survives_that_descriptors_run_out() -> None:
    """Clients that do nothing take them all; whoever asks is served nevertheless."""
    limit = 160
    prelude = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))
"""
    with CountingUpstream() as upstream:
        settings = {"routes": config(upstream)["routes"][1:2], "workers": 1}
        with Shadowcat(settings, prelude=prelude) as cat:
            worker = cat.children()["worker 0"]
            with crowd(cat, 2 * limit) as idle:
                eventually(lambda: metric(cat, "connections_turned_away_total") > 0, what="some turned away")
                # Until then it is busy with the others.
                eventually(lambda: sum(said(one) is None for one in idle) <= limit, what="the rest, too")
                assert worker.num_fds() <= limit
                before = sum(worker.cpu_times()[:2])
                began = time.monotonic()
                # In their turn those that have been idle for a second make room.
                eventually(lambda: post_or_none(cat) == 200, what="an answer")
                assert sum(worker.cpu_times()[:2]) - before < 0.5 * (time.monotonic() - began) + 0.2
                assert metric(cat, "connections_closed_idle_total") > 0
                stayed = [one for one in idle if said(one) is None]
                assert len(stayed) > limit // 2
            eventually(lambda: metric(cat, "connections") < 5, what="all gone")
            assert [post(cat.address, "/normal", CALL, 10)[0] for _ in range(20)] == [200] * 20
            assert worker.is_running()
            assert cat.stderr.count("turned away") == 1
            assert "Traceback" not in cat.stderr


def post_or_none(cat: Shadowcat) -> int | None:
    try:
        return post(cat.address, "/normal", CALL, 10)[0]
    except (OSError, ValueError):
        return None


def test_goodput_under_an_open_loop() -> None:
    """Not how fast: that about as much is carried out as there are places for, and none beyond them."""
    with CountingUpstream(0.3) as upstream, Shadowcat(config(upstream, queue=40)) as cat:
        found: Counter[int] = Counter()
        stop = threading.Event()

        async def client() -> None:
            async with await Connection.open(cat.address) as connection:
                wire = tool("echo", {"text": "x"}).wire("/normal")
                while not stop.is_set():
                    found[(await connection.exchange(wire)).status] += 1

        async def run() -> None:
            tasks = [asyncio.create_task(client()) for _ in range(100)]
            await asyncio.sleep(3)
            stop.set()
            await asyncio.gather(*tasks)

        workers = [process for name, process in cat.children().items() if name.startswith("worker")]
        before = {each.pid: each.memory_full_info().uss for each in workers}
        began = time.monotonic()
        asyncio.run(run())
        assert upstream.busy >= 0.5 * PLACES * (time.monotonic() - began)
        assert found[200] > PLACES
        assert found[503] > 0
        assert upstream.most_requests <= PLACES
        for each in workers:
            assert each.memory_full_info().uss - before[each.pid] < 20 * 2**20
        assert post(cat.address, "/low", CALL, 10)[0] == 200
