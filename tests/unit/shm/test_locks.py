from __future__ import annotations

import os
import signal
import time

import pytest

from shadowcat.shm.locks import LockBusyError, Locks
from shadowcat.shm.region import PAGE, Region


def test_a_line_is_held_by_one_and_others_are_free() -> None:
    region = Region(PAGE)
    one, two = Locks(region), Locks(region)
    one.acquire(64)
    with pytest.raises(LockBusyError):
        two.acquire(64)
    two.acquire(65)
    one.release(64)
    two.acquire(64)
    one.close()
    two.close()
    region.close()


def test_a_lock_dies_with_its_holder_and_nobody_waits_for_one_that_is_stopped() -> None:
    region = Region(PAGE)
    mine = Locks(region)
    pid = os.fork()
    if pid == 0:
        Locks(region).acquire(8)
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(1)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
    begun = time.monotonic()
    with pytest.raises(LockBusyError):
        mine.acquire(8)
    assert time.monotonic() - begun < 10
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    mine.acquire(8)
    mine.close()
    region.close()
