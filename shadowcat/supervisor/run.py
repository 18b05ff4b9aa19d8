"""The supervisor's run loop: a selector over the signal pipe, a pidfd and a lifeline per child, a clock."""

from __future__ import annotations

import gc
import os
import selectors
import signal
import time
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Final

from shadowcat.log import LOGGER
from shadowcat.shm.mailboxes import Mail
from shadowcat.shm.page import State as PageState
from shadowcat.shm.shared import CONTROL, SUPERVISOR, Shared, worker_number
from shadowcat.supervisor.adoption import Adoption, Order
from shadowcat.supervisor.member import Member
from shadowcat.supervisor.process import Child, spawn
from shadowcat.supervisor.signals import SignalPipe
from shadowcat.supervisor.slots import Action, Event, State
from shadowcat.supervisor.sockets import Listeners
from shadowcat.supervisor.systemd import Notifier
from shadowcat.supervisor.timing import Timing

_PAUSE: Final = 1.0
"""A longer gap between two ticks means that the supervisor itself (the host, a container) was paused, and the
others with it: their heartbeats get this long to catch up before they are judged."""


class Phase(Enum):
    """Where the host is in its life."""

    STARTING = auto()
    SERVING = auto()
    DRAINING = auto()
    """Workers finish what is open."""
    CLOSING = auto()
    """Workers are gone; control and the rest end."""


