"""One coarse timer for all deadlines of a worker.

A timer per request costs 0.55 µs and a heap entry; here an object stores its deadline, and the wheel looks
at the object only when the earliest moment it was ever filed under has come. Moving a deadline later, which
is what almost every request does, is one attribute store.
"""

from __future__ import annotations

from math import inf
from typing import Final

TICK: Final = 0.1
"""Seconds between rounds. A deadline fires up to this much late, and never early."""
_STALL: Final = 1.0
_AT_ONCE: Final = 4
"""Deadlines acted on before others get their turn: to refuse a client takes 30 us, to cut off one that is
being sent a MiB, and to take the rest of that from its upstream, 0.25 ms."""
_HORIZON: Final = 5.0
"""Far deadlines are looked at this often, so that no slot holds on to a closed connection for long."""


class Timed:
    """Something with a deadline. Subclasses say in `on_deadline` what happens when it has passed."""

    __slots__ = ("deadline", "filed")

    deadline: float
    filed: float
    """The earliest deadline that the wheel would notice in time; infinite while this is not filed."""

    def on_deadline(self, now: float) -> None:
        """Act on the passed deadline, which has been cleared."""
        raise AssertionError("a subclass defines this")


class Wheel:
    """Files objects by deadline. Times are seconds on the clock that `tick` is called with."""

    __slots__ = ("_due", "_overdue", "_slots", "now")

    def __init__(self, now: float) -> None:
        self.now = now
        """Time of the last round; for deadlines where TICK does not matter."""
        self._due = int(now / TICK)
        self._slots: dict[int, list[Timed]] = {}
        self._overdue: list[Timed] = []
        """What is not filed any more and still has to be acted on, the last one first."""

    def set(self, item: Timed, deadline: float) -> None:
        """Give `item` a deadline, replacing the one it had.

        The hot path writes it out: store `item.deadline`, and call `file` if it is before `item.filed`.
        """
        item.deadline = deadline
        if deadline < item.filed:
            self.file(item)

    def file(self, item: Timed) -> None:
        """File `item` under its deadline, which is earlier than any it is filed under."""
        slot = max(int(min(item.deadline, self.now + _HORIZON) / TICK) + 1, self._due + 1)
        item.filed = (slot - 1) * TICK  # The slot serves every deadline from here on.
        self._slots.setdefault(slot, []).append(item)

    def tick(self, now: float) -> bool:
        """Run one round: call `on_deadline` of those whose deadline has passed.

        Returns:
            Whether there are too many for one turn of the loop: `catch_up` goes on with them.

        After a stall (SIGSTOP, a suspended machine) one round is skipped, so that what arrived during it is
        read before anybody is declared late.
        """
        stalled = now - self.now > _STALL
        self.now = now
        if stalled:
            return False
        passed: list[Timed] = []
        due = int(now / TICK)
        for slot in range(self._due + 1, due + 1) if due - self._due < 1000 else sorted(self._slots):
            if slot > due:
                break
            for item in self._slots.pop(slot, ()):
                if item.filed != (slot - 1) * TICK:
                    continue  # Filed again under an earlier slot since.
                item.filed = inf
                deadline = item.deadline
                if deadline <= now:
                    passed.append(item)
                elif deadline != inf:
                    self.file(item)
        self._due = due
        self._overdue = [*reversed(passed), *self._overdue]
        return self.catch_up(now)

    def catch_up(self, now: float) -> bool:
        """Act on some more of those whose deadline has passed; whether there are still more."""
        overdue = self._overdue
        for _ in range(min(_AT_ONCE, len(overdue))):
            item = overdue.pop()
            if item.filed != inf:
                continue  # It was given another deadline, and filed under that, while it waited.
            if item.deadline <= now:
                item.deadline = inf
                item.on_deadline(now)
            elif item.deadline != inf:
                self.file(item)
        return bool(overdue)
