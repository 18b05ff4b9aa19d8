"""Room for more connections, which the workers share: what this one takes, and its pools that wait."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from shadowcat.proxy.sessions.sessions import NANOSECONDS
from shadowcat.shm.connections import Slots
from shadowcat.shm.locks import LockBusyError
from shadowcat.shm.mailboxes import Mail, Mailboxes

if TYPE_CHECKING:
    from shadowcat.proxy.upstreams.pool import Pool

_LOOK_EVERY: Final = 0.01
"""Seconds. Nobody tells a worker that another one has closed a connection."""
_LOOK_FIRST: Final = 0.002
"""Seconds in which a worker that has an idle connection reads its mail and closes it, and one that holds the
lock lets go of it.
"""


class Room:
    """One per worker. One timer serves all that wait."""

    __slots__ = ("_is_stopped", "_loop", "_mail", "_pools", "_process", "_timer", "others_wait", "slots")

    def __init__(self, loop: asyncio.AbstractEventLoop, slots: Slots, mail: Mailboxes, process: int) -> None:
        """`process` is the worker's number."""
        self.slots = slots
        self._mail = mail
        self._process = process
        self.others_wait = False
        """Whether another worker waited for a connection to any upstream at the last tick."""
        self._loop = loop
        self._pools: dict[Pool, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._is_stopped = False

    def tick(self, now: float) -> None:
        """Look at the other workers; called ten times a second."""
        self.others_wait = self.slots.others_wait(int(now * NANOSECONDS))

    def take(self, pool: Pool, since: float) -> bool:
        """Take a connection for a request that waits since then; if there is none for now, `wait` follows."""
        if self._is_stopped:
            return False
        now = int(self._loop.time() * NANOSECONDS)
        try:
            return self.slots.take(pool.row, pool.limit, int(since * NANOSECONDS), now)
        except LockBusyError:
            return False

    def wait(self, pool: Pool, count: int, since: float) -> None:
        """So many requests of a pool wait, the first one since then: it will be told to `look_for_room`."""
        if count:
            now = self._loop.time()
            is_first = pool not in self._pools
            self._pools[pool] = None
            self.slots.wait(pool.row, count, int(since * NANOSECONDS))
            self.slots.look(len(self._pools), int(now * NANOSECONDS))
            self._look_at(now + (_LOOK_FIRST if is_first else _LOOK_EVERY))
            if is_first:
                # Who misses it finds out with the next tick.
                for holder in self.slots.holders(pool.row):
                    self._mail.send(self._process, holder, Mail.MAKE_ROOM, pool.row)
        elif pool in self._pools:
            del self._pools[pool]
            self.slots.wait(pool.row, 0, 0)
            self.slots.look(len(self._pools), int(self._loop.time() * NANOSECONDS))

    def stop(self) -> None:
        """Stop the timer, and take nothing more."""
        self._is_stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_at(self, when: float) -> None:
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = None if self._is_stopped else self._loop.call_at(when, self._look)

    def _look(self) -> None:
        self._timer = None
        for pool in list(self._pools):
            pool.look_for_room()
