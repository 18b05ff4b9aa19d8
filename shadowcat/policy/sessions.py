"""The life of a session, as a table: (state, event) -> next state, actions. And what to do when it is gone.

Nothing is done here. The data plane feeds events in and carries the actions out; clocks are arguments. An
event that the table does not list for a state does not concern it and is ignored.

    RESERVED --issued--> OPENING --result--> OPEN --gone--> RECOVERING --recovered, no upstream--> OPEN
        |                   |                  |                |
    not issued    error, broken off,     deleted, expired,   unlike, deleted,
        v         deleted, expired, lost    lost             expired, lost
      ENDED <---------------+------------------+----------------+

All workers share what a state stands for: no record yet, the record's own state, a live lease in its slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from typing import Final, NamedTuple

from shadowcat.config.model import Sessions
from shadowcat.mcp.envelope import Kind
from shadowcat.mcp.eras import VERSIONS, Era


class State(Enum):
    """Where a session is in its life."""

    RESERVED = auto()
    """An `initialize` is on its way upstream, and a slot is kept for it."""
    OPENING = auto()
    """The upstream issued an id; the result is still to come."""
    OPEN = auto()
    RECOVERING = auto()
    """Its upstream has lost it, and a worker is initializing it anew."""
    ENDED = auto()
    """There is no record, or it will be gone in a moment."""


class Event(Enum):
    """What happens to a session."""

    ISSUED = auto()
    """The head of a 2xx answer to `initialize`, with an id."""
    NOT_ISSUED = auto()
    """Any other end of an `initialize`: a 2xx head without id, another status, no answer."""
    RESULT = auto()
    """The answer to `initialize` holds a result."""
    ERROR = auto()
    """The answer to `initialize` holds an error."""
    BROKEN_OFF = auto()
    """The answer to `initialize` ended without either."""
    USED = auto()
    """A message with the session's id; not one that `what_now` drops while the session is being recovered."""
    DELETED = auto()
    """The upstream answered DELETE with 2xx or 404."""
    EXPIRED = auto()
    """Idle for too long, too old, or ended by an operator."""
    GONE = auto()
    """`what_now` said RECOVER, and this worker got the lease."""
    LOST = auto()
    """`what_now` said EXPIRE."""
    RECOVERED = auto()
    """The new result is as good as the old one."""
    UNLIKE = auto()
    """The new answer is an error, another version, or offers less."""
    NO_UPSTREAM = auto()
    """No upstream could be asked: it may be back soon, and the session with it."""


class Action(Enum):
    """What the data plane has to do."""

    RELEASE = auto()
    """Give the reserved slot back."""
    CREATE = auto()
    """Write the record, and give the client the proxy's id."""
    COMMIT = auto()
    """Write version and capabilities, and the hard end of the session, into the record."""
    DELETE = auto()
    """Delete the record."""
    END_STREAMS = auto()
    """Close the client streams of the session, in all workers."""
    DELETE_UPSTREAM = auto()
    """Send DELETE with the upstream's id that is of no more use, best effort: that of a record that ends,
    the one before a re-pin, the new one of a recovery in vain."""
    FORWARD = auto()
    """Send the request to the pinned upstream."""
    HOLD = auto()
    """Keep the request until the recovery has ended."""
    REINITIALIZE = auto()
    """Replay the opening on a healthy upstream."""
    RE_PIN = auto()
    """Write the new upstream and its id; the incarnation rises."""
    WAKE = auto()
    """Let the requests go on that were held, in all workers."""


class Step(NamedTuple):
    """What an event leads to."""

    state: State
    actions: tuple[Action, ...] = ()


# What the upstream may still have is deleted there: it would keep it until its own time-out.
_END: Final = Step(State.ENDED, (Action.DELETE, Action.END_STREAMS))
_END_BOTH: Final = Step(State.ENDED, (Action.DELETE, Action.END_STREAMS, Action.DELETE_UPSTREAM))
_END_WAKE: Final = Step(State.ENDED, (Action.DELETE, Action.END_STREAMS, Action.WAKE))

_TABLE: Final[dict[tuple[State, Event], Step]] = {
    (State.RESERVED, Event.ISSUED): Step(State.OPENING, (Action.CREATE,)),
    (State.RESERVED, Event.NOT_ISSUED): Step(State.ENDED, (Action.RELEASE,)),
    (State.OPENING, Event.RESULT): Step(State.OPEN, (Action.COMMIT,)),
    (State.OPENING, Event.ERROR): _END_BOTH,
    (State.OPENING, Event.BROKEN_OFF): _END_BOTH,
    # The client has the id from the head on, and the upstream knows what it takes so early.
    (State.OPENING, Event.USED): Step(State.OPENING, (Action.FORWARD,)),
    (State.OPENING, Event.DELETED): _END,
    (State.OPENING, Event.EXPIRED): _END_BOTH,
    (State.OPENING, Event.LOST): _END,
    (State.OPEN, Event.USED): Step(State.OPEN, (Action.FORWARD,)),
    (State.OPEN, Event.DELETED): _END,
    (State.OPEN, Event.EXPIRED): _END_BOTH,
    (State.OPEN, Event.LOST): _END,
    (State.OPEN, Event.GONE): Step(State.RECOVERING, (Action.REINITIALIZE,)),
    (State.RECOVERING, Event.USED): Step(State.RECOVERING, (Action.HOLD,)),
    # The worker that held the lease has died, or took too long.
    (State.RECOVERING, Event.GONE): Step(State.RECOVERING, (Action.REINITIALIZE,)),
    # The id of before may be alive at an upstream that refused connections for a while.
    (State.RECOVERING, Event.RECOVERED): Step(
        State.OPEN, (Action.RE_PIN, Action.END_STREAMS, Action.DELETE_UPSTREAM, Action.WAKE)
    ),
    (State.RECOVERING, Event.NO_UPSTREAM): Step(State.OPEN, (Action.WAKE,)),
    (State.RECOVERING, Event.UNLIKE): Step(State.ENDED, (*_END_WAKE.actions, Action.DELETE_UPSTREAM)),
    (State.RECOVERING, Event.DELETED): _END_WAKE,
    (State.RECOVERING, Event.EXPIRED): _END_WAKE,
    (State.RECOVERING, Event.LOST): _END_WAKE,
    # Too late: another worker took the lease over, or the session ended meanwhile.
    (State.OPEN, Event.RECOVERED): Step(State.OPEN, (Action.DELETE_UPSTREAM,)),
    (State.ENDED, Event.RECOVERED): Step(State.ENDED, (Action.DELETE_UPSTREAM,)),
}


