"""Sessions as a worker's data plane uses them: found, opened and ended in the table that all workers share.

What a method cannot do now because another process holds a lock raises LockBusyError, and has changed
nothing. A client's exchange tries again for a moment (`LockExchange`); what no client waits for is done by
`persist`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

import msgspec

from shadowcat.config import model
from shadowcat.errors import Refusal
from shadowcat.mcp.initialize import Opening, Result
from shadowcat.policy.sessions import Action, Event, State, judge_version, step
from shadowcat.proxy.upstreams.errand import Answer, Errand
from shadowcat.shm.board import Board
from shadowcat.shm.locks import PATIENCE, RETRY, LockBusyError
from shadowcat.shm.sessions.record import SessionRecord, SessionState
from shadowcat.shm.sessions.table import Session, SessionTable

if TYPE_CHECKING:
    from shadowcat.proxy.clients.template import RequestTemplate
    from shadowcat.proxy.plane import DataPlane
    from shadowcat.proxy.route import Route
    from shadowcat.proxy.upstreams.pool import Pool

NANOSECONDS: Final = 1e9
_LIFE: Final = {SessionState.OPENING: State.OPENING, SessionState.OPEN: State.OPEN}

USABLE_ID: Final = re.compile(rb"[\x21-\x7e]{1,128}")
"""What an upstream may call a session: visible ASCII (MCP 2025-11-25, transports, "Session Management"), and
not so long that it does not fit a record."""
_PERSISTENCE: Final = 15.0
"""Seconds for which `persist` goes on: a lock's holder that does not move is killed after ten."""
_MOST_GOODBYES: Final = 64
"""DELETEs to upstreams that a worker has under way; beyond it they are left out."""
_GOODBYE_TIME: Final = 10.0
_LONGEST_OWNER: Final = 64
_LONGEST_SUFFIX: Final = 128
"""Of what a record can hold; a session opened under a longer one is not recovered."""
_SLOT_BITS: Final = 24
_SLOT: Final = (1 << _SLOT_BITS) - 1


def owner_of(client: str) -> str:
    """Whom a client's sessions count against: its address, in a form that fits into a record.

    Args:
        client: Its name. Seen through a trusted proxy it is whatever that proxy passed on.
    """
    if len(client) <= _LONGEST_OWNER and client.isascii():
        return client
    return blake2b(client.encode("utf-8", "replace"), digest_size=16).hexdigest()


class Pin:
    """What a worker makes of a session's record, for each of its requests; kept in the session's note."""

    __slots__ = ("is_plain", "is_watched", "line", "pool", "upstream_id")

    def __init__(self, session: Session, pool: Pool) -> None:
        self.pool = pool
        """Of the upstream that has the session."""
        self.upstream_id = session.record.upstream_id
        self.line = b"Mcp-Session-Id: %b\r\n" % session.id
        """The field of answers. One object for all of them: their heads are remembered by it."""
        self.is_watched = bool(session.record.declared)
        """Whether its server may ask the client something: what it asks, and what the client answers, is
        looked at."""
        self.is_plain = not self.is_watched and session.incarnation == session.born
        """Whether nothing of it has to be looked at."""


