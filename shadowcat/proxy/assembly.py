"""Puts a worker's data plane together from the configuration. Every way to start uses this function."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import time
from collections.abc import Callable
from functools import partial

from shadowcat.config import model
from shadowcat.config.model import Config
from shadowcat.proxy.observers.access_log import AccessLog
from shadowcat.proxy.observers.audit import Audit
from shadowcat.proxy.observers.log_file import LogFile
from shadowcat.proxy.observers.tracing import trace
from shadowcat.proxy.plane import DataPlane
from shadowcat.proxy.roster import Roster
from shadowcat.proxy.upstreams.balancer import Host
from shadowcat.shm.shared import Shared, worker_number


def assemble(
    config: Config,
    shared: Shared,
    process: int,
    loop: asyncio.AbstractEventLoop,
    clock_ns: Callable[[], int] = time.monotonic_ns,
) -> DataPlane:
    """Build the data plane of `process`.

    Routes and upstreams, and all that may change while it runs, are those of the present snapshot; `config`
    is what the host was started with.

    Args:
        config: What the host was started with.
        shared: The shared areas.
        process: Whose data plane it is.
        loop: Its event loop.
        clock_ns: By which rates go, the same for all processes: the loop's own clock is a millisecond late.

    Raises:
        StartError: Something it needs cannot be used, such as a certificate file.
        SnapshotError: What the supervisor or control has published is spoilt.
    """
    worker = process - worker_number(0)
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    plane = DataPlane(config, shared, process, loop, time.time, clock_ns, descriptors)
    host = Host(
        [shared.page(each).cells for each in range(shared.processes)],
        shared.cursors_with(plane.sessions.table.locks),
        process,
        plane.clock,
        partial(random.getrandbits, 64),
    )
    trail = shared.trail_for(process)
    if trail is not None and config.audit is not None:
        plane.audit = Audit(plane, trail, refuses=config.audit.overflow == "refuse")
        plane.observers = (plane.audit,)
    plane.roster = Roster(plane, shared, process, host)
    plane.roster.begin()
    if config.access_log is not None:
        plane.observers = (*plane.observers, _access_log(config.access_log, plane, shared, worker))
    trace(plane, os.environ, worker)
    return plane


def _access_log(section: model.AccessLog, plane: DataPlane, shared: Shared, worker: int) -> AccessLog:
    cell = shared.layout.cell("access_log_dropped_total")

    def count(lines: int) -> None:
        plane.cells[cell] += lines

    file = LogFile(section.path, "access_log.path", count)
    return AccessLog(section, file, worker, plane.clock, time.time, random.random)
