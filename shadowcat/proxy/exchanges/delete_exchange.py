"""The end of a session, as its client asks for it."""

from __future__ import annotations

from shadowcat.http1.response import Body
from shadowcat.policy.sessions import Event
from shadowcat.proxy.exchanges.session_exchange import SessionExchange
from shadowcat.proxy.upstreams.response_heads import ResponseTemplate
from shadowcat.shm.locks import LockBusyError


class DeleteExchange(SessionExchange):
    """A client's DELETE: the session ends with the upstream's consent, before the client hears of it."""

    __slots__ = ()

    def answers_whole(self, status: int) -> bool:
        """Never: `open` has something to do first."""
        return False

    def open(
        self, head: ResponseTemplate, values: tuple[bytes, ...], body: Body, length: int
    ) -> bytes | None:
        """The answer's head has arrived. 405 means that the upstream ends no sessions: this one lives on."""
        if 200 <= head.status < 300 or head.status == 404:
            try:
                self.plane.sessions.happened(self.session, Event.DELETED)
            except LockBusyError:
                self._hold_back()
                return None
        return super().open(head, values, body, length)
