"""A forked child: what it inherits, what it tells, how it ends."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from shadowcat.errors import StartError
from shadowcat.shm.shared import Lifeline
from shadowcat.supervisor.process import Child, Report, spawn


def nothing() -> None:
    pass


def start(main: Callable[[Lifeline], int], forget: Callable[[], None] = nothing) -> Child:
    return spawn("shadowcat: test", main, forget)


def end(child: Child) -> tuple[str, Report]:
    """Wait for the child's end: how it ended, and what it said."""
    readable, _, _ = select.select([child.pidfd], [], [], 10)
    assert readable, "the child does not end"
    report = child.receive()
    how = child.reap()
    child.close()
    return how, report


def heard(child: Child) -> Report:
    readable, _, _ = select.select([child.lifeline], [], [], 10)
    assert readable
    return child.receive()


def idle(lifeline: Lifeline) -> int:
    lifeline.ready()
    while True:
        time.sleep(60)


def test_ready_and_exit_status():
    def main(lifeline: Lifeline) -> int:
        lifeline.ready()
        return 7

    assert end(start(main)) == ("exit status 7", Report(True, None, True))


def test_failure_with_its_cause():
    def main(lifeline: Lifeline) -> int:
        raise StartError("the certificate is upside down")

    assert end(start(main)) == ("exit status 1", Report(False, "the certificate is upside down", True))


def test_unexpected_error(capfd):
    def main(lifeline: Lifeline) -> int:
        raise ZeroDivisionError("oops")

    how, report = end(start(main))
    assert how == "exit status 1"
    assert report.cause == "internal error: ZeroDivisionError: oops"


def test_very_long_cause_is_cut():
    def main(lifeline: Lifeline) -> int:
        lifeline.failed("x" * 1_000_000)
        return 1

    cause = end(start(main))[1].cause
    assert cause is not None
    assert 1000 < len(cause) < 10_000


def test_forget_runs_first():
    read, write = os.pipe()

    def main(lifeline: Lifeline) -> int:
        try:
            os.write(write, b"x")
        except OSError:
            return 0
        return 1

    assert end(start(main, lambda: os.close(write)))[0] == "exit status 0"
    os.close(read)
    os.close(write)


def test_killed():
    child = start(idle)
    assert heard(child).ready
    child.signal(signal.SIGKILL)
    assert end(child)[0] == "killed by SIGKILL"


def test_abort_dumps_the_stacks(capfd):
    child = start(idle)
    heard(child)
    child.signal(signal.SIGABRT)
    assert end(child)[0] == "killed by SIGABRT"
    err = capfd.readouterr().err
    assert "Fatal Python error: Aborted" in err
    assert "in idle" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_of_the_terminal_are_the_supervisors_business(number):
    child = start(idle)
    heard(child)
    child.signal(number)
    child.signal(signal.SIGTERM)
    assert end(child)[0] == "killed by SIGTERM"


def test_a_signal_to_the_child_does_not_reach_the_supervisors_self_pipe():
    read, write = os.pipe2(os.O_NONBLOCK)
    old = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    handler = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        for _ in range(20):
            child = start(idle)
            child.signal(signal.SIGTERM)
            assert end(child)[0] == "killed by SIGTERM"
        with pytest.raises(BlockingIOError):
            os.read(read, 1)
    finally:
        signal.set_wakeup_fd(old)
        signal.signal(signal.SIGTERM, handler)
        os.close(read)
        os.close(write)


def test_end_of_file_when_the_supervisor_lets_go():
    def main(lifeline: Lifeline) -> int:
        lifeline.ready()
        return 5 if os.read(lifeline.fileno(), 1) == b"" else 6

    child = start(main)
    heard(child)
    child.lifeline.close()
    readable, _, _ = select.select([child.pidfd], [], [], 10)
    assert readable
    assert child.reap() == "exit status 5"
    os.close(child.pidfd)


def test_no_loop_no_thread_and_no_uvloop_before_the_fork():
    code = """
import sys, threading
import shadowcat.cli.supervisor
from shadowcat.supervisor.main import _preload
_preload()
assert threading.active_count() == 1
print([name for name in ("uvloop", "aiohttp") if name in sys.modules])
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.strip() == "[]"
