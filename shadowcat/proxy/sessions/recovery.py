"""Sessions that their upstream has lost: who brings them back, and who waits for that.

    request lost -> lease free: this worker replays the opening -> re-pin, WAKE --> requests go once more
                 -> lease held: some worker is at it -> WAKE, or a look every 0.1 s -->

No lock is held while an upstream is asked; the lease, a word in the session's slot with a deadline, keeps
others from doing the same. Whoever waits looks at the slot itself: mail may be lost, and workers may die.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection
from math import inf
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from shadowcat.config import model
from shadowcat.errors import Refusal
from shadowcat.policy.sessions import Action, Event, Loss, State, may_recover, recent, step
from shadowcat.proxy.exchanges.exchange_state import State as ExchangeState
from shadowcat.proxy.meters import RouteMeters
from shadowcat.proxy.sessions.redial import Redial
from shadowcat.proxy.sessions.replay import Opening, Replay, fields_of_session
from shadowcat.proxy.sessions.sessions import NANOSECONDS
from shadowcat.proxy.wheel import Timed
from shadowcat.shm.locks import RETRY, LockBusyError
from shadowcat.shm.mailboxes import Mail
from shadowcat.shm.sessions import ids
from shadowcat.shm.sessions.record import RecordTooLargeError, SessionRecord
from shadowcat.shm.sessions.table import Session
from shadowcat.shm.shared import Shared, worker_number

if TYPE_CHECKING:
    from shadowcat.proxy.exchanges.session_exchange import SessionExchange
    from shadowcat.proxy.plane import DataPlane
    from shadowcat.proxy.upstreams.pool import Pool

_log: Final = logging.getLogger(__name__)

LEASE: Final = 15.0
"""Seconds for which a worker alone may bring a session back."""
_MARGIN: Final = 1.0
"""Seconds before the end of its lease at which a worker gives up."""
_DONE: Final = ExchangeState.DONE
_LOOK_EVERY: Final = 0.1
_MOST_HELD: Final = 1024
"""Requests of a worker that wait for a recovery, or for an upstream that refuses connections."""


class _Wait(Timed):
    """The requests that wait for the recovery of one incarnation of a session."""

    __slots__ = ("_look", "exchanges", "loss", "session")

    def __init__(self, recoveries: Recoveries, session: Session, loss: Loss) -> None:
        self.deadline = self.filed = inf
        self._look = recoveries.look
        self.session = session
        self.loss = loss
        self.exchanges: list[tuple[float, SessionExchange]] = []
        """Each with the time at which it is told to come again."""

    def on_deadline(self, now: float) -> None:
        """Look at the slot: no mail has come."""
        self._look(self)


class _SupersededError(Exception):
    """The session has another upstream session by now."""


class Recoveries:
    """The recoveries of a worker, and the requests that wait for them."""

    __slots__ = (
        "_is_closed",
        "_mail",
        "_plane",
        "_process",
        "_redials",
        "_replays",
        "_waits",
        "_workers",
        "section",
    )

    def __init__(self, plane: DataPlane, section: model.Sessions, shared: Shared, process: int) -> None:
        self._plane = plane
        self.section = section
        self._mail = shared.mail
        self._process = process
        self._workers = [number for number in range(worker_number(0), shared.processes) if number != process]
        self._waits: dict[int, _Wait] = {}
        """By slot."""
        self._replays: dict[int, Replay] = {}
        """By slot."""
        self._redials: dict[Pool, Redial] = {}
        self._is_closed = False

    def configure(self, section: model.Sessions, pools: Collection[Pool]) -> None:
        """Go by these limits from now on; these are the upstreams that there are."""
        self.section = section
        self._redials = {pool: redial for pool, redial in self._redials.items() if pool in pools or redial}

    def abort(self) -> None:
        """Give up what is under way."""
        self._is_closed = True
        for replay in self._replays.values():
            replay.abandon()
        self._replays.clear()

    # Requests that have to wait.

    def redial(self, exchange: SessionExchange, pool: Pool) -> None:
        """The upstream refused a connection: let the exchange try again for a while."""
        redial = self._redials.get(pool)
        if redial is None:
            redial = self._redials[pool] = Redial(self._plane)
        if self._is_full:
            exchange.refuse(Refusal.SESSION_RECOVERING)
        else:
            redial.hold(exchange)

    def refused(self, exchange: SessionExchange, pool: Pool) -> None:
        """An upstream has refused a connection for an exchange."""
        redial = self._redials.get(pool)
        if redial is not None:
            redial.refused(exchange)

    def hold(self, exchange: SessionExchange, session: Session, loss: Loss) -> None:
        """Keep a request until its session, which is gone, is back; bring it back if nobody else does.

        Args:
            exchange: Goes on with `resend`, or is refused.
            session: Its session, in the present form.
            loss: How it was lost.

        Raises:
            LockBusyError: Nothing has changed.
        """
        if self._is_full:
            exchange.refuse(Refusal.SESSION_RECOVERING)
            return
        wait = self._waits.get(session.slot)
        if wait is not None and wait.session.incarnation != session.incarnation:
            self.look(wait)
            wait = None
        if session.slot not in self._replays:
            self._begin(exchange, session, loss)
        if wait is None:
            wait = self._waits[session.slot] = _Wait(self, session, loss)
        now = self._plane.clock()
        wait.exchanges.append((now + min(exchange.waits.first_byte, LEASE), exchange))
        self._plane.wheel.set(wait, min(wait.deadline, now + _LOOK_EVERY))

    def woken(self, slot: int) -> None:
        """Mail WAKE has come: a recovery is over."""
        wait = self._waits.get(slot)
        if wait is not None:
            self.look(wait)

    def look(self, wait: _Wait) -> None:
        """See how far the recovery of a session has come."""
        plane = self._plane
        now = plane.clock()
        wait.exchanges = [each for each in wait.exchanges if each[1].state is not _DONE]
        if not wait.exchanges:
            self._forget(wait)
            return
        session = wait.session
        try:
            present = plane.sessions.table.find(session.id, int(now * NANOSECONDS))
            if present is None:
                self._refuse_all(wait, Refusal.SESSION_UNKNOWN)
            elif present.incarnation != session.incarnation:
                self._forget(wait)
                for _, exchange in wait.exchanges:
                    exchange.resend(present)
            else:
                self._go_on_waiting(wait, present, now)
        except LockBusyError:
            self._plane.wheel.set(wait, now + _LOOK_EVERY)

    def _go_on_waiting(self, wait: _Wait, present: Session, now: float) -> None:
        overdue = [exchange for until, exchange in wait.exchanges if now >= until]
        wait.exchanges = [each for each in wait.exchanges if now < each[0]]
        for exchange in overdue:
            exchange.refuse(Refusal.SESSION_RECOVERING)
        if not wait.exchanges:
            self._forget(wait)
            return
        self._plane.wheel.set(wait, now + _LOOK_EVERY)
        holder = self._plane.sessions.table.lease(present, int(now * NANOSECONDS))
        if not holder and present.slot not in self._replays:
            _, first = wait.exchanges[0]
            self._begin(first, present, wait.loss)

    def _forget(self, wait: _Wait) -> None:
        wait.deadline = inf
        if self._waits.get(wait.session.slot) is wait:
            del self._waits[wait.session.slot]

    def _refuse_all(self, wait: _Wait, refusal: Refusal) -> None:
        self._forget(wait)
        for _, exchange in wait.exchanges:
            exchange.refuse(refusal)

    @property
    def _is_full(self) -> bool:
        held = sum(len(wait.exchanges) for wait in self._waits.values())
        return held + sum(map(len, self._redials.values())) >= _MOST_HELD

    # Recovering.

    def _begin(self, exchange: SessionExchange, session: Session, loss: Loss) -> None:
        """Open the session anew, if nobody else is doing that.

        Raises:
            LockBusyError: Nothing has changed.
        """
        plane = self._plane
        table = plane.sessions.table
        now = plane.clock()
        params, uris = table.params(session), table.subscriptions(session)
        until = int((now + LEASE) * NANOSECONDS)
        home = plane.sessions.home(session.record)
        if (
            home is None
            or not params
            or not table.take_lease(session, self._process, until, int(now * NANOSECONDS))
        ):
            return
        opening = Opening(
            session,
            params,
            uris,
            loss,
            exchange.successors(home),
            fields_of_session(exchange.fields),
            exchange.template.admitted,
        )
        replay = Replay(plane, opening, now + LEASE - _MARGIN, self._settle)
        self._replays[session.slot] = replay
        if plane.audit is not None:
            plane.audit.recovery(session, "started", loss.name.lower())
        replay.start()

    def _settle(self, replay: Replay, event: Event) -> None:
        """A replay has ended."""
        if self._is_closed:
            return
        try:
            event = self._carry_out(replay, event)
        except LockBusyError:
            # Until the lease is over at the latest: then there is nothing left to write.
            self._plane.loop.call_later(RETRY, self._settle, replay, event)
            return
        slot = replay.opening.session.slot
        self._replays.pop(slot, None)
        wait = self._waits.get(slot)
        if wait is None:
            return
        if event is Event.NO_UPSTREAM:
            self._refuse_all(wait, Refusal.SESSION_RECOVERING)
        else:
            self.look(wait)

    def _leave(self, replay: Replay) -> None:
        """End the new upstream session, if there is one, which nobody will use."""
        if replay.upstream_id is not None and replay.pool is not None:
            record = replay.opening.session.record
            self._plane.sessions.say_goodbye(replay.pool, replay.upstream_id, record.version, record.suffix)

    def _carry_out(self, replay: Replay, event: Event) -> Event:
        """Do what the end of a replay means for the session; the event, which may turn out another one.

        Raises:
            LockBusyError: Nothing has changed.
        """
        plane = self._plane
        sessions = plane.sessions
        session = replay.opening.session
        record = session.record
        present = sessions.table.at(session.slot)
        if present is not None and present.born != session.born:
            present = None
        state = self._state(present, session)
        actions = step(state, event).actions
        if Action.RE_PIN in actions:
            try:
                self._re_pin(replay, session)
            except _SupersededError:
                state = State.OPEN
                actions = step(state, event).actions
            except RecordTooLargeError:
                return self._carry_out(replay, Event.UNLIKE)
        if Action.DELETE in actions and present is not None:
            sessions.happened(present, Event.LOST)
        if event is Event.NO_UPSTREAM and state is State.RECOVERING:
            sessions.table.drop_lease(session, self._process)
        if Action.RE_PIN in actions:
            # Who answered 404 has nothing left to delete.
            home = sessions.home(record)
            if replay.opening.loss is Loss.REFUSED and home is not None:
                sessions.say_goodbye(home, record.upstream_id, record.version, record.suffix)
        else:
            self._leave(replay)
        if Action.WAKE in actions:
            for worker in self._workers:
                self._mail.send(self._process, worker, Mail.WAKE, session.slot)
        if state is State.RECOVERING:
            self._report(replay, event)
        return event

    def _state(self, present: Session | None, session: Session) -> State:
        """Where the session stands now."""
        if present is None:
            return State.ENDED
        now_ns = int(self._plane.clock() * NANOSECONDS)
        is_ours = self._plane.sessions.table.lease(present, now_ns) == self._process
        return State.RECOVERING if is_ours and present.incarnation == session.incarnation else State.OPEN

    def _re_pin(self, replay: Replay, session: Session) -> None:
        """Give the session to its new upstream session.

        Raises:
            LockBusyError: Nothing has changed.
            _SupersededError: Somebody else has done so.
            RecordTooLargeError: The upstream's id is so long that the record does not fit into a slot.
        """
        sessions = self._plane.sessions
        pool, upstream_id = replay.pool, replay.upstream_id
        assert pool is not None
        assert upstream_id is not None
        now_ns = int(self._plane.clock() * NANOSECONDS)

        def change(record: SessionRecord) -> SessionRecord:
            if (record.row, record.upstream_id) != (session.record.row, session.record.upstream_id):
                raise _SupersededError
            return replace(
                record,
                row=pool.row,
                generation=pool.generation,
                upstream_id=upstream_id,
                recoveries=(*recent(record.recoveries, now_ns), now_ns),
            )

        changed = sessions.table.update(session, change, repin=True)
        if changed is None:
            raise _SupersededError
        self._plane.streams.close_older(session.slot, changed.incarnation)
        with contextlib.suppress(LockBusyError):  # Nobody looks at the lease of an incarnation that is over.
            sessions.table.drop_lease(session, self._process)
        cells = self._plane.cells
        home = sessions.home(session.record)
        if home is not None:
            cells[home.meters.sessions_ended] += 1
        cells[pool.meters.sessions_created] += 1

    def expired(self, session: Session) -> None:
        """A session was lost, and has ended: where it should have been recovered, say why it was not."""
        if self.section.recovery == "expire":
            return
        now_ns = int(self._plane.clock() * NANOSECONDS)
        if not may_recover(session.record.recoveries, now_ns):
            why = "it was too often within an hour"
        elif session.record.recoverable:
            why = "the new one was lost at once"
        else:
            why = "what opened it was not kept"
        self._failed(session, why)

    def _report(self, replay: Replay, event: Event) -> None:
        session = replay.opening.session
        if event is Event.UNLIKE:
            self._failed(session, "no upstream opens one like it")
        elif event is Event.NO_UPSTREAM:
            self._failed(session, "no upstream takes it now; the next request tries again")
        else:
            assert replay.pool is not None
            for meters in self._meters(session):
                self._plane.cells[meters.recoveries] += 1
            handle, home = self._names(session)
            place = replay.pool.origin.name
            _log.info("session %s, lost by upstream %s, was initialized anew at %s", handle, home, place)
            if self._plane.audit is not None:
                self._plane.audit.recovery(session, "succeeded", upstream=place)

    def _failed(self, session: Session, why: str) -> None:
        for meters in self._meters(session):
            self._plane.cells[meters.recovery_failures] += 1
        handle, home = self._names(session)
        _log.warning("session %s, lost by upstream %s, was not recovered: %s", handle, home, why)
        if self._plane.audit is not None:
            self._plane.audit.recovery(session, "failed", why)

    def _names(self, session: Session) -> tuple[str, str]:
        """What operators call a session, which must not be its id, and its upstream."""
        home = self._plane.sessions.home(session.record)
        return ids.handle(session.slot, session.id), home.origin.name if home is not None else "-"

    def _meters(self, session: Session) -> list[RouteMeters]:
        """Of the session's route; none if that was removed."""
        return [route.meters for route in self._plane.routes if route.name == session.record.route]
