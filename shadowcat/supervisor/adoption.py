"""Who accepts connections for which slot: pure decisions.

Every worker holds the listeners of all slots and has registered only its own. When a slot's worker does not
accept (it is dead and its replacement waits, it hangs, it drains), a sibling is told to register that slot's
listeners too, and to let go of them once the slot's own worker accepts again. For a moment both accept, which
does no harm; nobody accepting would leave clients in the queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Order(NamedTuple):
    """Tell the worker of slot `worker` to adopt (or to release) the listeners of `slot`."""

    adopt: bool
    worker: int
    slot: int


class Adoption:
    """Remembers since when each slot lacks an acceptor, and who stands in."""

    __slots__ = ("_after", "_since", "_stand_in")

    def __init__(self, slots: int, after: float) -> None:
        """Begin with all slots served by their own workers.

        Args:
            slots: Number of worker slots.
            after: Seconds without an acceptor after which a sibling stands in.
        """
        self._after = after
        self._since: list[float | None] = [None] * slots
        self._stand_in: list[int | None] = [None] * slots

    def orders(self, now: float, accepting: Sequence[bool], after: float | None = None) -> list[Order]:
        """What to tell whom. An order stands until `carried_out` says that it was sent.

        Args:
            now: Monotonic seconds.
            accepting: For each slot, whether its own worker accepts at present.
            after: Wait this long instead of the usual time.
        """
        wait = self._after if after is None else after
        orders = []
        for slot, own in enumerate(accepting):
            stand_in = self._stand_in[slot]
            if own:
                self._since[slot] = None
                if stand_in is not None:
                    orders.append(Order(False, stand_in, slot))
                continue
            if stand_in is not None and accepting[stand_in]:
                self._since[slot] = None
                continue
            since = self._since[slot]
            if since is None:
                self._since[slot] = since = now
            if now - since >= wait:
                heir = self._least_loaded(accepting)
                if heir is not None:
                    orders.append(Order(True, heir, slot))
        return orders

    def carried_out(self, order: Order) -> None:
        """Note that an order has been sent."""
        self._stand_in[order.slot] = order.worker if order.adopt else None
        self._since[order.slot] = None

    def forget(self, worker: int) -> None:
        """The worker of slot `worker` has died, and with it what it had adopted."""
        self._stand_in = [None if stand_in == worker else stand_in for stand_in in self._stand_in]

    def acceptor(self, slot: int, accepting: Sequence[bool]) -> int | None:
        """The slot whose worker accepts for `slot`; None if nobody does."""
        if accepting[slot]:
            return slot
        stand_in = self._stand_in[slot]
        return stand_in if stand_in is not None and accepting[stand_in] else None

    def _least_loaded(self, accepting: Sequence[bool]) -> int | None:
        candidates = [worker for worker, accepts in enumerate(accepting) if accepts]
        return min(candidates, key=self._stand_in.count, default=None)
