"""The life of one supervised process, as a table: (state, event) -> next state, actions, how long to wait.

Nothing is done here. The run loop feeds events in and carries the actions out; clock and randomness are
arguments. An event that the table does not list for a state does not concern it and is ignored.

    NEW --start--> FIRST_START --ready--> UP --exit--> BACKOFF --timer--> STARTING --ready--> UP
                        |                  |              ^                   |
                      exit               stale          exit                exit, timer
                        v                  v              |                   |
                    give up (GONE)       HUNG ------------+-------------------+
    any of them --stop--> STOPPING --exit--> GONE
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Final, NamedTuple

from shadowcat.supervisor.timing import Timing


class State(Enum):
    """Where a process is in its life."""

    NEW = auto()
    FIRST_START = auto()
    """Forked, never ready before: if it ends now, the configuration or the host is at fault."""
    STARTING = auto()
    """A replacement, not ready yet."""
    UP = auto()
    HUNG = auto()
    """It was told to dump its stacks and die."""
    BACKOFF = auto()
    """Dead; a replacement is due."""
    STOPPING = auto()
    GONE = auto()


class Event(Enum):
    """What happens to a process."""

    START = auto()
    READY = auto()
    EXIT = auto()
    """It was reaped."""
    STALE = auto()
    """Its heartbeat is too old."""
    TIMER = auto()
    """The wait that the last transition asked for is over."""
    STOP = auto()
    """It shall finish its work and end."""
    KILL = auto()
    """It shall end at once."""


class Action(Enum):
    """What the run loop has to do."""

    FORK = auto()
    ABORT = auto()
    KILL = auto()
    TERMINATE = auto()
    REPAIR = auto()
    """Put in order what the dead process owned in shared memory."""
    GIVE_UP = auto()
    """The start has failed: stop everything."""


class Wait(Enum):
    """After how long the TIMER event is due."""

    NONE = auto()
    START = auto()
    HEALTHY = auto()
    ABORT = auto()
    BACKOFF = auto()
    STOP = auto()
    KEEP = auto()
    """The wait already begun goes on."""


class _Row(NamedTuple):
    state: State
    actions: tuple[Action, ...] = ()
    wait: Wait = Wait.NONE


_TABLE: Final[dict[tuple[State, Event], _Row]] = {
    (State.NEW, Event.START): _Row(State.FIRST_START, (Action.FORK,), Wait.START),
    (State.NEW, Event.STOP): _Row(State.GONE),
    (State.NEW, Event.KILL): _Row(State.GONE),
    (State.FIRST_START, Event.READY): _Row(State.UP, (), Wait.HEALTHY),
    (State.FIRST_START, Event.EXIT): _Row(State.GONE, (Action.REPAIR, Action.GIVE_UP)),
    (State.FIRST_START, Event.TIMER): _Row(State.STOPPING, (Action.ABORT, Action.GIVE_UP), Wait.ABORT),
    (State.FIRST_START, Event.STOP): _Row(State.STOPPING, (Action.TERMINATE,), Wait.STOP),
    (State.FIRST_START, Event.KILL): _Row(State.STOPPING, (Action.KILL,)),
    (State.STARTING, Event.READY): _Row(State.UP, (), Wait.HEALTHY),
    (State.STARTING, Event.EXIT): _Row(State.BACKOFF, (Action.REPAIR,), Wait.BACKOFF),
    (State.STARTING, Event.TIMER): _Row(State.HUNG, (Action.ABORT,), Wait.ABORT),
    (State.STARTING, Event.STOP): _Row(State.STOPPING, (Action.TERMINATE,), Wait.STOP),
    (State.STARTING, Event.KILL): _Row(State.STOPPING, (Action.KILL,)),
    (State.UP, Event.TIMER): _Row(State.UP),
    (State.UP, Event.EXIT): _Row(State.BACKOFF, (Action.REPAIR,), Wait.BACKOFF),
    (State.UP, Event.STALE): _Row(State.HUNG, (Action.ABORT,), Wait.ABORT),
    (State.UP, Event.STOP): _Row(State.STOPPING, (Action.TERMINATE,), Wait.STOP),
    (State.UP, Event.KILL): _Row(State.STOPPING, (Action.KILL,)),
    (State.HUNG, Event.TIMER): _Row(State.HUNG, (Action.KILL,)),
    (State.HUNG, Event.EXIT): _Row(State.BACKOFF, (Action.REPAIR,), Wait.BACKOFF),
    (State.HUNG, Event.STOP): _Row(State.STOPPING, (Action.KILL,)),
    (State.HUNG, Event.KILL): _Row(State.STOPPING, (Action.KILL,)),
    (State.BACKOFF, Event.TIMER): _Row(State.STARTING, (Action.FORK,), Wait.START),
    (State.BACKOFF, Event.STOP): _Row(State.GONE),
    (State.BACKOFF, Event.KILL): _Row(State.GONE),
    # Asked again to stop, it keeps the deadline of the first time.
    (State.STOPPING, Event.STOP): _Row(State.STOPPING, (), Wait.KEEP),
    (State.STOPPING, Event.TIMER): _Row(State.STOPPING, (Action.KILL,)),
    (State.STOPPING, Event.KILL): _Row(State.STOPPING, (Action.KILL,)),
    (State.STOPPING, Event.EXIT): _Row(State.GONE, (Action.REPAIR,)),
}


class Slot:
    """The state of one supervised process."""

    __slots__ = ("_jitter", "_stop_after", "_timing", "deadline", "failures", "state")

    def __init__(self, timing: Timing, stop_after: float, jitter: Callable[[], float]) -> None:
        """Start in NEW.

        Args:
            timing: The supervisor's waits.
            stop_after: Seconds that the process may take to stop before it is killed.
            jitter: Random numbers in [0, 1).
        """
        self._timing = timing
        self._stop_after = stop_after
        self._jitter = jitter
        self.state = State.NEW
        self.failures = 0
        """Deaths since it last served for `healthy_after`."""
        self.deadline: float | None = None
        """When the TIMER event is due, on the clock of `handle`."""

    def handle(self, event: Event, now: float) -> tuple[Action, ...]:
        """Take an event in and say what to do about it.

        Args:
            event: What happened.
            now: Monotonic seconds.
        """
        row = _TABLE.get((self.state, event))
        if row is None:
            return ()
        if self.state is State.UP and event is Event.TIMER:
            self.failures = 0
        self.state = row.state
        if row.wait is not Wait.KEEP:
            wait = self._seconds(row.wait)
            self.deadline = None if wait is None else now + wait
        if row.wait is Wait.BACKOFF:
            self.failures += 1
        return row.actions

    def due(self, now: float) -> bool:
        """Whether the TIMER event is due."""
        return self.deadline is not None and now >= self.deadline

    @property
    def alive(self) -> bool:
        """Whether there is a process to reap."""
        return self.state not in (State.NEW, State.BACKOFF, State.GONE)

    def _seconds(self, wait: Wait) -> float | None:
        timing = self._timing
        match wait:
            case Wait.START:
                return timing.start_timeout
            case Wait.HEALTHY:
                return timing.healthy_after
            case Wait.ABORT:
                return timing.abort_grace
            case Wait.STOP:
                return self._stop_after
            case Wait.BACKOFF:
                return backoff(self.failures, timing, self._jitter())
            case _:
                return None


def backoff(failures: int, timing: Timing, jitter: float) -> float:
    """Seconds to wait before the next start.

    Args:
        failures: Deaths in a row before this one. 0 means that it had served well: restart at once.
        timing: First and longest wait.
        jitter: A random number in [0, 1): processes that died together do not come back together.
    """
    if failures == 0:
        return 0.0
    # The exponent is bounded because 2.0 ** 1024 overflows.
    full = min(timing.backoff_max, timing.backoff_first * 2.0 ** min(failures - 1, 64))
    return full * (0.5 + 0.5 * jitter)
