"""The counters page as the data plane sees it: cell numbers resolved once, at assembly."""

from __future__ import annotations

from shadowcat.config.model import Route, Upstream
from shadowcat.config.urls import upstream_name
from shadowcat.errors import Refusal
from shadowcat.shm.counters import Layout


class WorkerMeters:
    """Cells of what a worker counts as a whole."""

    __slots__ = (
        "accepted",
        "client_received",
        "client_sent",
        "connections",
        "detached",
        "refusals",
        "upstream_received",
        "upstream_sent",
    )

    def __init__(self, layout: Layout) -> None:
        self.accepted = layout.cell("connections_accepted_total")
        self.connections = layout.cell("connections")
        self.detached = layout.cell("detached_exchanges")
        self.client_received = layout.cell("client_received_bytes_total")
        self.client_sent = layout.cell("client_sent_bytes_total")
        self.upstream_received = layout.cell("upstream_received_bytes_total")
        self.upstream_sent = layout.cell("upstream_sent_bytes_total")
        self.refusals = {reason: layout.cell("refusals_total", reason.name.lower()) for reason in Refusal}


class RouteMeters:
    """Cells of one route."""

    __slots__ = ("aborts", "bounds", "duration", "duration_sum", "in_flight", "statuses")

    def __init__(self, layout: Layout, route: Route) -> None:
        self.statuses = layout.statuses(route.path)
        self.duration = layout.histogram("request_duration_seconds", route.path)
        self.bounds = layout.bounds
        self.duration_sum = self.duration + len(layout.bounds)
        self.in_flight = layout.cell("requests_in_flight", route.path)
        self.aborts = layout.cell("client_aborts_total", route.path)


class UpstreamMeters:
    """Cells of one upstream of one route."""

    __slots__ = ("active", "dial_failures", "dials", "idle", "queue", "requests", "reuse")

    def __init__(self, layout: Layout, route: Route, upstream: Upstream) -> None:
        labels = route.path, upstream_name(upstream)
        self.requests = layout.cell("upstream_requests_total", *labels)
        self.dials = layout.cell("pool_dials_total", *labels)
        self.dial_failures = layout.cell("pool_dial_failures_total", *labels)
        self.reuse = layout.cell("pool_reuse_total", *labels)
        self.idle = layout.cell("pool_idle", *labels)
        self.active = layout.cell("pool_active", *labels)
        self.queue = layout.cell("pool_queue", *labels)
