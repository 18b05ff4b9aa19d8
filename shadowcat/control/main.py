"""The control process from its fork to its end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final

import uvloop

from shadowcat.config.model import Config
from shadowcat.control import essential
from shadowcat.control.assembly import Control
from shadowcat.control.audit.file import AuditFile
from shadowcat.control.audit.writer import AuditWriter
from shadowcat.shm.page import Page, State
from shadowcat.shm.shared import CONTROL, Lifeline, Shared

BEAT: Final = 0.05


def run(
    shared: Shared,
    sockets: Sequence[socket.socket],
    lifeline: Lifeline,
    source: Callable[[], Config] | None = None,
    *,
    token: str | None,
) -> int:
    """Serve the admin listener until SIGTERM.

    Args:
        shared: What the supervisor made before the fork.
        sockets: Bound and listening sockets, TCP or Unix: this process's copies of the supervisor's.
        lifeline: The tie to the supervisor.
        source: Reads the configuration anew from where it came from; None if it came from nowhere.
        token: What callers of the admin listener must show; None if only Unix sockets are served.

    Returns:
        The exit status: 0 after SIGTERM or SIGQUIT.

    Raises:
        OSError: A socket cannot be served, or no descriptor is to be had.
        StartError: The audit file cannot be written.
    """
    # Asked to open the audit file anew while it starts, it does so once it can: see the worker.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    page = shared.page(CONTROL)
    page.begin(os.getpid(), time.monotonic_ns())
    writer = _audit_writer(shared, page)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(shared, sockets, lifeline, source, page, token, writer))
    return 0


def _audit_writer(shared: Shared, page: Page) -> AuditWriter | None:
    """Who writes the audit file, if there is one.

    Raises:
        StartError: It cannot be written, and this is the start of the host. Later on it is tried again.
    """
    section = shared.audit
    if section is None:
        return None
    file = AuditFile(section.path)
    if page.incarnation == 1:
        file.open()
    layout = shared.layout
    written, dropped = layout.cell("audit_written_total"), layout.cell("audit_dropped_total")
    return AuditWriter(file, shared.rings(), page.cells, written, dropped)


async def _serve(
    shared: Shared,
    sockets: Sequence[socket.socket],
    lifeline: Lifeline,
    source: Callable[[], Config] | None,
    page: Page,
    token: str | None,
    writer: AuditWriter | None,
) -> None:
    loop = asyncio.get_running_loop()
    end = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, end.set)
    loop.add_signal_handler(signal.SIGQUIT, os._exit, 0)
    loop.add_reader(lifeline.fileno(), os._exit, 1)
    writing = None if writer is None else essential.begin(loop, writer.run())
    loop.add_signal_handler(signal.SIGUSR1, _nothing if writer is None else writer.reopen)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
    heart = _Heart(loop, page)
    control = Control(shared, source, token, loop)
    await control.begin(sockets)
    page.set_state(State.READY)
    lifeline.ready()
    await end.wait()
    page.set_state(State.DRAINING)
    await control.end()
    if writer is not None and writing is not None:
        # Last of all: the workers have ended, and whatever is done here has been.
        writer.end()
        await writing
    heart.stop()
    loop.remove_reader(lifeline.fileno())


def _nothing() -> None:
    """There is no file to open anew."""


class _Heart:
    """Beats in the page for as long as the loop turns."""

    def __init__(self, loop: asyncio.AbstractEventLoop, page: Page) -> None:
        self._loop = loop
        self._page = page
        self._beat()

    def _beat(self) -> None:
        self._page.beat(time.monotonic_ns())
        self._timer = self._loop.call_later(BEAT, self._beat)

    def stop(self) -> None:
        self._timer.cancel()
