"""A worker from its fork to its end: loop, data plane, acceptors, heartbeat, mail, drain."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final

from shadowcat.config.model import Config
from shadowcat.log import LOGGER
from shadowcat.shm.mailboxes import Mail
from shadowcat.shm.page import State
from shadowcat.shm.shared import Lifeline, Shared, worker_number
from shadowcat.supervisor.inboxes import Inboxes
from shadowcat.supervisor.timing import Timing
from shadowcat.worker.acceptors import Acceptors
from shadowcat.worker.handover import Handover
from shadowcat.worker.heap import keep_freed_memory

if TYPE_CHECKING:
    from shadowcat.proxy.plane import DataPlane

    Assemble = Callable[[Config, Shared, int, asyncio.AbstractEventLoop], DataPlane]

BEAT: Final = 0.05
"""Seconds between two heartbeats."""
_SETTLE: Final = 0.05
"""Seconds between the last accept and the drain of the data plane: a request that came with the connection is
read by then, and its connection no longer looks idle."""
# The forwarding path makes no reference cycles; the default (700) would walk all live objects for nothing.
_GC_THRESHOLDS: Final = (50_000, 20, 50)


def run(
    config: Config,
    shared: Shared,
    slot: int,
    listeners: Sequence[Sequence[socket.socket]],
    inboxes: Inboxes | None,
    lifeline: Lifeline,
    timing: Timing | None = None,
    assemble: Assemble | None = None,
) -> int:
    """Serve `slot` until SIGTERM, then drain.

    Args:
        config: The configuration.
        shared: What the supervisor made before the fork.
        slot: The slot whose listeners are this worker's own.
        listeners: The sockets of all slots: `listeners[address][slot]`.
        inboxes: Where workers hand connections over to each other; None where there is only one.
        lifeline: The tie to the supervisor.
        timing: The supervisor's waits; default: the usual ones.
        assemble: Builds the data plane; default: the proxy.

    Returns:
        The exit status: 0 after a drain.

    Raises:
        ShadowcatError: The data plane cannot be assembled.
        OSError: No descriptor is to be had.
    """
    # Not before the fork: the supervisor has no loop and needs none.
    import uvloop

    if assemble is None:
        from shadowcat.proxy.assembly import assemble as assemble_proxy

        assemble = assemble_proxy
    # Asked to open its log anew while it starts, the worker does so once it can: the file that it opens first
    # may be the one that was renamed.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    page = shared.page(worker_number(slot))
    page.begin(os.getpid(), time.monotonic_ns())
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    data_plane = assemble(config, shared, worker_number(slot), loop)
    factory = data_plane.client_protocol
    handover = None if inboxes is None else Handover(loop, factory, shared, slot, inboxes)
    acceptors = Acceptors(loop, factory, listeners, config.backlog, handover)
    worker = _Worker(config, shared, slot, loop, data_plane, acceptors, timing or Timing())
    # One run from start to end: uvloop loses signals that arrive between two.
    loop.run_until_complete(worker.serve(lifeline))
    data_plane.stop()
    # The process ends here; closing the loop would only wait for handles that the kernel closes anyway.
    return 0


class _Worker:
    """What happens in the loop of a worker, apart from traffic."""

    def __init__(
        self,
        config: Config,
        shared: Shared,
        slot: int,
        loop: asyncio.AbstractEventLoop,
        data_plane: DataPlane,
        acceptors: Acceptors,
        timing: Timing,
    ) -> None:
        self._drain_timeout = config.drain_timeout
        self._mail = shared.mail
        self._number = worker_number(slot)
        self._page = shared.page(self._number)
        self._slot = slot
        self._loop = loop
        self._data_plane = data_plane
        self._acceptors = acceptors
        self._accept_window = timing.accept_window
        self._stopping = False
        self._draining = False
        self._tasks: set[asyncio.Task[None]] = set()
        # One after the other: an adoption under way must not overtake the drain that closes it.
        self._turn = asyncio.Lock()
        self._end = asyncio.Event()

    async def serve(self, lifeline: Lifeline) -> None:
        """Start serving, say so, and go on until drained or told to quit."""
        loop = self._loop
        loop.add_reader(lifeline.fileno(), os._exit, 1)
        loop.add_reader(self._mail.fileno(self._number), self._read_mail)
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        loop.add_signal_handler(signal.SIGQUIT, self._quit)
        loop.add_signal_handler(signal.SIGUSR1, self._reopen_logs)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        self._data_plane.start()
        await self._acceptors.open(self._slot)
        self._beat()
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        keep_freed_memory()
        self._page.set_state(State.READY)
        lifeline.ready()
        await self._end.wait()

    def _beat(self) -> None:
        now_ns = time.monotonic_ns()
        self._page.beat(now_ns)
        self._acceptors.beat(now_ns)
        if self._draining and self._data_plane.open_connections == 0:
            self._end.set()
            return
        self._loop.call_later(BEAT, self._beat)

    def _read_mail(self) -> None:
        for _, kind, argument in self._mail.receive(self._number):
            match kind:
                case Mail.ADOPT_SLOT:
                    self._spawn(self._adopt(argument))
                case Mail.RELEASE_SLOT:
                    self._spawn(self._release(argument))
                case Mail.END_SESSION:
                    self._data_plane.end_session(argument)
                case Mail.END_STREAM:
                    self._data_plane.end_stream(argument)
                case Mail.ANSWERED:
                    self._data_plane.answered()
                case Mail.WAKE:
                    self._data_plane.wake(argument)
                case Mail.MAKE_ROOM:
                    self._data_plane.make_room(argument)

    async def _adopt(self, slot: int) -> None:
        async with self._turn:
            if self._draining:
                return
            try:
                await self._acceptors.open(slot)
            except OSError as error:
                LOGGER.error("slot %d could not be adopted: %s", slot, error)
            else:
                LOGGER.info("accepting for slot %d too", slot)

    async def _release(self, slot: int) -> None:
        async with self._turn:
            self._acceptors.close(slot)
            LOGGER.info("slot %d accepts for itself again", slot)

    def _stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._spawn(self._drain())

    async def _drain(self) -> None:
        await asyncio.sleep(self._accept_window)
        async with self._turn:
            await self._acceptors.finish()
            # From here on a sibling takes the slot over, or, if the host stops, the supervisor shuts it.
            self._page.set_state(State.DRAINING)
            await asyncio.sleep(_SETTLE)
            self._data_plane.begin_drain()
            self._draining = True
        self._loop.call_later(self._drain_timeout, self._give_up)

    def _give_up(self) -> None:
        LOGGER.warning("drain_timeout is over: %d connections cut off", self._data_plane.open_connections)
        self._quit()

    def _reopen_logs(self) -> None:
        self._data_plane.reopen_logs()

    def _quit(self) -> None:
        self._data_plane.abort()
        # One more turn of the loop, so that the aborts reach the sockets.
        self._loop.call_soon(self._end.set)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
