"""All waits of the supervisor in one place; tests shorten them, operators have no reason to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """Waits, in seconds."""

    tick: float = 0.1
    """How often heartbeats are looked at: with `adopt_after` this bounds how long a slot goes unserved."""
    adopt_after: float = 0.2
    """How long a slot may be without an acceptor before a sibling gets its listeners."""
    stale_after: float = 10.0
    """Age of the last heartbeat at which a process counts as hung and is aborted."""
    abort_grace: float = 1.0
    """From SIGABRT (which dumps the stacks) to SIGKILL."""
    start_timeout: float = 30.0
    """How long a process may take until it says that it is ready."""
    backoff_first: float = 0.1
    """Wait before the second restart in a row; the first one is immediate."""
    backoff_max: float = 10.0
    """Longest wait before a restart."""
    healthy_after: float = 60.0
    """Time of service after which earlier failures are forgotten."""
    kill_grace: float = 2.0
    """How long a process may exceed the time it was given to stop before it is killed."""
    repeat_after: float = 0.3
    """Earliest time at which another SIGTERM means "at once": one request may arrive twice, from a wrapper
    that passes it on to its child and then to the group (timeout(1) does)."""
    accept_window: float = 0.15
    """How long workers go on accepting after SIGTERM, so that handshakes under way can finish."""
