"""Which cell of a counters page holds what.

The layout is a pure function of how many routes and upstreams there may be, computed once before the fork, so
all processes agree on it; who has which number is in the snapshot (``config/seats.py``). Each process counts
in its own page and in no other; readers add the pages up (`+=` from two processes on one cell loses 43 % of
the updates). Cell numbers are resolved once, when the data plane is assembled; counting is then
`cells[number] += 1`.

    cells   families without label, then those by reason; then for each route its families, and for each
            upstream its own, side by side:
            counter, gauge    one cell
            seconds           one cell, nanoseconds
            statuses          600 cells, one per HTTP status (0-99 never used: 800 bytes for an index
                              `base + status` that cannot wrap round into another family)
            histogram         one cell per bucket (not cumulative), then the sum in nanoseconds
"""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

from shadowcat.config.model import Config
from shadowcat.errors import Refusal
from shadowcat.shm.limiter import TIERS

PREFIX: Final = "shadowcat_"
STATUSES: Final = 600


class Kind(Enum):
    """What a family's cells mean, and what becomes of them when their process has died."""

    COUNTER = "counter"
    """Only grows; goes on where the dead process left it."""
    STATUSES = "statuses"
    """Counters by HTTP status."""
    SECONDS = "seconds"
    """A counter of time, in nanoseconds; shown in seconds."""
    GAUGE = "gauge"
    """A level; the supervisor sets it to 0 for a dead process."""
    HISTOGRAM = "histogram"
    """Durations."""


