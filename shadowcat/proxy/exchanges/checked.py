"""Exchanges of routes that check requests: once each, when the session is known and no upstream is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from shadowcat.errors import Refusal
from shadowcat.mcp.envelope import Envelope
from shadowcat.proxy.clients.denial import Denial
from shadowcat.proxy.exchanges.batch_exchange import BatchExchange
from shadowcat.proxy.exchanges.exchange import Exchange
from shadowcat.proxy.exchanges.initialize import InitializeExchange
from shadowcat.proxy.exchanges.layers import layered
from shadowcat.proxy.exchanges.session_exchange import SessionExchange

if TYPE_CHECKING:
    from shadowcat.shm.sessions.table import Session


class _Asking(Exchange):
    """Asks all checks of its route."""

    __slots__ = ()

    def _ask(self, messages: Sequence[Envelope | None], session: Session | None) -> Denial | None:
        client = self._client
        assert client is not None
        for check in self._route.checks:
            denial = check.judge(self, client, messages, session)
            if denial is not None:
                return denial
        return None


class _Checked(_Asking):
    """A request outside of a session."""

    __slots__ = ()

    def start(self) -> None:
        """See whether it may be carried out, and go."""
        denial = self._ask((self.envelope,), None)
        if denial is None:
            super().start()
        else:
            self.deny(denial)


class _CheckedInitialize(_Asking, InitializeExchange):
    """The first request of a session."""

    __slots__ = ()

    def start(self) -> None:
        """See whether it may be carried out, and go."""
        denial = self._ask((self.envelope,), None)
        if denial is None:
            super().start()
        else:
            self.prepare()  # What was not opened is put away like what was.
            self.deny(denial)


class _CheckedInSession(_Asking, SessionExchange):
    """A request of a session. `_go` comes again when the session has moved: that is no other request."""

    __slots__ = ()

    def _go(self, session: Session) -> None:
        if not self._is_checked:
            self._is_checked = True
            self.session = session
            denial = self._objection(session)
            if denial is not None:
                self.deny(denial)
                return
        super()._go(session)

    def _objection(self, session: Session) -> Denial | None:
        return self._ask((self.envelope,), session)


class _CheckedBatch(_CheckedInSession, BatchExchange):
    """A batch: each of its messages is looked at, and one that may not be there keeps all from going."""

    __slots__ = ()

    def _objection(self, session: Session) -> Denial | None:
        messages = self.read(session)
        return Denial(messages) if isinstance(messages, Refusal) else self._ask(messages, session)


def checked(kind: type[Exchange]) -> type[Exchange]:
    """The same kind of exchange, for such a route."""
    if issubclass(kind, BatchExchange):
        return layered(_CheckedBatch, kind)
    if issubclass(kind, InitializeExchange):
        return layered(_CheckedInitialize, kind)
    return layered(_CheckedInSession if issubclass(kind, SessionExchange) else _Checked, kind)
