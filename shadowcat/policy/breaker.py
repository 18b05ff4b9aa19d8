"""The circuit breaker of an upstream, one for the whole host: a state table over words that workers share.

    CLOSED --tripped--> OPEN --asked after open_for--> HALF_OPEN --enough successes--> CLOSED
                         ^                                 |
                         +------------ a failure ----------+

Nothing is stored here. The caller reads a row of ROW_WORDS words, takes a step, and writes the row back, all
under the row's lock; without it anybody may read the first word, which is all that a request needs:

    word    field        bits
    0       state        2 state, 40 time in ms, 22 generation, from the low end. The time is when an open
                         breaker may be tried, and when a closed one closed.
    1       successes    of the trials of this generation
    2-9     leases       16 process, 48 deadline in ms; 0: free. One for each trial under way.

Each change of state is a new generation, and so another first word: an exchange remembers the word it began
with, and what becomes of it counts only while that word stands. So answers to what was sent before a breaker
opened neither close nor open it again. All zeros is a closed breaker; times are monotonic ns, as arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, IntEnum, auto
from typing import Final, NamedTuple

from shadowcat.config.model import Breaker

MOST_LEASES: Final = 8
ROW_WORDS: Final = 2 + MOST_LEASES
STATE_MASK: Final = 3
"""`word & STATE_MASK` is 0 where a breaker is closed: the one test that every request makes."""

_MS: Final = 1_000_000
_STATE_BITS: Final = 2
_TIME_BITS: Final = 40  # 34 years
_TIME: Final = (1 << _TIME_BITS) - 1
_GENERATION: Final = (1 << 22) - 1
_PROCESS_BITS: Final = 16
_PROCESS: Final = (1 << _PROCESS_BITS) - 1


class State(IntEnum):
    """What a breaker lets through."""

    CLOSED = 0
    """Everything."""
    OPEN = 1
    """Nothing."""
    HALF_OPEN = 2
    """A few trials at a time, each with a lease."""


class Event(Enum):
    """What happens to a breaker."""

    TRIPPED = auto()
    """Failures have reached a threshold (`Failures`)."""
    ASKED = auto()
    """A request would like to go to the upstream; it may if it is given a lease."""
    SUCCEEDED = auto()
    """A trial has, with the lease it was given."""
    FAILED = auto()
    """A trial has."""
    RELEASED = auto()
    """A trial ended without showing anything."""
    REAPED = auto()
    """A process has died, and with it its trials."""
    REPLACED = auto()
    """The row stands for another upstream now."""


class Row(NamedTuple):
    """What the words say."""

    state: State = State.CLOSED
    time: int = 0
    """In ms: see word 0."""
    generation: int = 0
    successes: int = 0
    leases: tuple[int, ...] = (0,) * MOST_LEASES

    @classmethod
    def unpack(cls, words: Sequence[int]) -> Row:
        """Read ROW_WORDS words."""
        word = words[0]
        return cls(
            state_of(word),
            word >> _STATE_BITS & _TIME,
            word >> _STATE_BITS + _TIME_BITS,
            words[1],
            tuple(words[2:ROW_WORDS]),
        )

    def pack(self) -> tuple[int, ...]:
        """The words. Store the first one last: it is what others read without the lock."""
        return (self.word, self.successes, *self.leases)

    @property
    def word(self) -> int:
        """The first word."""
        later = self.generation << _TIME_BITS | self.time
        return later << _STATE_BITS | self.state


def state_of(word: int) -> State:
    """The state that the first word of a row tells."""
    return State(word & STATE_MASK)


def barred_until(word: int) -> int:
    """Until when the first word of a row keeps everybody out, monotonic ns; 0 if it does not.

    A half-open breaker keeps nobody out for certain: who wants through has to ask for a lease.
    """
    return (word >> _STATE_BITS & _TIME) * _MS if word & STATE_MASK == State.OPEN else 0


def closed_at(word: int) -> int:
    """When a closed breaker closed, by the first word of its row, monotonic ns; 0 if it was never open."""
    return (word >> _STATE_BITS & _TIME) * _MS


class Step(NamedTuple):
    """Who asks or tells, and when."""

    section: Breaker
    now: int
    """Monotonic ns."""
    process: int = 0
    """The worker's number."""
    lease: int = 0
    """What the trial was given by ASKED, for how it ended."""