class Family(NamedTuple):
    """A metric family; its name is without the common prefix.

    `labels` is what the cells are told apart by: nothing, "reason", "route", or "route" and one of "upstream"
    and "tier".
    A `per_worker` family is shown page by page with a `worker` label instead of as the sum over the pages.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    per_worker: bool = False


_REASON: Final = ("reason",)
_ROUTE: Final = ("route",)
_UPSTREAM: Final = ("route", "upstream")
_TIER: Final = ("route", "tier")

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
    Family("health_checks_total", Kind.COUNTER, "Health checks of an upstream", _UPSTREAM),
    Family("health_check_failures_total", Kind.COUNTER, "Health checks that an upstream failed", _UPSTREAM),
    Family(
        "pool_queue_timeouts_total", Kind.COUNTER, "Requests that waited too long for a connection", _UPSTREAM
    ),
    Family("pool_queue_overflows_total", Kind.COUNTER, "Requests that found the queue full", _UPSTREAM),
    Family("pool_closed_total", Kind.COUNTER, "Connections to an upstream that have ended", _UPSTREAM),
    Family(
        "pool_closed_age_seconds_total",
        Kind.COUNTER,
        "How long those connections had been open, added up",
        _UPSTREAM,
    ),
    Family(
        "upstream_responses_total",
        Kind.COUNTER,
        "Answers of an upstream that were timed: all where it has a breaker or may be ejected, else some",
        _UPSTREAM,
    ),
    Family(
        "upstream_response_seconds_total",
        Kind.SECONDS,
        "From the sending of their requests to these heads, added up",
        _UPSTREAM,
    ),
    Family("breaker_opened_total", Kind.COUNTER, "How often the breaker of an upstream opened", _UPSTREAM),
    Family(
        "breaker_refusals_total", Kind.COUNTER, "Requests kept from an upstream by its breaker", _UPSTREAM
    ),
    Family("upstream_ejections_total", Kind.COUNTER, "How often an upstream was ejected", _UPSTREAM),
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
    Family("limited_total", Kind.COUNTER, "Requests refused by a limit, by its tier", _TIER),
    Family("policy_allowed_total", Kind.COUNTER, "Messages that a rule of the policy has allowed", _ROUTE),
    Family("policy_denied_total", Kind.COUNTER, "Messages that the policy has refused", _ROUTE),
    Family(
        "policy_tolerated_total",
        Kind.COUNTER,
        "Messages that the policy would have refused without dry_run",
        _ROUTE,
    ),
    Family("shed_total", Kind.COUNTER, "Requests refused because the host had too many under way", _ROUTE),
    Family("refusals_total", Kind.COUNTER, "Requests answered by the proxy itself, by reason", _REASON),
    Family("client_received_bytes_total", Kind.COUNTER, "Bytes received from clients"),
    Family("client_sent_bytes_total", Kind.COUNTER, "Bytes sent to clients"),
    Family("upstream_received_bytes_total", Kind.COUNTER, "Bytes received from upstreams"),
    Family("upstream_sent_bytes_total", Kind.COUNTER, "Bytes sent to upstreams"),
    Family("overload_in_flight", Kind.GAUGE, "Requests that have one of the places there are"),
    Family("overload_queue", Kind.GAUGE, "Requests that wait for one of these places"),
    Family("buffered_bytes", Kind.GAUGE, "Bytes of large bodies, and of answers that clients take slowly"),
    Family(
        "connections_turned_away_total",
        Kind.COUNTER,
        "Client connections refused because there were too many, or descriptors ran short",
    ),
    Family(
        "connections_closed_idle_total",
        Kind.COUNTER,
        "Idle client connections closed in favour of a new one",
    ),
    Family(
        "connections_crowded_total",
        Kind.COUNTER,
        "Client connections reset because their address had too many",
    ),
    Family(
        "connections_unintroduced_total",
        Kind.COUNTER,
        "Connections closed for want of a PROXY header from a trusted proxy",
    ),
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
    Family("audit_written_total", Kind.COUNTER, "Events that are in the audit file"),
    Family("audit_dropped_total", Kind.COUNTER, "Events that the audit file will never have"),
)

BOUNDS: Final = (
    0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, float("inf"),
)  # fmt: skip


_WIDTHS: Final = {
    Kind.COUNTER: 1,
    Kind.SECONDS: 1,
    Kind.GAUGE: 1,
    Kind.STATUSES: STATUSES,
    Kind.HISTOGRAM: len(BOUNDS) + 1,
}


class Layout:
    """Cell numbers by family and number. Looking one up is for assembly time, not for the hot path."""

    __slots__ = ("_offsets", "_strides", "bounds", "gauges", "size")

    bounds: tuple[float, ...]
    """Upper bounds of every histogram's buckets, seconds, the last infinite: bisect_left gives the bucket."""
    gauges: tuple[int, ...]
    """Cells to set to 0 when their process has died."""
    size: int
    """Number of cells in a page."""

    def __init__(self, config: Config) -> None:
        """Only `max_routes` and `max_upstreams` of the configuration count."""
        self.bounds = BOUNDS
        self._offsets: dict[str, int] = {}
        """The first cell of each family; for those with numbers, of number 0."""
        self._strides: dict[str, int] = {}
        """Cells from one number to the next."""
        gauges: list[int] = []
        self.size = 0
        for labels, count in (
            ((), 1),
            (_REASON, len(Refusal)),
            (_ROUTE, config.max_routes),
            (_UPSTREAM, config.max_upstreams),
            (_TIER, config.max_routes * len(TIERS)),
        ):
            families = [family for family in FAMILIES if family.labels == labels]
            stride = sum(_WIDTHS[family.kind] for family in families)
            offset = self.size
            for family in families:
                self._offsets[family.name] = offset
                self._strides[family.name] = stride
                if family.kind is Kind.GAUGE:
                    gauges += range(offset, offset + count * stride, stride)
                offset += _WIDTHS[family.kind]
            self.size += count * stride
        self.gauges = tuple(gauges)

    def cell(self, family: str, number: int = 0) -> int:
        """The first cell of a family's member: the only one of a counter or gauge.

        Of `requests_total` count in `cells[cell + status]`, 100 <= status <= 599; of a histogram there is a
        cell for each bucket in the order of `bounds`, then the sum in ns.

        Args:
            family: Its name.
            number: Of the route, or the row of the upstream; of a refusal its place among all of them; of a
                tier of a route, see `tier_number`.

        Raises:
            KeyError: There is no such family.
        """
        return self._offsets[family] + number * self._strides[family]

    def row(self, number: int) -> range:
        """All cells of an upstream."""
        first = next(family.name for family in FAMILIES if family.labels == _UPSTREAM)
        start = self.cell(first, number)
        return range(start, start + self._strides[first])


def family_of(name: str) -> Family:
    """The family of this name.

    Raises:
        KeyError: There is none.
    """
    return _FAMILIES[name]


def tier_number(route: int, tier: int) -> int:
    """The number of a tier of limits of a route."""
    return route * len(TIERS) + tier


def reason_number(reason: Refusal) -> int:
    """The number of a refusal."""
    return _REASONS[reason]


_FAMILIES: Final = {family.name: family for family in FAMILIES}
_REASONS: Final = {reason: number for number, reason in enumerate(Refusal)}
