"""Putting the supervisor together: descriptors, shared memory, sockets, members."""

from __future__ import annotations

import os
import random
import resource
import socket
import sys
from collections.abc import Callable, Sequence

import orjson
import setproctitle

from shadowcat import log
from shadowcat.config.addresses import listen_addresses, parse_listen
from shadowcat.config.load import check_files
from shadowcat.config.model import Config
from shadowcat.control.audit.file import write_rest
from shadowcat.log import LOGGER
from shadowcat.shm.shared import CONTROL, Lifeline, Shared, worker_number
from shadowcat.supervisor.inboxes import Inboxes
from shadowcat.supervisor.member import Member
from shadowcat.supervisor.run import Supervisor
from shadowcat.supervisor.slots import Slot
from shadowcat.supervisor.sockets import AdminListener, Listeners
from shadowcat.supervisor.systemd import Notifier
from shadowcat.supervisor.timing import Timing

_CONTROL_STOP = 3.0
"""Seconds control may take to end after the workers have; an answer in progress gets one."""
_DEMO_STOP = 2.0


class Demo:
    """The demo upstream as one more supervised process."""

    __slots__ = ("main", "on_ready", "socket")

    def __init__(
        self,
        listener: socket.socket,
        main: Callable[[Lifeline], int],
        on_ready: Callable[[Sequence[str]], None],
    ) -> None:
        """Describe it.

        Args:
            listener: Its listening socket.
            main: Runs in the child.
            on_ready: Called with the proxy's addresses when everything runs.
        """
        self.socket = listener
        self.main = main
        self.on_ready = on_ready


def supervise(
    config: Config,
    *,
    source: Callable[[], Config] | None = None,
    timing: Timing | None = None,
    demo: Demo | None = None,
    ends_process: bool = False,
) -> int:
    """Run Shadowcat until it is told to stop. Main thread only.

    Args:
        config: A validated configuration.
        source: Reads the configuration anew, for SIGHUP; None if it came from no file.
        timing: The supervisor's waits; default: the usual ones.
        demo: A demo upstream to run beside the proxy.
        ends_process: Whether the caller exits at once with the status; then signals stay without effect.

    Returns:
        The exit status: 0 after a stop that was asked for, 1 if a process could not start.

    Raises:
        ConfigError: A file that the configuration names cannot be read.
        StartError: An address, memory or descriptors are not to be had; nothing has been started.
    """
    check_files(config)
    timing = timing or Timing()
    log.setup(config.log.level, config.log.format, "supervisor")
    setproctitle.setproctitle("shadowcat: supervisor")
    _raise_descriptor_limit()
    listeners = Listeners(listen_addresses(config), config.workers, config.backlog)
    admin: AdminListener | None = None
    inboxes: Inboxes | None = None
    notifier = Notifier(os.environ)
    try:
        if config.admin is not None:
            admin = AdminListener(parse_listen(config.admin), config.backlog, config.admin_token)
        admin_name = None if admin is None else admin.name
        shared = Shared.create(config)
        shared.host.set_addresses(orjson.dumps({"listen": listeners.names, "admin": admin_name}))
        if config.workers > 1:
            inboxes = Inboxes(config.workers)
        members = _members(config, shared, source, listeners, inboxes, admin, demo, timing)

        def on_ready() -> None:
            names = listeners.names
            LOGGER.info("serving %s with %d workers", ", ".join(names), config.workers)
            _print_line(_ready_line(names, admin, config.workers))
            if demo is not None:
                demo.on_ready(names)

        supervisor = Supervisor(
            shared, members, listeners, notifier, timing, on_ready, restores_signals=not ends_process
        )
        status = supervisor.run()
        if config.audit is not None:
            # Control may have been killed, or have had no time left.
            write_rest(config.audit.path, shared.rings())
        if status == 0:
            LOGGER.info("stopped")
        return status
    finally:
        listeners.close()
        if inboxes is not None:
            inboxes.close()
        if admin is not None:
            admin.remove()
        notifier.close()


