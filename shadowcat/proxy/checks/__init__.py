"""What a route asks of each request beyond a good token, before an upstream is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from shadowcat.mcp.envelope import Envelope
from shadowcat.proxy.clients.denial import Denial

if TYPE_CHECKING:
    from shadowcat.proxy.clients.downstream import ClientConnection
    from shadowcat.proxy.exchanges.exchange import Exchange
    from shadowcat.shm.sessions.table import Session


class Check(Protocol):
    """One thing that is asked. A route has those that its configuration calls for, in the order of asking."""

    def judge(
        self,
        exchange: Exchange,
        client: ClientConnection,
        messages: Sequence[Envelope | None],
        session: Session | None,
    ) -> Denial | None:
        """Why the request is not carried out; None if it may be.

        Args:
            exchange: The request.
            client: Who sent it.
            messages: Those of a batch; otherwise the one message, None for GET and DELETE.
            session: The session it belongs to, which was found, and is the caller's.

        Raises:
            LockBusyError: It cannot be told yet; nothing has changed, and it is asked again.
        """