class Sessions:
    """The session table, and what the data plane knows beside it."""

    __slots__ = ("_board", "_errands", "_is_closed", "_plane", "_section", "pools", "table", "use")

    def __init__(self, plane: DataPlane, section: model.Sessions, table: SessionTable, board: Board) -> None:
        """Made with the plane; `pools` follow when its routes are known."""
        self._plane = plane
        self._section = section
        self._board = board
        self._errands: set[Errand] = set()
        self._is_closed = False
        self.table = table
        self.use = table.use
        """See `SessionTable.use`; here because each request of a session needs it."""
        self.pools: dict[int, Pool] = {}
        """The pool of each upstream, by its row."""

    def configure(self, section: model.Sessions) -> None:
        """Go by these limits from now on."""
        self._section = section
        self.table.configure(section)

    # Requests of a session.

    def find(self, template: RequestTemplate, route: Route, now_ns: int) -> Session | Refusal:
        """The session that a head names, if it may be used with this head; then the template keeps it.

        Raises:
            LockBusyError: It is being written.
        """
        assert template.session_id is not None
        session = self.table.find(template.session_id, now_ns)
        if session is None:
            return Refusal.SESSION_UNKNOWN
        record = session.record
        # One answer for what is not there and for what is somebody else's: who guesses learns nothing.
        if record.route != route.name or record.principal != template.principal or self.home(record) is None:
            return Refusal.SESSION_UNKNOWN
        if not judge_version(record.version, template.version):
            return Refusal.SESSION_VERSION
        self.pin(session)
        template.session = session
        return session

    def home(self, record: SessionRecord) -> Pool | None:
        """The pool of the upstream that a session is pinned to; None if that was removed, and is gone."""
        pool = self.pools.get(record.row)
        return pool if pool is not None and pool.generation == record.generation else None

    def pin(self, session: Session) -> Pin:
        """What follows from the session's record."""
        pin = session.note
        if not isinstance(pin, Pin):
            pin = session.note = Pin(session, self.pools[session.record.row])
        return pin

    def touch(self, session: Session, now_ns: int) -> Session | None:
        """Keep a session that is in use from becoming idle; its present form, or None if it is over."""
        if self.use(session, now_ns):
            return session
        try:
            return self.table.find(session.id, now_ns)
        except LockBusyError:
            return session  # The next touch will tell.

    # The opening of a session.

    def reserve(self, owner: str, now_ns: int) -> int | Refusal:
        """A slot for a session that may come about.

        Raises:
            LockBusyError: The table cannot tell yet.
        """
        if self.table.owned_by(owner) >= self._section.per_principal:
            return Refusal.SESSIONS_PER_PRINCIPAL
        slot = self.table.reserve(now_ns)
        for place, record in self.table.reclaimed():
            self._ended(record, goodbye=True)
            if self._plane.audit is not None:
                self._plane.audit.session_ended(place, record, Event.EXPIRED)
        return Refusal.SESSIONS_FULL if slot is None else slot

    def create(
        self,
        slot: int,
        *,
        principal: str,
        owner: str,
        route: Route,
        pool: Pool,
        upstream_id: bytes,
        suffix: bytes,
        opening: Opening,
        seconds: float,
    ) -> Session:
        """Write the record of a session whose upstream has issued an id.

        Args:
            slot: Was reserved for it.
            principal: Whose it is.
            owner: Whose sessions it counts among.
            route: Where its id will be good.
            pool: Of the upstream.
            upstream_id: Its id there.
            suffix: What followed the route's own path in the request.
            opening: What the client asked for.
            seconds: For how long the upstream's result may be waited for.

        Raises:
            LockBusyError: Nothing was written.
        """
        now_ns = int(self._plane.clock() * NANOSECONDS)
        record = SessionRecord(
            key=b"",
            principal=principal,
            owner="" if owner == principal else owner,
            route=route.name,
            row=pool.row,
            generation=pool.generation,
            upstream_id=upstream_id,
            created_ns=now_ns,
            state=SessionState.OPENING,
            declared=opening.declared,
            recoverable=len(suffix) <= _LONGEST_SUFFIX,
            suffix=suffix if len(suffix) <= _LONGEST_SUFFIX else b"",
        )
        return self.table.create(slot, record, opening.params, now_ns + int(seconds * NANOSECONDS), now_ns)

    def commit(self, session: Session, result: Result) -> None:
        """The upstream has opened the session; if it cannot be noted at once, it will be soon."""

        def change(record: SessionRecord) -> SessionRecord:
            return msgspec.structs.replace(
                record, state=SessionState.OPEN, version=result.version, capabilities=result.capabilities
            )

        expiry = session.record.created_ns + int(self._section.max_lifetime * NANOSECONDS)
        created = self.pools[session.record.row].meters.sessions_created

        def work() -> None:
            if self.table.update(session, change, expiry_ns=expiry) is not None:
                self._plane.cells[created] += 1

        self.persist(work)

    def learn(self, row: int, *, issues_ids: bool) -> None:
        """An upstream answered `initialize` with or without a session id."""
        if self._board.issues_ids(row) is not issues_ids:
            self._board.set_issues_ids(row, issues_ids)
            self.tick()

    def tick(self) -> None:
        """Take note of what other workers have learned."""
        known = self._board.issues_ids
        for route in self._plane.routes:
            route.needs_session = bool(route.legacy) and all(known(pool.row) for pool in route.legacy)

    # The end of a session.

    def happened(self, session: Session, event: Event) -> None:
        """Carry out what an event that ends a session means for it; does nothing if it has ended already.

        Raises:
            LockBusyError: Nothing was done.
        """
        actions = step(_LIFE[session.record.state], event).actions
        if Action.DELETE not in actions:
            return
        record = self.table.delete(session)
        if record is not None:
            # The upstream that knows of the end may not be the one that has the session by now.
            moved = record.upstream_id != session.record.upstream_id
            self._ended(record, goodbye=moved or Action.DELETE_UPSTREAM in actions)
            if self._plane.audit is not None:
                self._plane.audit.session_ended(session.slot, record, event)
            if Action.END_STREAMS in actions:
                self._plane.streams.close_session(session.slot)

    def _ended(self, record: SessionRecord, *, goodbye: bool) -> None:
        """A record is gone: count it, and tell the upstream if it does not know."""
        pool = self.home(record)
        if pool is None:
            return
        if record.state is SessionState.OPEN:
            self._plane.cells[pool.meters.sessions_ended] += 1
        if goodbye:
            self.say_goodbye(pool, record.upstream_id, record.version, record.suffix)

    def end_session(self, argument: int) -> None:
        """Obey the mail END_SESSION: a session has expired, or an operator ended it."""
        slot, version = argument & _SLOT, argument >> _SLOT_BITS

        def work() -> None:
            session = self.table.at(slot)
            if session is not None and session.version & _SLOT == version:
                self.happened(session, Event.EXPIRED)

        self.persist(work)

    def say_goodbye(self, pool: Pool, upstream_id: bytes, version: str, suffix: bytes = b"") -> None:
        """Tell an upstream that nobody will use a session any more: best effort.

        `suffix` is what follows the upstream's own path where the session was opened.
        """
        if len(self._errands) >= _MOST_GOODBYES or pool.origin.is_personal:
            return  # That one would want to know who the client is, which is known no more.
        fields = [(b"Mcp-Session-Id", upstream_id)]
        if version:
            fields.append((b"MCP-Protocol-Version", version.encode()))

        def done(errand: Errand, _: Answer | Refusal) -> None:
            self._errands.discard(errand)

        errand = Errand(self._plane, pool, b"DELETE", fields, b"", done, seconds=_GOODBYE_TIME, suffix=suffix)
        self._errands.add(errand)
        errand.start()

    def abort(self) -> None:
        """Give up what is under way."""
        for errand in list(self._errands):
            errand.abandon()

    def close(self) -> None:
        """Let go of the table."""
        if not self._is_closed:
            self._is_closed = True
            self.table.close()

    # Writing what no client waits for.

    def persist(self, work: Callable[[], None]) -> None:
        """Do what no client waits for: now, or as soon as no lock is in its way."""
        self._persist(work, self._plane.clock())

    def _persist(self, work: Callable[[], None], since: float) -> None:
        if self._is_closed:
            return
        try:
            work()
        except LockBusyError:
            waited = self._plane.clock() - since
            if waited < _PERSISTENCE:
                pause = RETRY if waited < PATIENCE else PATIENCE  # Less often once that has not helped.
                self._plane.loop.call_later(pause, self._persist, work, since)
