"""/metrics: the shared cells in the text formats of Prometheus and OpenMetrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from shadowcat import __version__
from shadowcat.config.urls import upstream_name
from shadowcat.control.admin.processes import members
from shadowcat.control.admin.readiness import complaints
from shadowcat.control.admin.reading import Reading
from shadowcat.control.present import Present
from shadowcat.control.upstreams.health import HealthChecker
from shadowcat.policy.breaker import state_of
from shadowcat.policy.health import Health
from shadowcat.policy.outlier import barred_until
from shadowcat.shm.counters import FAMILIES, PREFIX, Family, Kind
from shadowcat.shm.sessions.table import SessionTable
from shadowcat.shm.shared import Shared, worker_number

_NANOSECOND: Final = 1e-9


class CellCollector(Collector):
    """Turns the pages, and what the operating system knows of the processes, into metric families."""

    def __init__(
        self,
        present: Present,
        shared: Shared,
        table: SessionTable,
        health: HealthChecker,
        now_ns: int,
    ) -> None:
        self._directory = present.directory
        self._snapshot = present.snapshot
        self._shared = shared
        self._table = table
        self._health = health
        self._now_ns = now_ns

    def collect(self) -> Iterable[Metric]:
        """All families, read now."""
        reading = Reading(self._shared, self._directory)
        for family in FAMILIES:
            yield self._family(family, reading)
        yield from self._sessions(reading)
        yield self._upstream_up()
        yield from self._troubles()
        yield from self._processes()
        yield from self._host()

    def _family(self, family: Family, reading: Reading) -> Metric:
        name, members = PREFIX + family.name, self._directory.members(family)
        if family.per_worker:
            metric = _metric(family.kind, name, family.help, ("worker",))
            for slot in range(self._shared.host.slots):
                cells = self._shared.page(worker_number(slot)).cells
                metric.add_metric((str(slot),), cells[self._shared.layout.cell(family.name)])
            return metric
        if family.kind is Kind.HISTOGRAM:
            histogram = HistogramMetricFamily(name, family.help, labels=family.labels)
            for labels, _ in members:
                counts, total = reading.histogram(family.name, *labels)
                bounds = map(floatToGoString, self._shared.layout.bounds)
                histogram.add_metric(labels, list(zip(bounds, counts, strict=True)), total)
            return histogram
        if family.kind is Kind.STATUSES:
            metric = _metric(family.kind, name, family.help, (*family.labels, "status"))
            for labels, _ in members:
                for status, count in reading.statuses(*labels).items():
                    metric.add_metric((*labels, str(status)), count)
            return metric
        metric = _metric(family.kind, name, family.help, family.labels)
        for labels, value in reading.series(family):
            metric.add_metric(labels, value * _NANOSECOND if family.kind is Kind.SECONDS else value)
        return metric

    def _sessions(self, reading: Reading) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            PREFIX + "sessions", "Sessions in the table, expired ones not yet swept included",
            value=self._table.count(),
        )  # fmt: skip
        yield GaugeMetricFamily(
            PREFIX + "sessions_capacity", "Most sessions that the table holds", value=self._table.capacity
        )
        pinned = GaugeMetricFamily(
            PREFIX + "sessions_pinned", "Sessions that an upstream has now", labels=("route", "upstream")
        )
        for labels in self._directory.upstreams():
            pinned.add_metric(labels, reading.pinned(*labels))
        yield pinned

    def _upstream_up(self) -> Metric:
        up = GaugeMetricFamily(
            PREFIX + "upstream_up",
            "0 if health checks keep new sessions and requests away, else 1; without checks no value",
            labels=("route", "upstream"),
        )
        for labels in self._directory.upstreams():
            states = {self._health.state(row) for row in self._directory.rows(*labels)} - {None}
            if states:
                up.add_metric(labels, states != {Health.DOWN})
        return up

    def _troubles(self) -> Iterator[Metric]:
        labels = ("route", "upstream")
        state = GaugeMetricFamily(
            PREFIX + "breaker_state",
            "0 closed, 1 open, 2 half-open; without a breaker no value",
            labels=labels,
        )
        ejected = GaugeMetricFamily(
            PREFIX + "upstream_ejected",
            "1 while an upstream is ejected; where none can be no value",
            labels=labels,
        )
        board = self._shared.board
        for _, route, seats in self._snapshot.routes():
            for upstream, seat in zip(route.upstreams, seats, strict=True):
                names = route.path, upstream_name(upstream)
                if route.breaker is not None:
                    state.add_metric(names, state_of(board.breaker(seat.row)[0]))
                if route.outlier is not None:
                    ejected.add_metric(names, barred_until(board.ejection(seat.row)) > self._now_ns)
        yield state
        yield ejected

    def _processes(self) -> Iterator[Metric]:
        labels = ("process", "worker")
        cpu = CounterMetricFamily(
            PREFIX + "process_cpu_seconds_total", "User and system CPU time", labels=labels
        )
        rss = GaugeMetricFamily(PREFIX + "process_resident_memory_bytes", "Resident memory", labels=labels)
        up = GaugeMetricFamily(PREFIX + "process_up", "1 if the process runs", labels=labels)
        restarts = CounterMetricFamily(
            PREFIX + "process_restarts_total", "Replacements of a process that ended or hung", labels=labels
        )
        for member in members(self._shared):
            values = (member.role, "" if member.slot is None else str(member.slot))
            up.add_metric(values, member.usage is not None)
            restarts.add_metric(values, self._shared.host.restarts(member.number))
            if member.usage:
                cpu.add_metric(values, member.usage.cpu_seconds)
                rss.add_metric(values, member.usage.rss_bytes)
        return iter((cpu, rss, up, restarts))

    def _host(self) -> Iterator[Metric]:
        host = self._shared.host
        served = GaugeMetricFamily(
            PREFIX + "slot_served", "1 if a process accepts the slot's connections", labels=("worker",)
        )
        for slot in range(host.slots):
            served.add_metric((str(slot),), host.served_by(slot) != 0)
        yield served
        ready = not complaints(self._shared, self._now_ns)
        yield GaugeMetricFamily(PREFIX + "ready", "1 if the host should be sent traffic", value=ready)
        uptime = (self._now_ns - host.started) / 1e9
        yield GaugeMetricFamily(PREFIX + "uptime_seconds", "Time since the supervisor started", value=uptime)
        build = GaugeMetricFamily(
            PREFIX + "build_info", "Always 1; the version as a label", labels=("version",)
        )
        build.add_metric((__version__,), 1)
        yield build


def _metric(
    kind: Kind, name: str, text: str, labels: tuple[str, ...]
) -> CounterMetricFamily | GaugeMetricFamily:
    family = GaugeMetricFamily if kind is Kind.GAUGE else CounterMetricFamily
    return family(name, text, labels=labels)


def exposition(
    present: Present,
    shared: Shared,
    table: SessionTable,
    health: HealthChecker,
    accept: str,
    now_ns: int,
) -> tuple[bytes, str]:
    """The metrics page.

    Args:
        present: What holds now.
        shared: The shared areas.
        table: The sessions.
        health: The checks of upstreams.
        accept: The Accept field of the request; Prometheus asks for OpenMetrics there.
        now_ns: CLOCK_MONOTONIC.

    Returns:
        The body and its content type.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(CellCollector(present, shared, table, health, now_ns))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type
