"""Bytes that the host keeps in memory for clients: large bodies, and answers that are taken slowly.

Small bodies are not counted, so that usual requests pay nothing: there is one for each connection at most.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from shadowcat.config.model import Config

if TYPE_CHECKING:
    from shadowcat.proxy.clients.kept import Kept
    from shadowcat.shm.pressure import Pressure

SMALL: Final = 16 * 1024
"""Bytes of a body that is not counted."""
_LOOKS: Final = 64
_PART: Final = 16
"""With each tick so many slow clients are looked at again, or this part of them if that is more. A look takes
a microsecond, so all of a thousand would hold everybody else up for one in a hundred milliseconds."""


class Stock:
    """What one worker keeps. Bodies are counted before they are read, and let go with the next tick after the
    end of their requests; answers are counted when a client falls behind, and looked at again now and then,
    as what is kept of one is bounded anyway.
    """

    __slots__ = ("_bodies", "_limit", "_pressure", "_slow")

    def __init__(self, pressure: Pressure) -> None:
        self._pressure = pressure
        self._limit = 0
        self._bodies: set[Kept] = set()
        """Who has sent large ones."""
        self._slow: dict[Kept, int] = {}
        """Who takes their answers slowly, and what is counted for them; the last one was looked at last."""

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
        """This client's body has arrived, or will not: its room is free once it is no longer needed."""
        self._bodies.add(client)

    def slow(self, client: Kept) -> None:
        """This client does not take its answer as fast as it comes."""
        self._pressure.change(self._look(client))

    def tick(self) -> None:
        """Look at what is still needed."""
        if self._bodies:
            for client in [client for client in self._bodies if not client.needs_body]:
                self._bodies.discard(client)
                self.take_back(client.let_go())
        if slow := self._slow:
            looks = max(_LOOKS, len(slow) // _PART)
            self._pressure.change(sum([self._look(client) for client in list(islice(slow, looks))]))

    def _look(self, client: Kept) -> int:
        """How many bytes more than before, or fewer if negative, are kept for a slow client."""
        before = self._slow.pop(client, 0)
        unsent = client.unsent
        if unsent:
            self._slow[client] = unsent
        return unsent - before
