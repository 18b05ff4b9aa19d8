"""What becomes of the requests to one upstream, as one worker sees it, and what that means for the upstream.

    failure --> counted --> enough: the breaker opens, for the host; the upstream is ejected from the choice
    request --> breaker open: fails at once
            --> half-open: with a lease it is a trial, whose end closes the breaker or opens it again

A request that succeeds costs nothing here unless the one before has failed: how many there were is known to
the pool, and is told with the tick.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple

from shadowcat.config import model
from shadowcat.errors import Refusal
from shadowcat.policy.breaker import STATE_MASK, Event, Row, State, Step, barred_until, closed_at, step
from shadowcat.policy.failures import bucket_length, trips
from shadowcat.shm.breakers import Breakers, Change
from shadowcat.shm.ejections import Ejections, Place
from shadowcat.shm.locks import LockBusyError

if TYPE_CHECKING:
    from shadowcat.proxy.plane import DataPlane
    from shadowcat.proxy.upstreams.pool import Pool
    from shadowcat.proxy.upstreams.upstream import Job

_log: Final = logging.getLogger(__name__)

_NANOSECONDS: Final = 1_000_000_000


class Trial(NamedTuple):
    """A request that a breaker lets through although it is not closed."""

    word: int
    """The breaker's first word, as it was then."""
    lease: int


class Marks(NamedTuple):
    """Where a worker leaves what it finds out about upstreams, for all others; with its own locks."""

    breakers: Breakers
    ejections: Ejections


