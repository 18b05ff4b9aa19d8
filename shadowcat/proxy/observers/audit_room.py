"""`audit.overflow: refuse`: no request is carried out that may turn out not to be recorded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from shadowcat.errors import Refusal
from shadowcat.mcp.envelope import Envelope
from shadowcat.proxy.clients.denial import Denial
from shadowcat.shm.trail import SPACE, Trail

if TYPE_CHECKING:
    from shadowcat.proxy.clients.downstream import ClientConnection
    from shadowcat.proxy.exchanges.exchange import Exchange
    from shadowcat.shm.sessions.table import Session

_SPARE: Final = 8
"""Lines that are kept for what no request answers for: breakers, sessions that expire, tokens."""
_FULL: Final = Denial(Refusal.AUDIT_FULL)


class AuditRoom:
    """Keeps room for the lines of requests under way; a Check, the first one of each route.

    A GET has none: it may stay open for hours, and only its refusal would be an event.
    """

    __slots__ = ("_held", "_lines", "_ring")

    def __init__(self, trail: Trail) -> None:
        self._ring = trail.ring
        self._held: dict[Exchange, int] = {}
        """How many lines each may still need."""
        self._lines = 0
        """Their sum."""

    def judge(
        self,
        exchange: Exchange,
        client: ClientConnection,
        messages: Sequence[Envelope | None],
        session: Session | None,
    ) -> Denial | None:
        """Whether there is room for all that is to be said of a request: a line per call, and one more."""
        # What a policy has decided of each message, its call, and what becomes of the whole.
        lines = 1 + 2 * len(messages)
        if (self._lines + lines + _SPARE) * SPACE > self._ring.room:
            return _FULL
        if exchange.template.is_post:
            self._held[exchange] = lines
            self._lines += lines
        return None

    def settle(self, exchange: Exchange) -> None:
        """All was said of a request."""
        self._lines -= self._held.pop(exchange, 0)
