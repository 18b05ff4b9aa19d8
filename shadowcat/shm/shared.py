"""All shared areas together: made once by the supervisor before the fork, inherited by everyone.

area        writers                                         module
host        supervisor                                      host.py
pages       one per process: that process                   page.py, counters.py
mail        one ring per (sender, receiver): its sender     mailboxes.py
sessions    any worker, under locks of single slots         sessions/layout.py
board       control, and any worker                         board.py
snapshot    control                                         snapshots.py
cursors     any worker, under the lock of a route           cursors.py
affinity    any worker                                      affinity.py
keys        control                                         snapshots.py
credentials control                                         snapshots.py
vault       control, which alone reads it                   snapshots.py
questions   per desk: its worker, and control               questions.py
connections one block per process: that process             connections.py
buckets     one page per process: that process              breakers.py
pressure    one block per process: that process             pressure.py
crowd       one block per process: that process             crowd.py
rings       one per process: that process, and control      rings.py
limiter     any worker, under locks of its buckets          limiter.py
seats       the same; counts: one block per process         concurrency.py
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final, Protocol

from shadowcat.config import seats
from shadowcat.config.model import Config
from shadowcat.errors import StartError
from shadowcat.shm import concurrency, crowd, pressure
from shadowcat.shm.affinity import SECRET as AFFINITY_SECRET
from shadowcat.shm.affinity import AffinityTable
from shadowcat.shm.board import Board
from shadowcat.shm.breakers import Breakers
from shadowcat.shm.concurrency import Concurrency
from shadowcat.shm.connections import Connections, Slots
from shadowcat.shm.counters import Layout
from shadowcat.shm.crowd import Crowd
from shadowcat.shm.cursors import Cursors
from shadowcat.shm.ejections import Ejections
from shadowcat.shm.host import HostFlags
from shadowcat.shm.limiter import SECRET as LIMITER_SECRET
from shadowcat.shm.limiter import Limiter, plan_limiter
from shadowcat.shm.locks import Locks
from shadowcat.shm.logins import Logins
from shadowcat.shm.mailboxes import Mailboxes
from shadowcat.shm.page import HEADER, Page
from shadowcat.shm.pressure import Pressure
from shadowcat.shm.questions import Questions
from shadowcat.shm.region import PAGE, WORD, Plan, Region
from shadowcat.shm.rings import Ring, Rings
from shadowcat.shm.sessions import layout as session_layout
from shadowcat.shm.sessions.owners import SECRET, Owners
from shadowcat.shm.sessions.table import SessionTable
from shadowcat.shm.snapshots import Snapshots, SnapshotTooLargeError
from shadowcat.shm.trail import Trail

_TEXT: Final = 64 * 1024
_ROUTE_TEXT: Final = 4 * 1024
_UPSTREAM_TEXT: Final = 2 * 1024
"""Bytes of the configuration's text in shared memory."""
_KEYS_TEXT: Final = 1024 * 1024
"""Bytes of all issuers' keys: some thousands."""
_CREDENTIALS_TEXT: Final = 1024 * 1024
"""Bytes of what is presented to upstreams: a hundred of the longest tokens, a thousand usual ones."""
_VAULT_TEXT: Final = 1024 * 1024
"""Bytes of what control keeps for its successors."""
SUPERVISOR: Final = 0
CONTROL: Final = 1
_FIRST_WORKER: Final = 2


def worker_number(slot: int) -> int:
    """The process number of the worker in `slot`."""
    return _FIRST_WORKER + slot


class Lifeline(Protocol):
    """A child's tie to the supervisor. End of file on it means that the supervisor is gone: exit at once."""

    def fileno(self) -> int:
        """Descriptor to watch for end of file."""
        ...

    def ready(self) -> None:
        """Tell the supervisor that this process serves."""
        ...

    def failed(self, message: str) -> None:
        """Tell the supervisor why this process cannot start."""
        ...


