"""Handing fresh connections to less loaded workers, and taking theirs.

The decision is in policy/spread.py. What it rests on is exact at once, and a killed worker leaves nothing of
it behind: each worker's count of its connections is a cell of its own page, those under way to it are counted
by the kernel (they lie in its inbox), and those that it has taken but not begun to serve are another cell.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

from shadowcat.log import LOGGER
from shadowcat.policy.spread import hand_over_to, is_above, is_fleeting
from shadowcat.shm.page import State
from shadowcat.shm.shared import Shared, worker_number
from shadowcat.supervisor.inboxes import Inboxes

if TYPE_CHECKING:
    import socket

_FRESH_NS: Final = 1_000_000_000
"""Age of the last heartbeat from which on a worker is handed nothing: it hangs."""
_BEAT_NS: Final = 50_000_000
"""The time in which connections end that nobody bothers to hand over (policy/spread.py)."""
_TRIES: Final = 4
"""How often a decision is made at most, anew each time because its receiver got another connection meanwhile:
with more processes than cores a worker may be held up for milliseconds amid the 20 µs that it takes."""
_BATCH: Final = 64
"""Connections taken before the loop gets to do something else."""


class Handover:
    """One worker's part in the spread of connections over all of them."""

    __slots__ = (
        "_accepted",
        "_arriving",
        "_beaten_ns",
        "_cells",
        "_ended",
        "_ended_before",
        "_factory",
        "_given",
        "_host",
        "_inboxes",
        "_levels",
        "_loop",
        "_pages",
        "_slot",
        "_taken",
        "_tasks",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        factory: Callable[[], asyncio.Protocol],
        shared: Shared,
        slot: int,
        inboxes: Inboxes,
    ) -> None:
        """Begin with nothing under way.

        Args:
            loop: The worker's loop.
            factory: Makes the protocol that serves a connection.
            shared: The shared areas.
            slot: The worker's slot.
            inboxes: Those of all slots.
        """
        self._loop = loop
        self._factory = factory
        self._slot = slot
        self._inboxes = inboxes
        self._host = shared.host
        self._pages = [shared.page(worker_number(worker)) for worker in range(shared.host.slots)]
        connections = shared.layout.cell("connections")
        self._levels = [page.cells[connections : connections + 1] for page in self._pages]
        """Each worker's cell with the number of its connections."""
        self._accepted = shared.layout.cell("connections_accepted_total")
        self._arriving = shared.layout.cell("connections_arriving")
        self._given = shared.layout.cell("connections_handed_over_total")
        self._taken = shared.layout.cell("connections_taken_over_total")
        self._cells = self._pages[slot].cells
        self._ended = 0.0
        """Connections of this worker that ended in the time of a beat, by the last one."""
        self._ended_before = self._cells[self._accepted]
        """All that had ended by then, those of a predecessor among them."""
        self._beaten_ns = time.monotonic_ns()
        self._tasks: set[asyncio.Task[None]] = set()

    def beat(self, now_ns: int) -> None:
        """A beat of the worker has passed, maybe a long one: `now_ns` is CLOCK_MONOTONIC."""
        ended = self._cells[self._accepted] - self._levels[self._slot][0]
        self._ended = (ended - self._ended_before) * _BEAT_NS / max(now_ns - self._beaten_ns, _BEAT_NS)
        self._ended_before = ended
        self._beaten_ns = now_ns

    # Giving.

    def fresh(self) -> asyncio.Protocol:
        """The protocol of a connection that this worker accepts."""
        return _Doorman(self)

    def begin(self, transport: asyncio.Transport) -> None:
        """A connection was accepted, and nothing has been read from it: serve it or hand it over."""
        if not self._hand_over(transport):
            self.serve(transport)

    def serve(self, transport: asyncio.Transport) -> None:
        """Serve a connection here."""
        protocol = self._factory()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)

    def _hand_over(self, transport: asyncio.Transport) -> bool:
        own = self._slot
        count = self._count(own) + 1
        # What is under way to others is left out of this mean, so no one is passed over here.
        total = sum([level[0] for level in self._levels]) + 1
        if not is_above(count, total, len(self._levels)) or is_fleeting(self._ended, count):
            return False
        receiver = self._receiver()
        if receiver is None or not self._inboxes.put(receiver, transport.get_extra_info("socket").fileno()):
            return False
        self._cells[self._given] += 1
        # Closes this process's descriptor and no more: the connection lives on in the one that is under way.
        transport.abort()
        return True

    def _receiver(self) -> int | None:
        eligible = self._eligible()
        receiver = None
        for _ in range(_TRIES):
            counts = [self._count(worker) for worker in range(len(self._pages))]
            counts[self._slot] += 1
            receiver = hand_over_to(counts, self._slot, eligible)
            if receiver is None or self._count(receiver) == counts[receiver]:
                break
        return receiver

    def _count(self, worker: int) -> int:
        """The connections of a worker, and those on their way to it."""
        arriving = self._pages[worker].cells[self._arriving]
        return self._levels[worker][0] + arriving + self._inboxes.waiting(worker)

    def _eligible(self) -> list[bool]:
        """Which workers accept from their own listeners and so from their inboxes, by the supervisor too."""
        host = self._host
        if host.draining:
            return [False] * len(self._pages)
        now_ns = time.monotonic_ns()
        return [
            page.state is State.READY
            and now_ns - page.heartbeat <= _FRESH_NS
            and host.served_by(worker) == worker_number(worker)
            for worker, page in enumerate(self._pages)
        ]

    # Taking.

    def open(self, slot: int) -> None:
        """Serve what comes into the inbox of `slot`: the own one, or one of a slot that was adopted."""
        self._loop.add_reader(self._inboxes.fileno(slot), self._take, slot)

    def close(self, slot: int) -> None:
        """Leave the inbox of `slot` to whoever opens it next."""
        self._loop.remove_reader(self._inboxes.fileno(slot))

    def rest(self, slot: int) -> list[socket.socket]:
        """Empty the inbox of `slot`."""
        rest = []
        while self._inboxes.waiting(slot):
            connection = self._next(slot)
            if connection is not None:
                rest.append(connection)
        return rest

    def _take(self, slot: int) -> None:
        for _ in range(_BATCH):
            # Before it leaves the inbox: others may count it twice for a moment, but never overlook it.
            self._cells[self._arriving] += 1
            connection = self._next(slot)
            if connection is None:
                self._cells[self._arriving] -= 1
                return
            task = self._loop.create_task(self._connect(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _next(self, slot: int) -> socket.socket | None:
        try:
            connection = self._inboxes.take(slot)
        except OSError as error:
            LOGGER.warning("a connection handed over by another worker was lost: %s", error)
            return None
        if connection is not None:
            self._cells[self._taken] += 1
        return connection

    async def _connect(self, connection: socket.socket) -> None:
        arrival = _Arrival(self)
        try:
            await self._loop.connect_accepted_socket(lambda: arrival, connection)
        except OSError as error:
            LOGGER.warning("a connection handed over by another worker was lost: %s", error)
            connection.close()
        finally:
            arrival.end()

    def arrived(self) -> None:
        """A connection that was taken is counted among the worker's own from here on, or has failed."""
        self._cells[self._arriving] -= 1


class _Doorman(asyncio.Protocol):
    """A fresh connection's protocol until it is known who serves it."""

    __slots__ = ("_handover",)

    def __init__(self, handover: Handover) -> None:
        self._handover = handover

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._handover.begin(cast("asyncio.Transport", transport))  # uvloop's is no subclass.


class _Arrival(asyncio.Protocol):
    """The protocol of a connection that was handed over: it stays, whatever the counts say by now."""

    __slots__ = ("_handover", "_under_way")

    def __init__(self, handover: Handover) -> None:
        self._handover = handover
        self._under_way = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.end()
        self._handover.serve(cast("asyncio.Transport", transport))

    def end(self) -> None:
        """Count it no longer as arriving; once."""
        if self._under_way:
            self._under_way = False
            self._handover.arrived()
