"""Connections whose exchanges tell how their upstream is.

    begin --> head --> end: it has answered
      |        |  +--> broken off, too late: it has failed, unless the stream has no end of its own
      |        +--> 502, 503, 504: it has failed
      +--> no head: it has failed, or it is not known why not

An upstream without breaker and ejections has plain connections, so its requests pay for none of this.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from shadowcat.errors import Refusal
from shadowcat.http1.response import Body
from shadowcat.policy.breaker import STATE_MASK
from shadowcat.policy.faults import Outcome, judge_cut_off, judge_refusal, judge_status
from shadowcat.proxy.upstreams.connection_phase import Phase
from shadowcat.proxy.upstreams.outcomes import Outcomes, Trial
from shadowcat.proxy.upstreams.response_heads import ResponseTemplate
from shadowcat.proxy.upstreams.upstream import UpstreamConnection

if TYPE_CHECKING:
    from shadowcat.proxy.plane import DataPlane
    from shadowcat.proxy.upstreams.pool import Pool
    from shadowcat.proxy.upstreams.upstream import Job

_SUCCESS: Final = Outcome.SUCCESS  # An Enum member costs three look-ups.
_JUDGED: Final = -1
"""In place of the word that an exchange began with: no breaker ever has it, so nothing more counts."""
_LATE: Final = (Refusal.FIRST_BYTE_TIMEOUT, Refusal.REQUEST_TIMEOUT)


class JudgedConnection(UpstreamConnection):
    """A connection that tells the `Outcomes` of its upstream what becomes of its exchanges."""

    __slots__ = ("_began", "_failures", "_lease", "_outcomes", "_rpc_method", "_word")

    def __init__(self, plane: DataPlane, pool: Pool, dial: int, outcomes: Outcomes) -> None:
        """`dial` is the number under which the pool knows that this connection is being made."""
        super().__init__(plane, pool, dial)
        self._outcomes = outcomes
        self._word = outcomes.word
        self._failures = outcomes.failures
        self._began = _JUDGED
        """The word of the breaker when the request was sent."""
        self._lease = 0
        """Of a trial; 0 again as soon as its end is known."""
        self._rpc_method: str | None = None
        """Of the request whose answer is a stream."""

    def begin(self, exchange: Job) -> None:
        """Send an exchange's request."""
        self._began = word = self._word[0]
        if word & STATE_MASK:
            self._began, self._lease = self._outcomes.trial(exchange) or (word, 0)
        UpstreamConnection.begin(self, exchange)  # `super` takes three times as long.
        self._sent_at = self._plane.clock()  # Of each, because latencies are compared.

    def _finish(self, rest: bytes) -> None:
        """The answer is complete."""
        if self._failures.in_a_row or self._lease:
            self._conclude(_SUCCESS)
        UpstreamConnection._finish(self, rest)  # noqa: SLF001 (its own)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        exchange = self._exchange
        if exchange is not None:
            if self._phase is Phase.BODY and self._body is Body.CLOSE and exc is None:
                self._conclude(_SUCCESS)
            else:
                self._judge(exchange, Refusal.RESET)
        super().connection_lost(exc)

    def fail(self, refusal: Refusal, *, is_own: bool = False) -> None:
        """The answer is late, or is none; `is_own`: it is the proxy that does not wait for it any more."""
        if self._exchange is not None and not is_own:
            self._judge(self._exchange, refusal)
        super().fail(refusal)

    def abandon(self) -> None:
        """Close at once; if an exchange is under way, it does not want the rest."""
        if self._exchange is not None:
            self._conclude(Outcome.NEUTRAL)
        super().abandon()

    def _judge_head(self, exchange: Job, head: ResponseTemplate) -> None:
        if not self._sent_at:
            return
        self._time()
        self._rpc_method = exchange.rpc_method if head.event_stream else None
        if head.status >= 400 or self._lease:
            self._judge_status(exchange, head)

    def _judge_status(self, exchange: Job, head: ResponseTemplate) -> None:
        outcome = judge_status(head.status, exchange.rpc_method)
        # A trial is not kept waiting for what a tool takes; what goes with a 4xx may not be read to its end.
        if outcome is not _SUCCESS or head.status >= 400:
            self._conclude(outcome, f"status {head.status}", is_redialled=exchange.refused_at < inf)
        elif self._lease and head.event_stream:
            self._outcomes.succeeded(Trial(self._began, self._lease))
            self._lease = 0

    def _judge(self, exchange: Job, refusal: Refusal) -> None:
        """Judge an exchange that ends before its answer does."""
        # Once its head has come, a stream may have dropped its message.
        rpc_method = exchange.rpc_method if self._sent_at else self._rpc_method or exchange.rpc_method
        is_late = refusal in _LATE
        if is_late and exchange.is_detached:
            outcome = Outcome.NEUTRAL  # Its client left: the time it had was not what its answer may take.
        elif self._phase is Phase.BODY:
            outcome = judge_cut_off(exchange.method, rpc_method, timed_out=is_late)
        else:
            outcome = judge_refusal(refusal, rpc_method)
        self._conclude(outcome, refusal.message, is_redialled=exchange.refused_at < inf)

    def _conclude(self, outcome: Outcome, why: str = "", *, is_redialled: bool = False) -> None:
        """Tell it, once."""
        trial = Trial(self._began, self._lease)
        self._began, self._lease = _JUDGED, 0
        if trial.word == _JUDGED:
            return
        if outcome is _SUCCESS:
            self._outcomes.succeeded(trial)
        elif outcome is Outcome.FAILURE and not is_redialled:
            self._outcomes.failed(trial, why)
        else:
            self._outcomes.released(trial)