class Shared:
    """Every shared area, by name."""

    __slots__ = (
        "_buckets",
        "_concurrency",
        "_crowd",
        "_crowd_secret",
        "_cursors",
        "_limiter",
        "_limiter_secret",
        "_pages",
        "_pressure",
        "_region",
        "_rings",
        "_section",
        "_sessions",
        "affinity",
        "audit",
        "board",
        "connections",
        "credentials",
        "host",
        "keys",
        "layout",
        "logins",
        "mail",
        "questions",
        "snapshot",
        "vault",
    )

    def __init__(self, config: Config) -> None:
        processes = worker_number(config.workers)
        self.layout = Layout(config)
        plan = Plan()
        host = HostFlags.plan(plan, config.workers)
        mail = Mailboxes.plan(plan, processes)
        words = HEADER + self.layout.size
        pages = [plan.add(words * WORD, PAGE) for _ in range(processes)]
        board = Board.plan(plan, config.max_upstreams)
        self._buckets = Breakers.plan(plan, processes, config.max_upstreams)
        capacity = _TEXT + config.max_routes * _ROUTE_TEXT + config.max_upstreams * _UPSTREAM_TEXT
        snapshot = Snapshots.plan(plan, capacity)
        self._cursors = Cursors.plan(plan, config.max_routes)
        affinity = AffinityTable.plan(plan)
        keys = Snapshots.plan(plan, _KEYS_TEXT)
        credentials = Snapshots.plan(plan, _CREDENTIALS_TEXT)
        vault = Snapshots.plan(plan, _VAULT_TEXT)
        questions = Questions.plan(plan, config.workers)
        logins = Logins.plan(plan)
        connections = Connections.plan(plan, config.max_upstreams, processes)
        self._pressure = pressure.plan_pressure(plan, processes)
        self._crowd = crowd.plan_crowd(plan, processes)
        self._crowd_secret = os.urandom(crowd.SECRET)
        self.audit = audit = config.audit
        rings = None if audit is None else Rings.plan(plan, processes - CONTROL, audit.capacity)
        self._limiter = plan_limiter(plan, config.limits.capacity, config.max_routes)
        self._limiter_secret = os.urandom(LIMITER_SECRET)
        self._concurrency = concurrency.plan_concurrency(plan, config.limits.capacity, processes)
        self._section = config.sessions
        self._sessions = session_layout.plan(plan, config.sessions.capacity, processes)
        self._region = region = Region(plan.size)
        self._rings: Rings | None = None
        if audit is not None and rings is not None:
            self._rings = Rings(region, rings, audit.capacity)
            self._rings.begin(time.time_ns())
        self.host = HostFlags(region, host, config.workers)
        self._pages = tuple(Page(region.words(area.offset, words)) for area in pages)
        dropped = self.layout.cell("mail_dropped_total")
        self.mail = Mailboxes(region, mail, [page.cells[dropped : dropped + 1] for page in self._pages])
        self.board = Board(region, board, config.max_upstreams)
        self.snapshot = Snapshots(region, snapshot, capacity)
        self.affinity = AffinityTable(region, affinity, os.urandom(AFFINITY_SECRET))
        self.keys = Snapshots(region, keys, _KEYS_TEXT)
        """What control has fetched of issuers' keys (auth/keys.py); version 0 until then."""
        self.credentials = Snapshots(region, credentials, _CREDENTIALS_TEXT)
        """What upstreams are presented with, where it was fetched (auth/held.py); version 0 until then."""
        self.vault = Snapshots(region, vault, _VAULT_TEXT)
        """What control must not lose when it dies (control/oauth/vault.py); version 0: nothing."""
        self.questions = Questions(region, questions, config.workers)
        self.logins = Logins(region, logins)
        self.connections = Connections(region, connections, config.max_upstreams, processes)
        Owners.seed(region, self._sessions, os.urandom(SECRET))

    @classmethod
    def create(cls, config: Config) -> Shared:
        """Allocate everything at the sizes that `config` asks for.

        Raises:
            StartError: The memory is not to be had, or is too small for such a configuration.
            ConfigError: There are more routes or upstreams than `max_routes` and `max_upstreams` allow.
        """
        snapshot = seats.first(config)
        shared = cls(config)
        shared.host.set_started(time.monotonic_ns())
        try:
            shared.snapshot.write(snapshot.version, seats.encode(snapshot))
        except SnapshotTooLargeError as error:
            raise StartError(f"the configuration is too large: {error}; raise max_upstreams") from None
        return shared

    @property
    def processes(self) -> int:
        """How many process numbers there are: supervisor, control and the workers."""
        return len(self._pages)

    def page(self, process: int) -> Page:
        """The counters page of `process`."""
        return self._pages[process]

    def sessions_for(self, process: int) -> SessionTable:
        """The session table for `process`, to be made by that process itself, after its fork.

        Raises:
            OSError: No descriptor is to be had.
        """
        return SessionTable(self._region, self._sessions, self._section, process)

    def cursors_with(self, locks: Locks) -> Cursors:
        """The cursors of all routes for the process whose `locks` these are."""
        return Cursors(self._region, self._cursors, locks)

    def slots_for(self, process: int, locks: Locks) -> Slots:
        """The connections to upstreams as `process` takes them; the `locks` are its own."""
        return Slots(self.connections, process, locks)

    def present(self) -> seats.Snapshot:
        """The configuration as it is now, and who has which number.

        Raises:
            SnapshotError: What is in memory is spoilt.
        """
        return seats.decode(self.snapshot.read()[1])

    def breakers_with(self, locks: Locks, process: int) -> Breakers:
        """The breakers of all upstreams for `process`, whose `locks` these are."""
        return Breakers(self.board, self._region, self._buckets, locks, process)

    def ejections_with(self, locks: Locks, process: int) -> Ejections:
        """The ejections of all routes for `process`, whose `locks` these are."""
        return Ejections(self.board, locks, process)

    def pressure_for(self, process: int) -> Pressure:
        """What the host has taken on, for the worker `process`."""
        return Pressure(self._region, self._pressure, process, range(_FIRST_WORKER, self.processes))

    def clear_pressure(self, process: int) -> None:
        """Nothing is under way in a process that has died; for the supervisor."""
        pressure.clear(self._region, self._pressure, process)

    def crowd_for(self, process: int) -> Crowd:
        """The connections of each client address, as `process` counts them."""
        return Crowd(self._region, self._crowd, self._crowd_secret, process)

    def clear_crowd(self, process: int) -> None:
        """The connections of a process that has died are gone; for the supervisor."""
        crowd.clear(self._region, self._crowd, process)

    def rings(self) -> list[Ring]:
        """The rings of all processes, for control, which writes the audit file; none without one."""
        rings = self._rings
        return [] if rings is None else [rings.ring(number) for number in range(self.processes - CONTROL)]

    def trail_for(self, process: int, wall: Callable[[], float] = time.time) -> Trail | None:
        """Where `process` records events; None if nobody does. `wall` tells seconds since 1970."""
        if self._rings is None or self.audit is None:
            return None
        worker = process - _FIRST_WORKER if process >= _FIRST_WORKER else None
        dropped = self.layout.cell("audit_dropped_total")
        cells = self.page(process).cells
        return Trail(self.audit, self._rings.ring(process - CONTROL), process, worker, wall, cells, dropped)

    def limiter_with(self, locks: Locks) -> Limiter:
        """What limits have admitted, for the process whose `locks` these are."""
        return Limiter(self._region, self._limiter, self._limiter_secret, locks)

    def concurrency_with(self, locks: Locks, process: int) -> Concurrency:
        """What limited requests are under way, for `process`, whose `locks` these are."""
        return Concurrency(self._region, self._concurrency, self._limiter_secret, locks, process)

    def clear_concurrency(self, process: int) -> None:
        """Nothing is under way in a process that has died; for the supervisor."""
        concurrency.clear(self._region, self._concurrency, process)

    def close(self) -> None:
        """Close the descriptors; the memory itself goes when the last process has ended."""
        self.mail.close()
        self._region.close()