def step(state: State, event: Event) -> Step:
    """Take an event in and say what to do about it; what is not in the table changes nothing."""
    return _TABLE.get((state, event)) or Step(state)


class Loss(Enum):
    """How the pinned upstream failed a session. Time-outs, resets, 5xx and open breakers are no loss."""

    NOT_FOUND = auto()
    """It answered 404 for the session's id: it has not run the request."""
    REFUSED = auto()
    """It refused the connection."""


class Verdict(Enum):
    """What becomes of a message whose session its upstream failed."""

    RETRY_SAME = auto()
    """Try the same upstream again, soon."""
    RECOVER = auto()
    """Recover the session (`Event.GONE`), then send the message once more."""
    EXPIRE = auto()
    """End the session (`Event.LOST`) and answer 404, so that the client initializes anew."""
    DROP = auto()
    """Answer 202, and count."""
    PASS = auto()
    """Pass the upstream's 404 on."""


class Trouble(NamedTuple):
    """A message, and what came of sending it to the session's upstream."""

    method: bytes
    """GET, POST or DELETE."""
    kind: Kind | None
    """What a POST's body is, of a batch what `batch.kind_of` says; None for GET and DELETE."""
    loss: Loss
    waited: float = 0.0
    """Seconds since the upstream refused this message's first connection."""
    is_resent: bool = False
    """Whether a recovery came before: a session that is new cannot be gone already."""
    is_down: bool = False
    """Whether health checks have found the upstream down: then it is not tried again."""


MAX_RECOVERIES: Final = 3
"""Most recoveries of a session in an hour: more would hide that its server keeps forgetting."""
_HOUR: Final = 3_600_000_000_000

_BATCHES: Final = "2025-03-26"
"""The only revision with batches: they came with it and were removed by the next."""
_NAMES_VERSION: Final = "2025-06-18"
"""The first revision in which requests name the negotiated version in a header."""


def what_now(
    trouble: Trouble, section: Sessions, *, is_recoverable: bool, recoveries: Sequence[int], now_ns: int
) -> Verdict:
    """Decide what becomes of a message whose session its upstream failed.

    Only who waits for an answer triggers a recovery. A notification means nothing to a server that forgot
    what it is about, a response answers what the new session never asked, and DELETE wants the end.

    Args:
        trouble: The message and what came of it.
        section: The configuration of sessions.
        is_recoverable: Whether the session's opening is stored and can be replayed.
        recoveries: When the session was recovered before, in ns on the clock of `now_ns`.
        now_ns: Monotonic ns.
    """
    may_come_back = trouble.waited < section.recovery_wait and not trouble.is_down
    if trouble.loss is Loss.REFUSED and may_come_back:
        return Verdict.RETRY_SAME
    if trouble.method == b"DELETE":
        return Verdict.PASS if trouble.loss is Loss.NOT_FOUND else Verdict.EXPIRE
    if (
        section.recovery == "expire"
        or not is_recoverable
        or trouble.is_resent
        or not may_recover(recoveries, now_ns)
    ):
        return Verdict.EXPIRE
    return Verdict.DROP if trouble.kind in (Kind.NOTIFICATION, Kind.RESPONSE) else Verdict.RECOVER


def may_recover(recoveries: Sequence[int], now_ns: int) -> bool:
    """Whether a session that was recovered at these times may be recovered once more."""
    return len(recent(recoveries, now_ns)) < MAX_RECOVERIES


def recent(recoveries: Sequence[int], now_ns: int) -> tuple[int, ...]:
    """The recoveries of the last hour, which a session has to remember."""
    return tuple(time for time in recoveries if now_ns - time < _HOUR)


def judge_version(negotiated: str, header: bytes | None) -> bool:
    """Whether a request in a session may carry this `MCP-Protocol-Version`.

    SDK servers take a value that is not of a session for a sign of the stateless era, and act on it.

    Args:
        negotiated: The session's version; empty before it is known.
        header: The value without surrounding white space; None when absent.
    """
    # Dates in ISO 8601 compare as text.
    return header is None or negotiated < _NAMES_VERSION or VERSIONS.get(header) is Era.LEGACY


def allows_batch(negotiated: str) -> bool:
    """Whether batches are allowed in a session of this version."""
    return negotiated == _BATCHES
