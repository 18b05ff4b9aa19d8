"""Exchanges whose beginning and end the choice of the next upstream depends on.

Only routes whose strategy compares loads have them: elsewhere no request pays for it.
"""

from __future__ import annotations

from shadowcat.http1.response import Body
from shadowcat.proxy.exchanges.exchange import Exchange
from shadowcat.proxy.exchanges.session_exchange import UnboundExchange
from shadowcat.proxy.upstreams.response_heads import ResponseTemplate


class MeasuredExchange(Exchange):
    """A request that is load for its upstream, and shows how fast that answers."""

    __slots__ = ()

    def answers_whole(self, status: int) -> bool:
        """The answer is there."""
        self._choice.answered()
        return super().answers_whole(status)

    def open(
        self, head: ResponseTemplate, values: tuple[bytes, ...], body: Body, length: int
    ) -> bytes | None:
        """The answer's head has arrived."""
        self._choice.answered()
        return super().open(head, values, body, length)

    def _done(self) -> None:
        super()._done()
        # Without one nothing was chosen: the request was refused before.
        if self._pool is not None:
            self._choice.end()


class MeasuredUnboundExchange(MeasuredExchange, UnboundExchange):
    """The same for a legacy request without a session."""

    __slots__ = ()
