"""A worker that hangs while it holds a lock of the limiter: who is held up, and for how long."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import psutil

from tests.e2e.harness import SLACK, EchoUpstream, Shadowcat, eventually
from tests.e2e.load import BODY

LIMIT = 5
WORKERS = 4
BUSY = 0.05 + SLACK
"""Seconds: what is waited for a lock, and what a busy machine may add."""
# Whoever takes a lock while there is such a file is stopped right there, and the file is gone.
PRELUDE = """
import signal
from shadowcat.shm.locks import Locks
acquire = Locks.acquire
def acquire_and_stop(self, *line):
    acquire(self, *line)
    try:
        os.unlink({fuse!r})
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGSTOP)
Locks.acquire = acquire_and_stop
"""


class Client:
    """One connection, which stays at its worker."""

    def __init__(self, cat: Shadowcat) -> None:
        self._connection = HTTPConnection(*cat.address, timeout=BUSY + 2)
        self.is_stuck = False

    def ask(self, path: str) -> tuple[int, float]:
        """The status, 0 if there is no answer; and the seconds that it took."""
        begun = time.monotonic()
        try:
            self._connection.request("POST", path, BODY, {"Content-Type": "application/json"})
            answer = self._connection.getresponse()
            answer.read()
            return answer.status, time.monotonic() - begun
        except OSError:
            self.is_stuck = True
            return 0, time.monotonic() - begun

    def close(self) -> None:
        self._connection.close()


def replaced(cat: Shadowcat, before: set[psutil.Process]) -> bool:
    """Whether one of the processes was, so that nothing is left of it."""
    now = set(cat.children().values())
    return len(now) == len(before) and len(now & before) == len(before) - 1


def test_the_others_answer_and_nothing_more_is_admitted(tmp_path: Path) -> None:
    fuse = tmp_path / "fuse"
    with EchoUpstream() as upstream:
        (route,) = upstream.config["routes"]
        routes = [route | {"limits": {"route": f"{LIMIT}/h"}}, route | {"path": "/free"}]
        config = {"workers": WORKERS, "routes": routes}
        prelude = PRELUDE.format(fuse=str(fuse))
        with Shadowcat(config, prelude=prelude, timing={"stale_after": BUSY + 4}) as cat:
            before = set(cat.children().values())
            clients = [Client(cat) for _ in range(6 * WORKERS)]
            with ThreadPoolExecutor(len(clients)) as pool:

                def all_ask(path: str, of: list[Client]) -> list[tuple[int, float]]:
                    return list(pool.map(lambda one: one.ask(path), of))

                assert {status for status, _ in all_ask("/free", clients)} == {200}
                fuse.touch()
                stopped = pool.submit(clients[0].ask, "/mcp")
                eventually(lambda: not fuse.exists(), what="a stopped worker")
                found = all_ask("/mcp", clients[1:])
                answered = [(status, took) for status, took in found if status]
                assert len(answered) >= WORKERS
                assert {status for status, _ in answered} == {503}
                assert max(took for _, took in answered) < BUSY
                # What has nothing to do with the bucket is not held up at all.
                lively = [one for one in clients[1:] if not one.is_stuck]
                assert {status for status, _ in all_ask("/free", lively)} == {200}
                # The watchdog ends it, and its lock with it.
                assert stopped.result()[0] == 0
                eventually(lambda: replaced(cat, before), 60, "another one in its place")
                fresh = [Client(cat) for _ in range(3 * LIMIT)]
                statuses = sorted(status for status, _ in all_ask("/mcp", fresh))
                assert statuses == [200] * LIMIT + [429] * 2 * LIMIT
                # What was being charged when the worker was stopped was neither admitted nor counted.
            for client in (*clients, *fresh):
                client.close()
