"""A supervised process: its place in the state table, and its child if one runs."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from shadowcat.shm.page import Page
from shadowcat.shm.shared import Lifeline
from shadowcat.supervisor.process import Child
from shadowcat.supervisor.pulse import Pulse
from shadowcat.supervisor.slots import Slot


@dataclass(slots=True, eq=False)
class Member:
    """What the run loop knows about one process."""

    name: str
    """As in logs and, behind "shadowcat: ", in the process title."""
    main: Callable[[Lifeline], int]
    """Runs in the child."""
    slot: Slot
    prepare: Callable[[], None] = lambda: None
    """Runs in the supervisor before each fork: what it imports, the child has and shares."""
    drop: Sequence[socket.socket] = ()
    """Listening sockets that the child must not hold: a copy nobody accepts from swallows connections."""
    number: int | None = None
    """Process number in shared memory; None for a process that has no page."""
    page: Page | None = None
    pulse: Pulse = field(default_factory=Pulse)
    worker: int | None = None
    """The worker slot; None for all but workers."""
    child: Child | None = field(default=None)
    cause: str | None = field(default=None)
    """What the process said about why it cannot start."""
    starts: int = 0
