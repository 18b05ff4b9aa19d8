"""The counters page as the data plane sees it: cell numbers resolved once, at assembly."""

from __future__ import annotations

from typing import Final

from shadowcat.config.model import Route, Upstream
from shadowcat.config.urls import upstream_name
from shadowcat.errors import Refusal
from shadowcat.shm.counters import Layout

_NANOSECONDS: Final = 1_000_000_000
_BYTES: Final = ("client_received", "client_sent", "upstream_received", "upstream_sent")


class WorkerMeters:
    """What a worker counts as a whole.

    Bytes are counted here and published on the tick: a cell costs twice as much as an attribute, and a total
    that is 0.1 s old will do.
    """

    __slots__ = (
        "_cells",
        "_numbers",
        "client_received",
        "client_sent",
        "refusals",
        "upstream_received",
        "upstream_sent",
    )

    client_received: int
    client_sent: int
    upstream_received: int
    upstream_sent: int

    def __init__(self, layout: Layout, cells: memoryview) -> None:
        self._cells = cells
        self._numbers = {
            "accepted": layout.cell("connections_accepted_total"),
            "connections": layout.cell("connections"),
            "detached": layout.cell("detached_exchanges"),
        }
        for name in _BYTES:
            number = self._numbers[name] = layout.cell(f"{name}_bytes_total")
            setattr(self, name, cells[number])  # A predecessor's total goes on.
        self.refusals = {reason: layout.cell("refusals_total", reason.name.lower()) for reason in Refusal}

    def accepted(self) -> None:
        """Count a connection."""
        self._cells[self._numbers["accepted"]] += 1

    def publish(self, connections: int, detached: int) -> None:
        """Put the present levels and the bytes into the cells."""
        cells = self._cells
        numbers = self._numbers
        cells[numbers["connections"]] = connections
        cells[numbers["detached"]] = detached
        for name in _BYTES:
            cells[numbers[name]] = getattr(self, name)


class RouteMeters:
    """What is counted for one route."""

    __slots__ = (
        "_cells",
        "_duration_sum",
        "_in_flight",
        "aborts",
        "answers_dropped",
        "bounds",
        "duration",
        "in_flight",
        "notifications_dropped",
        "recoveries",
        "recovery_failures",
        "seconds",
        "statuses",
    )

    def __init__(self, layout: Layout, route: Route, cells: memoryview) -> None:
        self._cells = cells
        self.statuses = layout.statuses(route.path)
        self.duration = layout.histogram("request_duration_seconds", route.path)
        self.bounds = layout.bounds
        self._duration_sum = self.duration + len(layout.bounds)
        self.seconds: float = cells[self._duration_sum] / _NANOSECONDS
        """Sum of all durations; published on the tick."""
        self.aborts = layout.cell("client_aborts_total", route.path)
        self.recoveries = layout.cell("session_recoveries_total", route.path)
        self.recovery_failures = layout.cell("session_recovery_failures_total", route.path)
        self.answers_dropped = layout.cell("session_answers_dropped_total", route.path)
        self.notifications_dropped = layout.cell("session_notifications_dropped_total", route.path)
        self.in_flight = 0
        """Exchanges under way; published on the tick."""
        self._in_flight = layout.cell("requests_in_flight", route.path)

    def publish(self) -> None:
        """Put the present level and the sum into their cells."""
        self._cells[self._in_flight] = self.in_flight
        self._cells[self._duration_sum] = round(self.seconds * _NANOSECONDS)


class UpstreamMeters:
    """What is counted for one upstream of one route."""

    __slots__ = (
        "_cells",
        "_idle",
        "_reuse",
        "active",
        "dial_failures",
        "dials",
        "opening",
        "queue",
        "requests",
        "reused",
        "sessions_created",
        "sessions_ended",
    )

    def __init__(self, layout: Layout, route: Route, upstream: Upstream, cells: memoryview) -> None:
        labels = route.path, upstream_name(upstream)
        self._cells = cells
        self.requests = layout.cell("upstream_requests_total", *labels)
        self.dials = layout.cell("pool_dials_total", *labels)
        self.dial_failures = layout.cell("pool_dial_failures_total", *labels)
        self.opening = layout.cell("sessions_opening", *labels)
        self.sessions_created = layout.cell("sessions_created_total", *labels)
        self.sessions_ended = layout.cell("sessions_ended_total", *labels)
        self._reuse = layout.cell("pool_reuse_total", *labels)
        self._idle = layout.cell("pool_idle", *labels)
        self.active = layout.cell("pool_active", *labels)
        self.queue = layout.cell("pool_queue", *labels)
        self.reused: int = cells[self._reuse]
        """Requests sent over a connection used before; published on the tick."""

    def publish(self, *, idle: int, active: int, queue: int) -> None:
        """Put the present levels into their cells."""
        cells = self._cells
        cells[self._idle] = idle
        cells[self.active] = active
        cells[self.queue] = queue
        cells[self._reuse] = self.reused