class Taken(NamedTuple):
    """The row after a step."""

    row: Row
    lease: int = 0
    """The lease that ASKED was given; 0: none, so the request may not go there."""


def step(row: Row, event: Event, data: Step) -> Taken:
    """Take an event in. What the table does not list for a state changes nothing.

    An event about an exchange (TRIPPED, SUCCEEDED, FAILED, RELEASED) is for the caller to drop if the first
    word is not the one that the exchange began with.
    """
    handler = _TABLE.get((row.state, event))
    return handler(row, data) if handler is not None else Taken(row)


def _enter(row: Row, state: State, time: int) -> Row:
    return Row(state, time // _MS & _TIME, row.generation + 1 & _GENERATION)


def _open(row: Row, data: Step) -> Taken:
    # Rounded up, so that the word never lets through early.
    until = data.now + round(data.section.open_for * 1000) * _MS + _MS - 1
    return Taken(_enter(row, State.OPEN, until))


def _try_open(row: Row, data: Step) -> Taken:
    if barred_until(row.word) > data.now:
        return Taken(row)
    return _lease(_enter(row, State.HALF_OPEN, 0), data)


def _lease(row: Row, data: Step) -> Taken:
    now = data.now // _MS
    for number in range(data.section.half_open_requests):
        lease = row.leases[number]
        # A trial that outlives its lease still tells how it went; only its place goes to another one.
        if not lease or lease >> _PROCESS_BITS <= now:
            deadline = now + max(1, round(data.section.open_for * 1000))
            given = deadline << _PROCESS_BITS | data.process
            return Taken(_set_lease(row, number, given), given)
    return Taken(row)


def _release(row: Row, data: Step) -> Taken:
    # It is no longer there if its time was up and the place was given to another trial.
    if data.lease and data.lease in row.leases:
        return Taken(_set_lease(row, row.leases.index(data.lease), 0))
    return Taken(row)


def _succeed(row: Row, data: Step) -> Taken:
    row = _release(row, data).row._replace(successes=row.successes + 1)
    if row.successes >= data.section.half_open_requests:
        return Taken(_enter(row, State.CLOSED, data.now))
    return Taken(row)


def _reap(row: Row, data: Step) -> Taken:
    leases = tuple(0 if lease & _PROCESS == data.process else lease for lease in row.leases)
    return Taken(row._replace(leases=leases))


def _replace(row: Row, data: Step) -> Taken:
    # With a time, so that failures of the upstream before are not the new one's.
    return Taken(_enter(row, State.CLOSED, data.now))


def _set_lease(row: Row, number: int, lease: int) -> Row:
    return row._replace(leases=(*row.leases[:number], lease, *row.leases[number + 1 :]))


_TABLE: Final[dict[tuple[State, Event], Callable[[Row, Step], Taken]]] = {
    (State.CLOSED, Event.TRIPPED): _open,
    (State.OPEN, Event.ASKED): _try_open,
    (State.HALF_OPEN, Event.ASKED): _lease,
    (State.HALF_OPEN, Event.SUCCEEDED): _succeed,
    (State.HALF_OPEN, Event.FAILED): _open,
    (State.HALF_OPEN, Event.RELEASED): _release,
    (State.HALF_OPEN, Event.REAPED): _reap,
    (State.CLOSED, Event.REPLACED): _replace,
    (State.OPEN, Event.REPLACED): _replace,
    (State.HALF_OPEN, Event.REPLACED): _replace,
}
