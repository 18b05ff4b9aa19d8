"""The recount in its thread."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable

from shadowcat.control.recounter import Recounter
from shadowcat.shm.locks import LockBusyError
from shadowcat.shm.shared import CONTROL, worker_number

from .people import opened


class Table:
    """Stands for a table whose recount does what a test wants."""

    def __init__(self, recount: Callable[[], int]) -> None:
        self.recount = recount


def run(recount: Callable[[], int]) -> None:
    async def once() -> None:
        Recounter(Table(recount), asyncio.get_running_loop()).start()
        await asyncio.get_running_loop().shutdown_default_executor()
        await asyncio.sleep(0)

    asyncio.run(once())


def test_it_runs_in_a_thread_of_its_own() -> None:
    threads: list[int] = []
    run(lambda: threads.append(threading.get_ident()) or 0)
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()


def test_one_at_a_time() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        asked: list[asyncio.Future[int]] = []

        class Executor:
            def run_in_executor(self, _: None, __: object) -> asyncio.Future[int]:
                asked.append(loop.create_future())
                return asked[-1]

        recounter = Recounter(Table(int), Executor())
        recounter.start()
        recounter.start()
        assert len(asked) == 1
        asked[0].set_exception(LockBusyError("busy"))
        await asyncio.sleep(0)
        recounter.start()
        assert len(asked) == 2
        asked[1].cancel()
        await asyncio.sleep(0)
        recounter.start()
        assert len(asked) == 3

    asyncio.run(main())


def test_a_count_left_behind_is_corrected(shared) -> None:
    worker = shared.sessions_for(worker_number(0))
    session = opened(worker, owner="192.0.2.1")
    opened(worker, owner="192.0.2.1")
    digest = worker._owners.digest("192.0.2.1")
    worker._owners.add(digest, 5)
    assert worker.owned_by("192.0.2.1") == 7
    run(shared.sessions_for(CONTROL).recount)
    assert worker.owned_by("192.0.2.1") == 2
    assert worker.delete(session) is not None
    assert worker.owned_by("192.0.2.1") == 1


def test_errors_are_logged_and_locks_are_not(caplog) -> None:
    def busy() -> int:
        raise LockBusyError("busy")

    with caplog.at_level(logging.ERROR, "shadowcat"):
        run(busy)
        assert caplog.text == ""
        run(lambda: 1 // 0)
    assert "ZeroDivisionError" in caplog.text