def _members(
    config: Config,
    shared: Shared,
    source: Callable[[], Config] | None,
    listeners: Listeners,
    inboxes: Inboxes | None,
    admin: AdminListener | None,
    demo: Demo | None,
    timing: Timing,
) -> list[Member]:
    admin_sockets = [] if admin is None else [admin.socket]
    demo_sockets = [] if demo is None else [demo.socket]
    for_workers = [*listeners.all, *([] if inboxes is None else inboxes.all)]
    jitter = random.random
    # Control first: its imports take longest, and run beside those of the workers.
    members = [
        Member(
            "control",
            _control_main(config, shared, source, admin),
            Slot(timing, _CONTROL_STOP, jitter),
            drop=(*for_workers, *demo_sockets),
            number=CONTROL,
            page=shared.page(CONTROL),
        )
    ]
    if demo is not None:
        members.append(
            Member(
                "demo upstream",
                _named(config, "demo upstream", demo.main),
                Slot(timing, _DEMO_STOP, jitter),
                drop=(*for_workers, *admin_sockets),
            )
        )
    for index in range(config.workers):
        name = f"worker {index}"
        members.append(
            Member(
                name,
                _worker_main(config, shared, index, listeners.by_address, inboxes, name, timing),
                Slot(timing, config.drain_timeout + timing.kill_grace, jitter),
                prepare=_preload,
                drop=(*admin_sockets, *demo_sockets),
                number=worker_number(index),
                page=shared.page(worker_number(index)),
                worker=index,
            )
        )
    return members


def _named(config: Config, name: str, main: Callable[[Lifeline], int]) -> Callable[[Lifeline], int]:
    def run(lifeline: Lifeline) -> int:
        log.setup(config.log.level, config.log.format, name)
        return main(lifeline)

    return run


def _worker_main(
    config: Config,
    shared: Shared,
    index: int,
    listeners: Sequence[Sequence[socket.socket]],
    inboxes: Inboxes | None,
    name: str,
    timing: Timing,
) -> Callable[[Lifeline], int]:
    cpus = sorted(os.sched_getaffinity(0))

    def run(lifeline: Lifeline) -> int:
        from shadowcat.worker import main as worker

        if config.cpu_affinity:
            os.sched_setaffinity(0, {cpus[index % len(cpus)]})
        return worker.run(config, shared, index, listeners, inboxes, lifeline, timing)

    return _named(config, name, run)


def _control_main(
    config: Config,
    shared: Shared,
    source: Callable[[], Config] | None,
    admin: AdminListener | None,
) -> Callable[[Lifeline], int]:
    def run(lifeline: Lifeline) -> int:
        from shadowcat.control import main as control

        if admin is None:
            return control.run(shared, [], lifeline, source, token=None)
        return control.run(shared, [admin.socket], lifeline, source, token=admin.token)

    return _named(config, "control", run)


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        # An unlimited hard limit may exceed fs.nr_open.
        LOGGER.warning("the limit of open files stays at %d: %s", soft, error)


def _preload() -> None:
    """Import once, before the fork, what every worker needs: it then starts fast and shares the pages.

    Neither makes a loop or a thread; uvloop, which hooks fork, and aiohttp come after the fork.
    """
    import shadowcat.proxy.assembly
    import shadowcat.worker.main  # noqa: F401


def _ready_line(listen: Sequence[str], admin: AdminListener | None, workers: int) -> bytes:
    """What the supervisor prints on standard output once everything runs."""
    token_file = None if admin is None else admin.token_file
    return orjson.dumps(
        {
            "event": "ready",
            "pid": os.getpid(),
            "workers": workers,
            "listen": listen,
            "admin": None if admin is None else admin.name,
            "admin_token_file": None if token_file is None else str(token_file.path),
        }
    )


def _print_line(line: bytes) -> None:
    """Write a line to standard output; a reader that has gone is no reason to stop."""
    try:
        sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()
    except (OSError, ValueError) as error:
        LOGGER.warning("the ready line could not be written: %s", error)
