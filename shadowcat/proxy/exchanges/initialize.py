"""The exchange that opens a session.

    RESERVED --2xx head with an id: record, the client gets the proxy's id--> OPENING --result--> OPEN
        |                                                                        |
        +-- any other answer: the slot is given back      error, broken off: the record is deleted

Which of it happened last is told by `_slot` (reserved), `session` (a record) and `_committed`.
"""

from __future__ import annotations

from functools import partial
from math import inf
from typing import TYPE_CHECKING

from shadowcat.errors import Refusal
from shadowcat.http1.response import Body
from shadowcat.mcp.initialize import Outcome, ResultWatch, read_request
from shadowcat.policy.sessions import Event
from shadowcat.proxy.exchanges.lock_exchange import LockExchange
from shadowcat.proxy.sessions.sessions import NANOSECONDS, USABLE_ID, owner_of
from shadowcat.proxy.upstreams.balancer import Purpose
from shadowcat.proxy.upstreams.response_heads import ResponseTemplate
from shadowcat.shm.locks import PATIENCE, RETRY, LockBusyError
from shadowcat.shm.sessions.table import Session

if TYPE_CHECKING:
    from shadowcat.proxy.upstreams.pool import Pool


class InitializeExchange(LockExchange):
    """An `initialize` outside of a session: the session that it opens is kept in shared memory."""

    is_kept_whole = False

    __slots__ = (
        "_committed",
        "_event",
        "_opening",
        "_owner",
        "_result",
        "_slot",
        "_upstream_id",
        "session",
        "session_line",
        "watch",
    )

    _purpose = Purpose.SESSION
    _result: ResultWatch

    def start(self) -> None:
        """Reserve a place for the session, choose an upstream, and go."""
        self.prepare()
        self._reserve()

    def prepare(self) -> None:
        """There is no session yet; comes first, even if the request ends before it has started."""
        self._patience = inf
        self._slot: int | None = None
        self._upstream_id: bytes | None = None
        self.session: Session | None = None
        self._committed = False
        self._event = Event.BROKEN_OFF
        self._opening: Pool | None = None
        self.session_line = b""
        self.watch = None

    def _reserve(self) -> None:
        client = self._client
        assert client is not None
        plane = self.plane
        template = self.template
        # Where nobody authenticates, everybody is the same principal.
        self._owner = owner_of(client.name(template)) if template.admitted is None else template.principal
        try:
            found = plane.sessions.reserve(self._owner, int(plane.clock() * NANOSECONDS))
        except LockBusyError:
            self._wait_for_lock(self._reserve)
            return
        if isinstance(found, Refusal):
            self._refuse(found, "")
            return
        self._patience = inf
        self._slot = found
        only = self._route.only
        if only is None:
            self._take_turn()
        else:
            self._go_to(only)

    def _take_turn(self) -> None:
        """Choose an upstream. For a fair share a moment is waited, but nobody is refused."""
        balancer = self._route.balancer
        try:
            number = balancer.session_number(self, self._client)
        except LockBusyError:
            now = self.plane.clock()
            self._patience = min(self._patience, now + PATIENCE)
            if now < self._patience:
                self.plane.loop.call_later(RETRY, self._again, self._take_turn)
                return
            number = balancer.number(self, self._client)
        self._patience = inf
        self._choose(number)

    def _go_to(self, pool: Pool | None) -> None:
        self._count_opening(pool)
        super()._go_to(pool)

    def _count_opening(self, pool: Pool | None) -> None:
        """It is this upstream that is to open the session now; None: no upstream any more."""
        cells, before = self.plane.cells, self._opening
        if before is not None:
            cells[before.meters.opening] -= 1
        self._opening = pool
        if pool is not None:
            cells[pool.meters.opening] += 1

    def answers_whole(self, status: int) -> bool:
        """Never: the content has to be read."""
        return False

    def open(
        self, head: ResponseTemplate, values: tuple[bytes, ...], body: Body, length: int
    ) -> bytes | None:
        """The answer's head has arrived: here a session gets its record and its client the id."""
        if self._route.only is None:
            self._choice.answered()
        if 200 <= head.status < 300:
            assert self._pool is not None
            self.plane.sessions.learn(self._pool.row, issues_ids=head.names_session)
            if head.names_session:
                self._upstream_id = upstream_id = head.session_id(values)
                if upstream_id is None or not USABLE_ID.fullmatch(upstream_id):
                    self._upstream_id = None
                    self._give_up(Refusal.BAD_RESPONSE)
                    return None
                # Without a client nobody would ever know the session: it ends with the exchange.
                if self._client is not None:
                    try:
                        self._create(upstream_id)
                    except LockBusyError:
                        self._hold_back()
                        return None
                    self._result = ResultWatch(is_stream=head.event_stream)
                    self.watch = self._look
        return super().open(head, values, body, length)

    def _create(self, upstream_id: bytes) -> None:
        pool, slot = self._pool, self._slot
        assert pool is not None
        assert slot is not None
        self.session = session = self.plane.sessions.create(
            slot,
            principal=self.template.principal,
            owner=self._owner,
            route=self._route,
            pool=pool,
            upstream_id=upstream_id,
            suffix=self.template.suffix,
            opening=read_request(self.body),
            seconds=self.waits.answer,
        )
        self._slot = None
        self.session_line = self.plane.sessions.pin(session).line

    def _look(self, content: bytes) -> None:
        self._take(self._result.feed(content))

    def _take(self, outcome: Outcome | None) -> None:
        """The answer is in what the client gets next: its next request must find the session."""
        session = self.session
        if outcome is Outcome.ERROR:
            self._event = Event.ERROR
        elif outcome is Outcome.RESULT and session is not None:
            self._committed = True
            assert self._result.result is not None
            self.plane.sessions.commit(session, self._result.result)
            if self.plane.audit is not None:
                self.plane.audit.session_created(self, self._client, session)

    def end(self, rest: bytes) -> None:
        """Hand on the last part of the answer."""
        if self.watch is not None:
            self._take(self._result.end())
        super().end(rest)

    def _done(self) -> None:
        """Leave nothing behind of a session that was not opened."""
        super()._done()
        self._count_opening(None)
        sessions, session, pool = self.plane.sessions, self.session, self._pool
        if pool is not None and self._route.only is None:
            if self._committed:
                self._choice.keep()
            else:
                self._choice.end()
        if self._slot is not None:
            sessions.table.unreserve(self._slot)
        if self._committed:
            return
        if session is not None:
            sessions.persist(partial(sessions.happened, session, self._event))
        elif self._upstream_id is not None and pool is not None:
            sessions.say_goodbye(pool, self._upstream_id, "", self.template.suffix)
