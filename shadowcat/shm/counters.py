"""Which cell of a counters page holds what.

The layout is a pure function of the configuration, computed once before the fork, so all processes agree
on it. Each process counts in its own page and in no other; readers add the pages up (`+=` from two processes
on one cell loses 43 % of the updates). Cell numbers are resolved once, when the data plane is assembled;
counting is then `cells[number] += 1`.

    cells   families in the order of FAMILIES; within one family its series, in the order of the config:
            counter, gauge    one cell
            statuses          600 cells, one per HTTP status (0-99 never used: 800 bytes for an index
                              `base + status` that cannot wrap round into another family)
            histogram         one cell per bucket (not cumulative), then the sum in nanoseconds
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Final, NamedTuple

from shadowcat.config import urls
from shadowcat.config.model import Config
from shadowcat.errors import Refusal

PREFIX: Final = "shadowcat_"
STATUSES: Final = 600


class Kind(Enum):
    """What a family's cells mean, and what becomes of them when their process has died."""

    COUNTER = "counter"
    """Only grows; goes on where the dead process left it."""
    STATUSES = "statuses"
    """Counters by HTTP status."""
    GAUGE = "gauge"
    """A level; the supervisor sets it to 0 for a dead process."""
    HISTOGRAM = "histogram"
    """Durations."""


