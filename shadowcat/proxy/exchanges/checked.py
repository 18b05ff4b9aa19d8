"""Exchanges of routes that check requests: once each, when the session is known and no upstream is chosen.

A check that cannot tell yet, because another process holds a lock, is asked again from a 1 ms timer; the ones
before it are not. After 50 ms the request is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import TYPE_CHECKING, ClassVar, Final

from shadowcat.errors import Refusal
from shadowcat.mcp.envelope import Envelope
from shadowcat.proxy.clients.denial import Denial
from shadowcat.proxy.exchanges.batch_exchange import BatchExchange
from shadowcat.proxy.exchanges.exchange import Exchange
from shadowcat.proxy.exchanges.exchange_state import State
from shadowcat.proxy.exchanges.initialize import InitializeExchange
from shadowcat.proxy.exchanges.layers import layered
from shadowcat.proxy.exchanges.session_exchange import SessionExchange
from shadowcat.shm.locks import PATIENCE, RETRY, LockBusyError

if TYPE_CHECKING:
    from shadowcat.proxy.checks import Check
    from shadowcat.shm.sessions.table import Session

_DONE: Final = State.DONE
_Messages = Sequence[Envelope | None]


class _Asking(Exchange):
    """Asks all checks of its route."""

    __slots__ = ()

    _proceed: ClassVar[Callable[..., None]]
    """How the kind of exchange that is checked goes on: `super`, which each request would pay for, looked up
    once for the class."""

    def _ask(
        self, checks: Sequence[Check], messages: _Messages, session: Session | None, until: float = inf
    ) -> bool:
        """Whether the request may go now. If not, it was refused, or goes on by itself in a moment.

        Args:
            checks: Those that are left.
            messages: See `Check.judge`, as for the next.
            session: The session.
            until: When not to wait for a lock any longer.
        """
        client = self._client
        assert client is not None
        try:
            for check in checks:
                denial = check.judge(self, client, messages, session)
                if denial is not None:
                    self.deny(denial)
                    return False
        except LockBusyError:
            plane = self.plane
            now = plane.clock()
            until = min(until, now + PATIENCE)
            if now < until:
                left = checks[checks.index(check) :]
                plane.loop.call_later(RETRY, self._ask_again, left, messages, session, until)
            else:
                self.deny(Denial(Refusal.LIMITER_BUSY))
            return False
        return True

    def _ask_again(
        self, checks: Sequence[Check], messages: _Messages, session: Session | None, until: float
    ) -> None:
        if self.state is not _DONE and self._ask(checks, messages, session, until):
            self._granted(session)

    def _granted(self, session: Session | None) -> None:
        """The request may go, after all."""
        self._proceed()


class _Checked(_Asking):
    """A request outside of a session."""

    __slots__ = ()

    def start(self) -> None:
        """See whether it may be carried out, and go."""
        if self._ask(self._route.checks, (self.envelope,), None):
            self._proceed()


class _CheckedInitialize(_Asking, InitializeExchange):
    """A request for a session."""

    __slots__ = ()

    def start(self) -> None:
        """See whether it may be carried out, and go."""
        self.prepare()
        if self._ask(self._route.checks, (self.envelope,), None):
            self._proceed()


class _CheckedInSession(_Asking, SessionExchange):
    """A request of a session. `_go` comes again when the session has moved: that is no other request."""

    __slots__ = ()

    def _go(self, session: Session) -> None:
        if not self._is_checked:
            self._is_checked = True
            self.session = session
            if not self._ask(self._route.checks, (self.envelope,), session):
                return
        self._proceed(session)

    def _granted(self, session: Session | None) -> None:
        # While it waited, the session may have moved.
        self._find()


class _CheckedBatch(_CheckedInSession, BatchExchange):
    """A batch: each of its messages is looked at, and one that may not be there keeps all from going."""

    __slots__ = ()

    def _go(self, session: Session) -> None:
        if not self._is_checked:
            self._is_checked = True
            self.session = session
            messages = self.read(session)
            if isinstance(messages, Refusal):
                self.deny(Denial(messages))
                return
            if not self._ask(self._route.checks, messages, session):
                return
        self._proceed(session)


_LAYERS: Final[dict[type[Exchange], tuple[type[Exchange], str]]] = {
    BatchExchange: (_CheckedBatch, "_go"),
    SessionExchange: (_CheckedInSession, "_go"),
    InitializeExchange: (_CheckedInitialize, "_reserve"),
    Exchange: (_Checked, "start"),
}
"""The first that fits, and how it proceeds."""


def checked(kind: type[Exchange]) -> type[Exchange]:
    """The same kind of exchange, for such a route."""
    layer, name = next(found for base, found in _LAYERS.items() if issubclass(kind, base))
    return layered(layer, kind, _proceed=getattr(kind, name))
