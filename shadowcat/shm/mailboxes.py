"""Commands between processes: a ring per (sender, receiver) and an eventfd per receiver.

    ring (receiver-major)   word    field       writer
                            0       tail        sender: commands ever sent
                            8       head        receiver: commands ever taken; supervisor while it is dead
                            16-79   entries     sender

    entry                   (lap + 1) mod 256 (8 bits) | kind (8 bits) | argument (48 bits), in one store

Tail and head lie on different cache lines. An entry carries the lap of the ring it belongs to, so a receiver
that sees the tail before the entry (possible on ARM, which keeps no store order) notices, and takes the
entry when the sender's eventfd write, which follows, wakes it. A full ring drops the command and counts that
in the sender's page: whoever sends one must leave the reason for it where polling finds it too.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from enum import IntEnum
from typing import Final

from shadowcat.shm.region import WORD, Area, Plan, Region

CAPACITY: Final = 64
_TAIL: Final = 0
_HEAD: Final = 8
_ENTRIES: Final = 16
_RING: Final = _ENTRIES + CAPACITY
_LAP_SHIFT: Final = 56
_KIND_SHIFT: Final = 48
_ARGUMENT: Final = (1 << _KIND_SHIFT) - 1


class Mail(IntEnum):
    """What can be asked of another process; the comment says what the argument is."""

    ADOPT_SLOT = 1
    """Register the listeners of slot `argument` beside the own ones."""
    RELEASE_SLOT = 2
    """Stop accepting on the listeners of slot `argument`."""
    END_STREAM = 3
    """Close streams of the session in table slot `argument` that are not its present one."""
    WAKE = 4
    """The recovery of the session in table slot `argument` is over, or a stream of it has let go."""
    END_SESSION = 5
    """End a session: the low 24 bits of its version word, then the table slot in 24 bits."""
    MAKE_ROOM = 6
    """The sender waits for a connection to the upstream of row `argument`: close one that is idle."""
    ASKED = 7
    """There is a question at a desk of the sender (questions.py)."""
    ANSWERED = 8
    """There is an answer at a desk of the receiver."""


class Mailboxes:
    """All rings of all processes."""

    __slots__ = ("_dropped", "_eventfds", "_processes", "_words")

    def __init__(self, region: Region, area: Area, dropped: Sequence[memoryview]) -> None:
        """Lay the rings over an `area` that `plan` set aside.

        Args:
            region: The shared region.
            area: Where the rings are.
            dropped: For each process the one cell of its page in which it counts what it could not send.
        """
        self._processes = len(dropped)
        self._words = region.words(area.offset, area.length // WORD)
        self._dropped = tuple(dropped)
        self._eventfds = tuple(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in dropped)

    @staticmethod
    def plan(plan: Plan, processes: int) -> Area:
        """Set the memory aside for rings between `processes` processes."""
        return plan.add(processes * processes * _RING * WORD)

    def _ring(self, sender: int, receiver: int) -> int:
        return (receiver * self._processes + sender) * _RING

    def send(self, sender: int, receiver: int, kind: Mail, argument: int = 0) -> bool:
        """Send a command and wake its receiver. Never blocks.

        Args:
            sender: The own process number.
            receiver: The process number to send to.
            kind: What is asked.
            argument: 0 to 2**48 - 1.

        Returns:
            False if the ring was full and the command was dropped and counted.
        """
        if not 0 <= argument <= _ARGUMENT:
            raise ValueError(f"argument {argument} of {kind.name} does not fit into 48 bits")
        words = self._words
        ring = self._ring(sender, receiver)
        tail = words[ring + _TAIL]
        if tail - words[ring + _HEAD] >= CAPACITY:
            self._dropped[sender][0] += 1
            return False
        lap, position = divmod(tail, CAPACITY)
        words[ring + _ENTRIES + position] = (lap + 1 & 0xFF) << _LAP_SHIFT | kind << _KIND_SHIFT | argument
        words[ring + _TAIL] = tail + 1
        os.eventfd_write(self._eventfds[receiver], 1)
        return True

    def receive(self, receiver: int) -> list[tuple[int, Mail, int]]:
        """Take all commands for the calling process: (sender, kind, argument), in order for each sender."""
        # The eventfd first: what is sent from here on wakes the receiver again.
        self._drain(receiver)
        words = self._words
        mail = []
        for sender in range(self._processes):
            ring = self._ring(sender, receiver)
            head, tail = words[ring + _HEAD], words[ring + _TAIL]
            if head == tail:
                continue
            while head < tail:
                lap, position = divmod(head, CAPACITY)
                entry = words[ring + _ENTRIES + position]
                if entry >> _LAP_SHIFT != lap + 1 & 0xFF:
                    break
                mail.append((sender, Mail(entry >> _KIND_SHIFT & 0xFF), entry & _ARGUMENT))
                head += 1
            words[ring + _HEAD] = head
        return mail

    def clear(self, receiver: int) -> None:
        """Forget what was sent to a process that has been reaped: its replacement must not obey it."""
        self._drain(receiver)
        words = self._words
        for sender in range(self._processes):
            ring = self._ring(sender, receiver)
            words[ring + _HEAD] = words[ring + _TAIL]

    def fileno(self, receiver: int) -> int:
        """The eventfd that becomes readable when there is mail for `receiver`."""
        return self._eventfds[receiver]

    def close(self) -> None:
        """Close the eventfds."""
        for eventfd in self._eventfds:
            os.close(eventfd)

    def _drain(self, receiver: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._eventfds[receiver])
