"""Bytes that the host keeps in memory for clients: large bodies, and answers that are taken slowly.

Small bodies are not counted, so that usual requests pay nothing: there is one for each connection at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shadowcat.config.model import Config

if TYPE_CHECKING:
    from shadowcat.proxy.clients.kept import Kept
    from shadowcat.shm.pressure import Pressure

SMALL: Final = 16 * 1024
"""Bytes of a body that is not counted."""


class Stock:
    """What one worker keeps. Bodies are counted before they are read, and let go with the next tick after the
    end of their requests; answers are looked at with each tick, as what is kept of one is bounded anyway.
    """

    __slots__ = ("_answers", "_bodies", "_limit", "_pressure", "_slow")

    def __init__(self, pressure: Pressure) -> None:
        self._pressure = pressure
        self._limit = 0
        self._bodies: set[Kept] = set()
        """Who has sent large ones."""
        self._slow: set[Kept] = set()
        """Who takes their answers slowly."""
        self._answers = 0
        """What is counted for them."""

    def take_up(self, config: Config) -> None:
        """Go by this from now on."""
        self._limit = int(config.overload.max_buffered)

    def reserve(self, size: int) -> bool:
        """Make room for a part of a body, if the host may; `hold` has to follow."""
        return self._pressure.hold(size, self._limit)

    def take_back(self, size: int) -> None:
        """So much of what was reserved is not needed any more."""
        self._pressure.change(-size)

    def hold(self, client: Kept) -> None:
        """This client's body has room, until it is no longer needed."""
        self._bodies.add(client)

    def slow(self, client: Kept) -> None:
        """This client does not take its answer as fast as it comes."""
        self._slow.add(client)

    def tick(self) -> None:
        """Look at what is still needed."""
        pressure = self._pressure
        if self._bodies:
            for client in [client for client in self._bodies if not client.needs_body]:
                self._bodies.discard(client)
                self.take_back(client.let_go())
        if self._slow or self._answers:
            unsent = 0
            for client in list(self._slow):
                rest = client.unsent
                unsent += rest
                if not rest:
                    self._slow.discard(client)
            pressure.change(unsent - self._answers)
            self._answers = unsent
