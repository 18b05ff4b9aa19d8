"""The counters page as the data plane sees it: cell numbers resolved once, at assembly.

What every exchange counts is counted in plain numbers and published on the tick: a cell costs three times as
much as an attribute, and a total that is 0.1 s old will do. What happens seldom goes to its cell at once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from typing import Final

from shadowcat.errors import Refusal
from shadowcat.shm.counters import STATUSES, Layout, reason_number, tier_number
from shadowcat.shm.shared import Shared, worker_number

_NANOSECONDS: Final = 1_000_000_000
_BYTES: Final = ("client_received", "client_sent", "upstream_received", "upstream_sent")


class WorkerMeters:
    """What a worker counts as a whole."""

    __slots__ = (
        "_buffered",
        "_cells",
        "_connections",
        "_numbers",
        "client_received",
        "client_sent",
        "closed_idle",
        "crowded",
        "overload_in_flight",
        "overload_queue",
        "refusals",
        "turned_away",
        "unintroduced",
        "upstream_received",
        "upstream_sent",
    )

    client_received: int
    client_sent: int
    upstream_received: int
    upstream_sent: int

    def __init__(self, layout: Layout, cells: memoryview) -> None:
        self._cells = cells
        self._connections = layout.cell("connections")
        self._buffered = layout.cell("buffered_bytes")
        self.turned_away = layout.cell("connections_turned_away_total")
        self.closed_idle = layout.cell("connections_closed_idle_total")
        self.overload_in_flight = layout.cell("overload_in_flight")
        self.overload_queue = layout.cell("overload_queue")
        self._numbers = {
            "accepted": layout.cell("connections_accepted_total"),
            "detached": layout.cell("detached_exchanges"),
        }
        for name in _BYTES:
            number = self._numbers[name] = layout.cell(f"{name}_bytes_total")
            setattr(self, name, cells[number])  # A predecessor's total goes on.
        self.crowded = layout.cell("connections_crowded_total")
        self.unintroduced = layout.cell("connections_unintroduced_total")
        self.refusals = {reason: layout.cell("refusals_total", reason_number(reason)) for reason in Refusal}

    def accepted(self) -> None:
        """Count a connection."""
        self._cells[self._numbers["accepted"]] += 1

    def open(self, connections: int) -> None:
        """Publish the number of clients, at once: the other workers decide by it (worker/handover.py)."""
        self._cells[self._connections] = connections

    def levels(self, shared: Shared) -> list[memoryview]:
        """Each worker's cell with the number of its clients."""
        number = self._connections
        pages = [shared.page(process) for process in range(worker_number(0), shared.processes)]
        return [page.cells[number : number + 1] for page in pages]

    def publish(self, detached: int, buffered: int) -> None:
        """Put the present levels and the bytes into the cells."""
        cells = self._cells
        cells[self._buffered] = buffered
        numbers = self._numbers
        cells[numbers["detached"]] = detached
        for name in _BYTES:
            cells[numbers[name]] = getattr(self, name)


class RouteMeters:
    """What is counted for one route."""

    __slots__ = (
        "_allowed",
        "_bounds",
        "_cells",
        "_duration",
        "_ended",
        "_in_flight",
        "_seconds",
        "_statuses",
        "aborts",
        "answers_dropped",
        "durations",
        "limited",
        "notifications_dropped",
        "policy_allowed",
        "policy_denied",
        "policy_tolerated",
        "recoveries",
        "recovery_failures",
        "shed",
        "statuses",
    )

    def __init__(self, layout: Layout, number: int, cells: memoryview) -> None:
        """`number` is the route's."""
        self._cells = cells
        self._statuses = base = layout.cell("requests_total", number)
        totals = enumerate(cells[base : base + STATUSES].tolist())
        self.statuses = defaultdict[int, int](int, {status: total for status, total in totals if total})
        """How often each HTTP status was answered. A predecessor's totals go on."""
        self._duration = layout.cell("request_duration_seconds", number)
        self._bounds = layout.bounds
        self._seconds: float = cells[self._duration + len(layout.bounds)] / _NANOSECONDS
        self.durations: list[float] = []
        """Those of the exchanges that have ended since the last tick, in seconds."""
        self._ended = 0
        """Exchanges that have ended, without those."""
        self.aborts = layout.cell("client_aborts_total", number)
        self.recoveries = layout.cell("session_recoveries_total", number)
        self.recovery_failures = layout.cell("session_recovery_failures_total", number)
        self.answers_dropped = layout.cell("session_answers_dropped_total", number)
        self.notifications_dropped = layout.cell("session_notifications_dropped_total", number)
        self._allowed = layout.cell("policy_allowed_total", number)
        self.policy_allowed: int = cells[self._allowed]
        """Messages that a policy has allowed. A predecessor's total goes on."""
        self.policy_denied = layout.cell("policy_denied_total", number)
        self.policy_tolerated = layout.cell("policy_tolerated_total", number)
        self.shed = layout.cell("shed_total", number)
        self._in_flight = layout.cell("requests_in_flight", number)
        self.limited = layout.cell("limited_total", tier_number(number, 0))
        """Refusals by the first tier of limits; the others follow."""

    def publish(self, started: int) -> None:
        """Put what was counted into the cells; `started` is how many exchanges have begun."""
        durations, self.durations = self.durations, []
        self._ended += len(durations)
        if durations:
            self._file(durations)
        cells = self._cells
        base = self._statuses
        for status, total in self.statuses.items():
            cells[base + status] = total
        cells[self._in_flight] = started - self._ended
        cells[self._allowed] = self.policy_allowed

    def _file(self, durations: list[float]) -> None:
        """Add durations to the histogram. Sorted they take one search per bucket, not one each."""
        durations.sort()
        cells = self._cells
        below = 0
        for cell, bound in enumerate(self._bounds, self._duration):
            count = bisect_right(durations, bound)
            if count > below:
                cells[cell] += count - below
                below = count
        self._seconds += sum(durations)
        cells[self._duration + len(self._bounds)] = round(self._seconds * _NANOSECONDS)