class Outcomes:
    """Those of one upstream; there are none where its route has neither breaker nor ejections."""

    __slots__ = (
        "_breaker",
        "_length",
        "_marks",
        "_outlier",
        "_places",
        "_plane",
        "_pool",
        "_section",
        "_sent",
        "_trials",
        "_under",
        "failures",
        "word",
    )

    _breaker: model.Breaker | None
    _length: int
    """Of a bucket, ns."""
    _outlier: model.Outlier | None
    _places: Sequence[Place]
    _section: model.Route

    def __init__(
        self, plane: DataPlane, pool: Pool, marks: Marks, section: model.Route, places: Sequence[Place]
    ) -> None:
        """Watch a pool's upstream; see `configure`."""
        self._plane = plane
        self._pool = pool
        self._marks = marks
        self.word = marks.breakers.words(pool.row)
        """Its first item is the breaker's word: policy/breaker.py."""
        self.failures = marks.breakers.failures(pool.row)
        self._under = 0
        """The word under which failures in a row are counted: whenever the breaker closes they begin anew."""
        self._sent = self._requests
        self._trials: dict[Job, Trial] = {}
        """Of those that wait for a connection."""
        self.configure(section, places)

    def configure(self, section: model.Route, places: Sequence[Place]) -> None:
        """Go by this section from now on; `places` are those of all upstreams of the route."""
        self._section = section
        self._places = places
        self._breaker = section.breaker
        self._outlier = section.outlier
        self._length = bucket_length(section.breaker or model.Breaker())

    # Before the request.

    def lets_in(self, exchange: Job) -> bool:
        """Whether an exchange may go to the upstream, whose breaker is not closed; if not, it is told so.

        One whose upstream refused it when the breaker was closed, and which tries it again and again, goes on
        with that: it may find out what no trial does, and its failures are not counted.
        """
        word = self.word[0]
        breaker = self._breaker
        if breaker is None or not word & STATE_MASK or exchange.refused_at < inf or exchange in self._trials:
            return True
        now = self._now()
        # First without the lock: most of those that ask get nothing.
        if step(Row.unpack(self.word), Event.ASKED, Step(breaker, now)).lease:
            marks = self._marks
            try:
                change = marks.breakers.step(self._pool.row, Event.ASKED, breaker, now)
            except LockBusyError:
                change = Change(word, word)  # Whoever holds it has the last lease, or changes the state.
            self._note(change, "")
            if change.lease:
                self._trials[exchange] = Trial(change.after, change.lease)
                return True
            if not change.after & STATE_MASK:
                return True
        pool = self._pool
        self._plane.cells[pool.meters.breaker_refusals] += 1
        exchange.no_connection(Refusal.BREAKER_OPEN, f"{pool.origin.name}; try again in {self.retry_after} s")
        return False

    @property
    def retry_after(self) -> int:
        """Whole seconds after which the breaker may let a request through."""
        return max(1, -(-(barred_until(self.word[0]) - self._now()) // _NANOSECONDS))

    def trial(self, exchange: Job) -> Trial | None:
        """The exchange is being sent: what it was let in with."""
        return self._trials.pop(exchange, None)

    # Its end.

    def forget(self, exchange: Job) -> None:
        """An exchange waits for a connection no longer, and nothing was found out."""
        trial = self._trials.pop(exchange, None)
        if trial is not None:
            self.released(trial)

    def unreachable(self, exchange: Job, why: str) -> None:
        """There is no connection to be had for an exchange; `why` is for the log."""
        trial = self._trials.pop(exchange, None)
        word = self.word[0]
        if trial is not None:
            self._settle(Event.FAILED, trial, why)
        elif exchange.refused_at == inf and not word & STATE_MASK:
            self._count(word, why, is_sent=False)

    def failed(self, trial: Trial, why: str) -> None:
        """The upstream has failed an exchange that was sent. Without lease it was no trial."""
        if trial.lease:
            self._settle(Event.FAILED, trial, why)
        elif trial.word == self.word[0] and not trial.word & STATE_MASK:
            self._count(trial.word, why, is_sent=True)

    def succeeded(self, trial: Trial) -> None:
        """It has answered."""
        self.failures.in_a_row = 0
        if trial.lease:
            self._settle(Event.SUCCEEDED, trial)

    def released(self, trial: Trial) -> None:
        """It has shown nothing."""
        if trial.lease:
            self._settle(Event.RELEASED, trial)

    # Counting.

    @property
    def _requests(self) -> int:
        meters = self._pool.meters
        return meters.first_uses + meters.reused

    def publish(self) -> None:
        """Tell the others how many requests there were; called with the tick."""
        failures = self.failures
        bucket = self._now() // self._length
        if bucket != failures.bucket:
            failures.advance(bucket)
        requests = self._requests
        failures.sent(requests - self._sent)
        self._sent = requests

    def _count(self, word: int, why: str, *, is_sent: bool) -> None:
        failures = self.failures
        if word != self._under:
            self._under = word
            failures.in_a_row = 0
        self.publish()
        failures.failed(is_sent=is_sent)
        number = failures.in_a_row
        breaker = self._breaker
        counts = self._marks.breakers.counts(self._pool.row)
        if breaker is not None and trips(breaker, number, counts, failures.bucket, closed_at(word)):
            self._settle(Event.TRIPPED, Trial(word, 0), why)
        outlier = self._outlier
        if outlier is not None and number >= outlier.consecutive_failures:
            self._persist(partial(self._eject, outlier, f"{number} failures in a row, the last one: {why}"))

    # What all workers share.

    def _settle(self, event: Event, trial: Trial, why: str = "") -> None:
        breaker = self._breaker
        if breaker is None:
            return

        def work() -> None:
            change = self._marks.breakers.step(
                self._pool.row, event, breaker, self._now(), began=trial.word, lease=trial.lease
            )
            self._note(change, why)

        self._persist(work)

    def _note(self, change: Change, why: str) -> None:
        """Say what the breaker of this upstream does now: whoever changes it does, so it is said once."""
        states = change.states
        if states is None:
            return
        name = self._pool.origin.name
        before, after = states
        if self._plane.audit is not None:
            self._plane.audit.breaker(self._section.path, name, before, after, why)
        if after is State.OPEN:
            self._plane.cells[self._pool.meters.breaker_opened] += 1
            _log.warning(
                "upstream %s: its breaker has opened%s, no requests for %d s: %s",
                name,
                " again" if before is State.HALF_OPEN else "",
                self.retry_after,
                why,
            )
            self._pool.turn_away()
        elif after is State.HALF_OPEN:
            _log.info("upstream %s: its breaker is half-open: a few requests try it", name)
        else:
            _log.warning("upstream %s: its breaker has closed: it answers again", name)

    def _eject(self, section: model.Outlier, why: str) -> None:
        pool = self._pool
        now = self._now()
        until = self._marks.ejections.eject(self._section, section, self._places, pool.row, now)
        if until is not None:
            self._plane.cells[pool.meters.ejections] += 1
            seconds = (until - now) / _NANOSECONDS
            _log.warning("upstream %s: nothing new for %.0f s: %s", pool.origin.name, seconds, why)

    def _persist(self, work: Callable[[], None]) -> None:
        self._plane.sessions.persist(work)

    def _now(self) -> int:
        return int(self._plane.clock() * _NANOSECONDS)