class Supervisor:
    """Starts the members, keeps them running, and stops them in order."""

    def __init__(
        self,
        shared: Shared,
        members: Sequence[Member],
        listeners: Listeners,
        notifier: Notifier,
        timing: Timing,
        on_ready: Callable[[], None],
        *,
        restores_signals: bool = True,
    ) -> None:
        """Prepare; nothing is forked yet.

        Args:
            shared: All shared areas.
            members: The processes to run: workers in the order of their slots, and others.
            listeners: The public listener.
            notifier: The service manager.
            timing: All waits.
            on_ready: Called once, when every member is ready for the first time.
            restores_signals: Whether signals have their former actions again in the end. Where the process
                ends, too, a last one that is repeated would kill it.
        """
        self._shared = shared
        self._sessions = shared.sessions_for(SUPERVISOR)
        self._breakers = shared.breakers_with(self._sessions.locks, SUPERVISOR)
        self._members = members
        self._workers = [member for member in members if member.worker is not None]
        self._others = [member for member in members if member.worker is None]
        self._listeners = listeners
        self._notifier = notifier
        self._timing = timing
        self._on_ready = on_ready
        self._restores_signals = restores_signals
        self._adoption = Adoption(len(self._workers), timing.adopt_after)
        self._selector = selectors.DefaultSelector()
        self._phase = Phase.STARTING
        self._status = 0
        self._asked = 0.0
        self._listening = True
        self._reloading = False
        self._last_tick = time.monotonic()
        self._signals = SignalPipe()
        self._selector.register(self._signals.fileno(), selectors.EVENT_READ, self._read_signals)

    def run(self) -> int:
        """Run until all members have ended.

        Returns:
            0 after a stop that was asked for, 1 if the start failed.
        """
        page = self._shared.page(SUPERVISOR)
        page.begin(os.getpid(), time.monotonic_ns())
        page.set_state(PageState.READY)
        gc.collect()
        try:
            self._tell(self._members, Event.START)
            while any(member.slot.state is not State.GONE for member in self._members):
                for key, _ in self._selector.select(self._timing.tick):
                    key.data()
                self._tick(time.monotonic())
        finally:
            self._leave_nobody()
            self._selector.close()
            if self._restores_signals:
                self._signals.restore()
            else:
                self._signals.ignore()
            self._sessions.close()
        return self._status

    # What happens

    def _tick(self, now: float) -> None:
        self._shared.page(SUPERVISOR).beat(time.monotonic_ns())
        if (gap := now - self._last_tick) > _PAUSE:
            for member in self._members:
                if member.page is not None:
                    member.pulse.excuse(member.page.heartbeat, gap + _PAUSE)
        self._last_tick = now
        for member in self._members:
            if member.slot.due(now):
                if member.slot.state is State.STOPPING:
                    LOGGER.warning("%s did not stop in time and is killed", member.name)
                self._handle(member, Event.TIMER)
            if member.slot.state is State.UP and self._silence(member) > self._timing.stale_after:
                LOGGER.error(
                    "%s does not answer: no heartbeat for %.1f s", member.name, self._silence(member)
                )
                self._handle(member, Event.STALE)
        match self._phase:
            case Phase.STARTING:
                self._check_started()
            case Phase.SERVING:
                self._look_after_slots(now)
                self._check_reloaded()
            case Phase.DRAINING:
                self._look_after_slots(now)
                self._check_drained()
        hung = any(member.slot.state is State.HUNG for member in self._members)
        self._notifier.ping(now, not hung)

    def _read_signals(self) -> None:
        for number in self._signals.receive():
            match number:
                case signal.SIGTERM | signal.SIGINT:
                    if self._phase in (Phase.STARTING, Phase.SERVING):
                        self._drain(number)
                    elif time.monotonic() - self._asked >= self._timing.repeat_after:
                        self._stop_now(number)
                case signal.SIGQUIT:
                    self._stop_now(number)
                case signal.SIGUSR1:
                    LOGGER.info("SIGUSR1: opening log files anew")
                    for member in self._members:
                        if member.number is not None:
                            self._send(member, signal.SIGUSR1)
                case signal.SIGHUP:
                    self._reload()

    def _reload(self) -> None:
        """Have control read the configuration again; one that is just being restarted finds the word."""
        LOGGER.info("SIGHUP: reloading the configuration")
        self._notifier.reloading(time.monotonic_ns())
        self._reloading = True
        self._shared.host.ask_for_reload()
        for member in self._others:
            if member.number == CONTROL:
                self._send(member, signal.SIGHUP)

    def _check_reloaded(self) -> None:
        if self._reloading and self._shared.snapshot.reloads == self._shared.host.reloads:
            self._reloading = False
            self._notifier.ready(self._summary())

    def _read_lifeline(self, member: Member, child: Child) -> None:
        if member.child is not child:  # reaped by an event before this one in the same round
            return
        report = child.receive()
        if report.cause is not None:
            member.cause = report.cause
        if report.closed:
            self._selector.unregister(child.lifeline)
        if report.ready:
            LOGGER.info("%s is ready (pid %d)", member.name, child.pid)
            self._handle(member, Event.READY)

    def _reap(self, member: Member) -> None:
        child = member.child
        assert child is not None
        # What it said last may be why it died.
        if child.lifeline in self._selector.get_map():
            self._read_lifeline(member, child)
        if child.lifeline in self._selector.get_map():
            self._selector.unregister(child.lifeline)
        self._selector.unregister(child.pidfd)
        how = child.reap()
        pid = child.pid
        child.close()
        member.child = None
        expected = member.slot.state is State.STOPPING
        starting = member.slot.state is State.FIRST_START
        member.cause = member.cause or how
        self._handle(member, Event.EXIT)
        if expected:
            LOGGER.debug("%s (pid %d) has ended: %s", member.name, pid, how)
        elif not starting:
            now = time.monotonic()
            due = member.slot.due(now)
            when = "at once" if due else f"in {(member.slot.deadline or now) - now:.1f} s"
            LOGGER.error("%s (pid %d) died: %s; restarting %s", member.name, pid, member.cause, when)
            if due:  # the first restart does not wait for the next tick
                self._handle(member, Event.TIMER)

    # What to do about it

    def _tell(self, members: Sequence[Member], event: Event) -> None:
        for member in members:
            self._handle(member, event)

    def _handle(self, member: Member, event: Event) -> None:
        for action in member.slot.handle(event, time.monotonic()):
            match action:
                case Action.FORK:
                    self._fork(member)
                case Action.REPAIR:
                    self._repair(member)
                case Action.GIVE_UP:
                    self._give_up(member)
                case Action.ABORT:
                    self._send(member, signal.SIGABRT)
                case Action.TERMINATE:
                    self._send(member, signal.SIGTERM)
                case Action.KILL:
                    self._send(member, signal.SIGKILL)

    def _fork(self, member: Member) -> None:
        member.cause = None
        member.prepare()
        # Objects that exist now are never collected in the child, so that their pages stay shared.
        gc.freeze()
        try:
            child = spawn(f"shadowcat: {member.name}", member.main, lambda: self._forget(member))
        except OSError as error:
            LOGGER.error("%s could not be forked: %s", member.name, error)
            member.cause = f"it could not be forked: {error}"
            self._handle(member, Event.EXIT)
            return
        if member.starts and member.number is not None:
            self._shared.host.count_restart(member.number)
        member.starts += 1
        member.child = child
        self._selector.register(
            child.lifeline, selectors.EVENT_READ, lambda: self._read_lifeline(member, child)
        )
        self._selector.register(child.pidfd, selectors.EVENT_READ, lambda: self._reap(member))

    def _forget(self, member: Member) -> None:
        """In the child: close what belongs to the supervisor or to a sibling."""
        self._sessions.close()
        self._selector.close()
        self._signals.close()
        for other in self._members:
            if other.child is not None:
                other.child.close()
        for one in member.drop:
            one.close()

    def _repair(self, member: Member) -> None:
        if member.page is not None and member.number is not None:
            member.page.reset_gauges(self._shared.layout)
            self._shared.mail.clear(member.number)
            self._shared.connections.clear(member.number)
            self._shared.clear_pressure(member.number)
            self._shared.clear_crowd(member.number)
            self._shared.clear_concurrency(member.number)
            self._sessions.repair(member.number)
            self._breakers.repair(member.number)
        if member.worker is not None:
            self._adoption.forget(member.worker)

    def _send(self, member: Member, number: signal.Signals) -> None:
        if member.child is not None:
            member.child.signal(number)

    def _give_up(self, member: Member) -> None:
        if self._status == 0:
            self._status = 1
            cause = member.cause or f"it was not ready within {self._timing.start_timeout:g} s"
            LOGGER.error("start failed: %s: %s", member.name, cause)
        self._phase = Phase.CLOSING
        # The culprit may be dumping its stacks.
        self._tell([other for other in self._members if other is not member], Event.KILL)

    def _drain(self, number: signal.Signals) -> None:
        LOGGER.info("%s: finishing what is open; once more stops at once", number.name)
        self._phase = Phase.DRAINING
        self._asked = time.monotonic()
        self._shared.host.set_draining()
        self._notifier.stopping()
        try:
            self._listeners.begin_no_more()
        except OSError as error:
            LOGGER.debug("no socket filter (%s): connections that begin now may be reset", error)
        # Who waits in the queue of a slot without a worker is served too.
        self._order(self._adoption.orders(time.monotonic(), self._accepting(), after=0.0))
        self._tell(self._workers, Event.STOP)

    def _check_drained(self) -> None:
        closed = all(
            not member.slot.alive or (member.page is not None and member.page.state is PageState.DRAINING)
            for member in self._workers
        )
        if closed and self._listening:
            self._listening = False
            self._listeners.shut()
        if all(member.slot.state is State.GONE for member in self._workers):
            self._phase = Phase.CLOSING
            self._tell(self._others, Event.STOP)

    def _stop_now(self, number: signal.Signals) -> None:
        LOGGER.warning("%s: stopping at once", number.name)
        self._shared.host.set_draining()
        if self._phase in (Phase.STARTING, Phase.SERVING):
            self._notifier.stopping()
        self._phase = Phase.CLOSING
        self._tell(self._members, Event.KILL)

    def _leave_nobody(self) -> None:
        """Whatever ended the loop: no child outlives it."""
        for member in self._members:
            if member.child is not None:
                member.child.signal(signal.SIGKILL)
                member.child.reap()
                member.child.close()
                member.child = None

    # Slots

    def _check_started(self) -> None:
        if any(member.slot.state is not State.UP for member in self._members):
            return
        self._phase = Phase.SERVING
        self._look_after_slots(time.monotonic())
        self._shared.host.set_fully_started(time.monotonic_ns())
        self._on_ready()
        self._notifier.ready(self._summary())

    def _look_after_slots(self, now: float) -> None:
        accepting = self._accepting()
        if self._phase is Phase.SERVING:
            self._order(self._adoption.orders(now, accepting))
        host = self._shared.host
        for slot in range(len(self._workers)):
            acceptor = self._adoption.acceptor(slot, accepting)
            process = 0 if acceptor is None else worker_number(acceptor)
            if host.served_by(slot) != process:
                host.set_served(slot, process, time.monotonic_ns())

    def _order(self, orders: Sequence[Order]) -> None:
        for order in orders:
            kind = Mail.ADOPT_SLOT if order.adopt else Mail.RELEASE_SLOT
            # A full ring: the order stays due and is given again at the next tick.
            if self._shared.mail.send(SUPERVISOR, worker_number(order.worker), kind, order.slot):
                self._adoption.carried_out(order)

    def _accepting(self) -> list[bool]:
        """For each slot, whether its own worker takes connections at present."""
        return [
            member.slot.state in (State.UP, State.STOPPING)
            and member.page is not None
            and member.page.state is PageState.READY
            and self._silence(member) <= self._timing.adopt_after
            for member in self._workers
        ]

    def _silence(self, member: Member) -> float:
        """Seconds since the last heartbeat; 0 where none can be expected."""
        if member.page is None:
            return 0.0
        return member.pulse.silence(member.page.heartbeat, time.monotonic())

    def _summary(self) -> str:
        return f"serving {', '.join(self._listeners.names)} with {len(self._workers)} workers"