class UpstreamMeters:
    """What is counted for one upstream of one route."""

    __slots__ = (
        "_age",
        "_cells",
        "_closed",
        "_closed_age",
        "_idle",
        "_requests",
        "_responses",
        "_reuse",
        "_seconds",
        "active",
        "breaker_opened",
        "breaker_refusals",
        "dial_failures",
        "dials",
        "ejections",
        "first_uses",
        "opening",
        "queue",
        "queue_overflows",
        "queue_timeouts",
        "responses",
        "reused",
        "seconds",
        "sessions_created",
        "sessions_ended",
    )

    def __init__(self, layout: Layout, row: int, cells: memoryview) -> None:
        """`row` is the upstream's."""
        self._cells = cells
        self._requests = layout.cell("upstream_requests_total", row)
        self.dials = layout.cell("pool_dials_total", row)
        self.dial_failures = layout.cell("pool_dial_failures_total", row)
        self.opening = layout.cell("sessions_opening", row)
        self.sessions_created = layout.cell("sessions_created_total", row)
        self.sessions_ended = layout.cell("sessions_ended_total", row)
        self._reuse = layout.cell("pool_reuse_total", row)
        self._idle = layout.cell("pool_idle", row)
        self.active = layout.cell("pool_active", row)
        self.queue = layout.cell("pool_queue", row)
        self.queue_timeouts = layout.cell("pool_queue_timeouts_total", row)
        self.queue_overflows = layout.cell("pool_queue_overflows_total", row)
        self._closed = layout.cell("pool_closed_total", row)
        self._closed_age = layout.cell("pool_closed_age_seconds_total", row)
        self._age: float = cells[self._closed_age]
        self.reused: int = cells[self._reuse]
        """Requests sent over a connection used before. A predecessor's totals go on."""
        self.first_uses: int = cells[self._requests] - self.reused
        """Requests that were the first on their connection."""
        self.breaker_opened = layout.cell("breaker_opened_total", row)
        self.breaker_refusals = layout.cell("breaker_refusals_total", row)
        self.ejections = layout.cell("upstream_ejections_total", row)
        self._responses = layout.cell("upstream_responses_total", row)
        self._seconds = layout.cell("upstream_response_seconds_total", row)
        self.responses: int = cells[self._responses]
        """Answers whose head has come; counted, like the next one, where there are `Outcomes`."""
        self.seconds: float = cells[self._seconds] / _NANOSECONDS
        """From the sending of their requests to these heads, added up."""

    def closed(self, seconds: float) -> None:
        """Count a connection that has ended, so many seconds after it was opened."""
        cells = self._cells
        cells[self._closed] += 1
        self._age += seconds
        cells[self._closed_age] = int(self._age)

    def publish(self, *, idle: int, active: int, queue: int) -> None:
        """Put the totals and the present levels into their cells."""
        cells = self._cells
        cells[self._requests] = self.first_uses + self.reused
        cells[self._idle] = idle
        cells[self.active] = active
        cells[self.queue] = queue
        cells[self._reuse] = self.reused
        cells[self._responses] = self.responses
        cells[self._seconds] = round(self.seconds * _NANOSECONDS)