class Family(NamedTuple):
    """A metric family; its name is without the common prefix.

    `labels` is what the cells are told apart by: nothing, "reason", "route", or "route" and "upstream".
    A `per_worker` family is shown page by page with a `worker` label instead of as the sum over the pages.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    per_worker: bool = False


_ROUTE: Final = ("route",)
_UPSTREAM: Final = ("route", "upstream")

FAMILIES: Final = (
    Family("requests_total", Kind.STATUSES, "Requests answered, by the status the client got", _ROUTE),
    Family(
        "request_duration_seconds",
        Kind.HISTOGRAM,
        "From a request's first byte to its answer's last byte",
        _ROUTE,
    ),
    Family("requests_in_flight", Kind.GAUGE, "Requests being served", _ROUTE),
    Family("client_aborts_total", Kind.COUNTER, "Exchanges that the client left before their end", _ROUTE),
    Family("upstream_requests_total", Kind.COUNTER, "Requests sent to an upstream", _UPSTREAM),
    Family("pool_dials_total", Kind.COUNTER, "Connections opened to an upstream", _UPSTREAM),
    Family("pool_dial_failures_total", Kind.COUNTER, "Connections that could not be opened", _UPSTREAM),
    Family("pool_reuse_total", Kind.COUNTER, "Requests sent over a connection used before", _UPSTREAM),
    Family("pool_idle", Kind.GAUGE, "Open connections to an upstream without a request", _UPSTREAM),
    Family("pool_active", Kind.GAUGE, "Connections to an upstream with a request", _UPSTREAM),
    Family("pool_queue", Kind.GAUGE, "Requests waiting for a connection to an upstream", _UPSTREAM),
    Family("sessions_opening", Kind.GAUGE, "Sessions that an upstream has been asked to open", _UPSTREAM),
    Family("sessions_created_total", Kind.COUNTER, "Sessions that an upstream has opened", _UPSTREAM),
    Family("sessions_ended_total", Kind.COUNTER, "Sessions that left an upstream, for any reason", _UPSTREAM),
    Family(
        "session_recoveries_total",
        Kind.COUNTER,
        "Sessions initialized anew after their upstream lost them",
        _ROUTE,
    ),
    Family("session_recovery_failures_total", Kind.COUNTER, "Sessions that could not be recovered", _ROUTE),
    Family(
        "session_answers_dropped_total", Kind.COUNTER, "Client answers to requests nobody waits for", _ROUTE
    ),
    Family(
        "session_notifications_dropped_total",
        Kind.COUNTER,
        "Notifications and answers to sessions that their upstream lost",
        _ROUTE,
    ),
    Family("refusals_total", Kind.COUNTER, "Requests answered by the proxy itself, by reason", ("reason",)),
    Family("client_received_bytes_total", Kind.COUNTER, "Bytes received from clients"),
    Family("client_sent_bytes_total", Kind.COUNTER, "Bytes sent to clients"),
    Family("upstream_received_bytes_total", Kind.COUNTER, "Bytes received from upstreams"),
    Family("upstream_sent_bytes_total", Kind.COUNTER, "Bytes sent to upstreams"),
    Family("connections", Kind.GAUGE, "Open client connections", per_worker=True),
    Family("connections_accepted_total", Kind.COUNTER, "Client connections accepted", per_worker=True),
    Family(
        "connections_arriving",
        Kind.GAUGE,
        "Client connections taken over from another worker and not served yet",
        per_worker=True,
    ),
    Family(
        "connections_handed_over_total",
        Kind.COUNTER,
        "Fresh client connections handed over to a less loaded worker",
        per_worker=True,
    ),
    Family(
        "connections_taken_over_total",
        Kind.COUNTER,
        "Fresh client connections taken over from a more loaded worker",
        per_worker=True,
    ),
    Family("detached_exchanges", Kind.GAUGE, "Exchanges that go on upstream after their client went away"),
    Family("mail_dropped_total", Kind.COUNTER, "Commands between processes that found their mailbox full"),
    Family("access_log_dropped_total", Kind.COUNTER, "Lines of the access log that could not be written"),
)

BOUNDS: Final = (
    0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, float("inf"),
)  # fmt: skip


class Series(NamedTuple):
    """One labelled member of a family and its first cell."""

    labels: tuple[str, ...]
    cell: int


class Layout:
    """Cell numbers by family and labels. Looking one up is for assembly time, not for the hot path."""

    __slots__ = ("_series", "bounds", "gauges", "size")

    bounds: tuple[float, ...]
    """Upper bounds of every histogram's buckets, seconds, the last infinite: bisect_left gives the bucket."""
    gauges: tuple[int, ...]
    """Cells to set to 0 when their process has died."""
    size: int
    """Number of cells in a page."""

    def __init__(self, config: Config) -> None:
        self.bounds = BOUNDS
        self._series: dict[str, dict[tuple[str, ...], int]] = {}
        width = {
            Kind.COUNTER: 1,
            Kind.GAUGE: 1,
            Kind.STATUSES: STATUSES,
            Kind.HISTOGRAM: len(BOUNDS) + 1,
        }
        gauges = []
        self.size = 0
        for family in FAMILIES:
            series = self._series[family.name] = {}
            for labels in _label_values(family.labels, config):
                if labels in series:
                    continue
                series[labels] = self.size
                if family.kind is Kind.GAUGE:
                    gauges.append(self.size)
                self.size += width[family.kind]
        self.gauges = tuple(gauges)

    def cell(self, family: str, *labels: str) -> int:
        """The cell of a counter or gauge, such as `cell("pool_idle", "/mcp", "a")`.

        Raises:
            KeyError: There is no such family, or the config has no such route, upstream or reason.
        """
        return self._series[family][labels]

    def statuses(self, route: str) -> int:
        """The base of `requests_total` of a route: count in `cells[base + status]`, 100 <= status <= 599."""
        return self._series["requests_total"][(route,)]

    def histogram(self, family: str, *labels: str) -> int:
        """The base of a histogram: a cell per bucket in the order of `bounds`, then the sum in ns."""
        return self._series[family][labels]

    def series(self, family: str) -> Iterator[Series]:
        """All members of a family."""
        return (Series(labels, cell) for labels, cell in self._series[family].items())


def _label_values(labels: tuple[str, ...], config: Config) -> Iterator[tuple[str, ...]]:
    match labels:
        case ():
            yield ()
        case ("route",):
            yield from ((route.path,) for route in config.routes)
        case ("route", "upstream"):
            for route in config.routes:
                yield from ((route.path, urls.upstream_name(upstream)) for upstream in route.upstreams)
        case ("reason",):
            yield from ((reason.name.lower(),) for reason in Refusal)
        case _:
            raise ValueError(f"no values are known for the labels {labels}")
