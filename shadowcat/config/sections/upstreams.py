"""Upstreams: where they are, how one of them is chosen, and when it is left alone."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from shadowcat.config.sections.base import Positive, Section
from shadowcat.config.sections.credentials import Credential
from shadowcat.config.units import Duration


class Tls(Section, frozen=True, kw_only=True):
    """How to speak TLS to an upstream. The system's trust store applies unless `ca` is given."""

    ca: str | None = None
    """PEM file of the authorities to trust instead of the system's."""
    cert: str | None = None
    """PEM file of the client certificate (chain)."""
    key: str | None = None
    """PEM file of the client certificate's private key; default: in `cert`."""
    server_name: str | None = None
    """Name to send as SNI and to verify; default: the host of the upstream's URL."""


class Upstream(Section, frozen=True, kw_only=True):
    """One MCP server."""

    name: str = ""
    """Label in metrics, logs and errors; default: the host and port (or socket path) of `url`."""
    url: str
    """http://host:port/path, https://… or http+unix://%2Frun%2Fserver.sock/path."""
    weight: Annotated[int, Meta(ge=1, le=100)] = 1
    """Its share, compared with the others of its route; see `balance.strategy` for where it counts."""
    enabled: bool = True
    """false: no new sessions and no requests outside of sessions; those it has go on."""
    era: Literal["legacy", "modern", "dual", "unknown"] = "unknown"
    """What it speaks: sessions (until 2025-11-25), the stateless form (from 2026-07-28), or both. It gets
    requests of its own era only; unknown: of both."""
    max_connections: Positive | None = None
    """Most connections to it, in place of the `pool.max_connections` of its route."""
    tls: Tls | None = None
    credential: Credential | None = None


class Pool(Section, frozen=True, kw_only=True):
    """Connections to one upstream. Counts are for the whole machine, all workers together."""

    max_connections: Positive = 1000
    """Most connections at a time, idle ones included. A request that would need another one waits."""
    max_queue: Annotated[int, Meta(ge=0)] = 1024
    """Most requests that wait for one; those beyond are refused at once."""
    idle_timeout: Duration = Duration(4)
    """How long an idle connection is kept. Stay below the server's own limit (uvicorn and Node: 5 s)."""
    connect_timeout: Duration = Duration(5)
    """Bounds name resolution, connect and TLS handshake together."""
    queue_timeout: Duration = Duration(5)
    """How long a request waits for a connection once `max_connections` are busy."""
    max_age: Duration = Duration(300)
    """A connection that old serves no further request, so that changed addresses and new instances behind
    them are found. What is being answered then is not disturbed, however long that takes."""


class Timeouts(Section, frozen=True, kw_only=True):
    """Waits for an upstream's answer."""

    request: Duration = Duration(600)
    """From the request's last byte to the answer's last byte; POST only, streams of GET are not bounded."""
    first_byte: Duration = Duration(10)
    """From the request's last byte to the answer's head, for lists, gets, ping and discover; all others
    have the whole `request`, because a slow tool's JSON answer has no byte before it has them all."""
    detached: Duration = Duration(600)
    """How long a legacy POST goes on upstream after its client went away."""
    tools: dict[str, Duration] = {}
    """`request` for tools by name, such as {"report_*": 30m}; the first pattern that matches counts."""


class Retry(Section, frozen=True, kw_only=True):
    """Sending a request again after its connection failed, if it cannot have run, or may run twice."""

    attempts: Annotated[int, Meta(ge=1, le=10)] = 2
    """Tries in all, the first one included."""
    budget: Annotated[float, Meta(ge=0, le=1)] = 0.2
    """Retries as a share of the requests of the last 10 s, with 10 more; counted per worker."""


StrategyName = Literal[
    "round_robin",
    "weighted_round_robin",
    "least_connections",
    "random",
    "weighted_random",
    "healthy_first",
    "power_of_two",
    "consistent_hash",
]


class Balance(Section, frozen=True, kw_only=True):
    """Which of a route's upstreams gets a new session, or a request that belongs to none."""

    strategy: StrategyName = "weighted_round_robin"
    """Weights count in all but round_robin, random and healthy_first."""
    hash_on: str = "principal"
    """With consistent_hash: principal (the client's address, where nobody authenticates), header:NAME, or
    argument:NAME of a tool call. What lacks it goes anywhere."""


class Health(Section, frozen=True, kw_only=True):
    """How the control process finds out by itself whether an upstream can serve."""

    type: Literal["http", "tcp", "mcp"] = "mcp"
    """http: GET `path`; tcp: a connection is enough; mcp: `server/discover`, else `initialize` and DELETE,
    which also finds out the upstream's `era` where that is unknown."""
    path: str = "/health"
    """With http: what is asked for at the upstream's host."""
    statuses: list[Annotated[int, Meta(ge=100, le=599)]] = field(default_factory=lambda: [200, 204])
    """With http: what a healthy upstream answers."""
    interval: Duration = Duration(30)
    """From one check to the next; each is moved by up to a tenth, lest all checks fall together."""
    timeout: Duration = Duration(5)
    """How long a check may take; what takes longer has failed."""
    healthy_after: Annotated[int, Meta(ge=1, le=255)] = 2
    """So many good results in a row bring an upstream back; the first one after the start counts at once."""
    unhealthy_after: Annotated[int, Meta(ge=1, le=255)] = 3
    """So many bad results in a row take it out: no new sessions and requests; its sessions still try it."""


class Breaker(Section, frozen=True, kw_only=True):
    """When an upstream is left alone for a while: requests to it fail at once instead of waiting for it.

    One breaker per upstream for the whole host. What counts as a failure is in ``policy/faults.py``.
    """

    consecutive_failures: Annotated[int, Meta(ge=1, le=1000)] = 5
    """So many failures in a row, as one worker sees them, open it."""
    error_rate: Annotated[float, Meta(gt=0, le=1)] = 0.5
    """This share of failures among all requests of the last `window`, of all workers, opens it."""
    min_requests: Positive = 20
    """Fewer requests in the window have no rate."""
    window: Duration = Duration(30)
    """Counted in three parts, so what is looked at is between two thirds of it and all of it."""
    open_for: Duration = Duration(30)
    """How long it stays open before requests try the upstream again; a trial that hangs is given up after
    the same time."""
    half_open_requests: Annotated[int, Meta(ge=1, le=8)] = 3
    """Most trial requests at once; that many successes close the breaker, one failure opens it again."""


class Outlier(Section, frozen=True, kw_only=True):
    """When an upstream that does worse than the others of its route gets nothing new for a while."""

    consecutive_failures: Annotated[int, Meta(ge=1, le=1000)] = 3
    """So many failures in a row, as one worker sees them."""
    latency_factor: Annotated[float, Meta(gt=1)] = 5.0
    """So many times slower than the median of the others, over an `interval`."""
    min_latency: Duration = Duration(0.1)
    """An upstream that answers within this time on average is not slow, however fast the others are."""
    min_requests: Positive = 20
    """Answers that an upstream must have given in an interval to be compared."""
    interval: Duration = Duration(10)
    """How often latencies are compared."""
    ejection_time: Duration = Duration(30)
    """How long the first ejection lasts; each one that follows lasts twice as long as the one before."""
    max_ejection_time: Duration = Duration(300)
    max_ejection_percent: Annotated[int, Meta(ge=0, le=100)] = 30
    """Most upstreams of a route that are ejected at a time; one always may be, unless this is 0."""
    eject_last: bool = False
    """Whether the last upstream that can be had may be ejected."""
