"""The processes of this host, as the operating system sees them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

import psutil

from shadowcat.shm.shared import CONTROL, SUPERVISOR, Shared, worker_number


class Usage(NamedTuple):
    """What a process has used so far: user and system CPU in seconds, resident memory in bytes."""

    cpu_seconds: float
    rss_bytes: int


class Member(NamedTuple):
    """One process of the host. `slot` is None for all but workers; `usage` is None when it is not running."""

    number: int
    role: str
    slot: int | None
    pid: int
    usage: Usage | None


def members(shared: Shared) -> Iterator[Member]:
    """The supervisor, control and every worker, running or not. To be called in the control process."""
    yield _member(SUPERVISOR, "supervisor", None, os.getppid())
    yield _member(CONTROL, "control", None, os.getpid())
    for slot in range(shared.host.slots):
        number = worker_number(slot)
        yield _member(number, "worker", slot, shared.page(number).pid)


def _member(number: int, role: str, slot: int | None, pid: int) -> Member:
    return Member(number, role, slot, pid, _usage(pid))


def _usage(pid: int) -> Usage | None:
    if pid == 0:
        return None
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times = process.cpu_times()
            return Usage(times.user + times.system, process.memory_info().rss)
    except psutil.Error:
        return None
