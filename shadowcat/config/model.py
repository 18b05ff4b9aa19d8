"""The configuration schema: one tree of msgspec Structs, the same for files, environment and code.

A key stands here only if it has an effect. Ranges and forms that a type cannot express are checked in
``validate.py``; reading files, environment and command line is ``load.py``.
"""

from __future__ import annotations

import os
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, field

from shadowcat.config.units import Duration, Size

Positive = Annotated[int, Meta(ge=1)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What all sections share: immutable, no unknown keys. `kw_only` is not inherited by Structs."""


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


class Credential(Section, frozen=True, kw_only=True):
    """What the proxy itself presents to an upstream; a client's own credentials are never forwarded."""

    headers: dict[str, str] = {}
    """Header fields set on each request to this upstream, replacing the client's of the same name."""


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


Algorithm = Literal[
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
    "HS256",
    "HS384",
    "HS512",
]


class Introspection(Section, frozen=True, kw_only=True):
    """Asking the issuer about each token that is new to a worker (RFC 7662)."""

    url: str
    """The introspection endpoint; https, or http on this machine."""
    client_id: str
    client_secret: str
    """By which the proxy authenticates there (HTTP Basic); write ${NAME} to take it from the environment."""


class Issuer(Section, frozen=True, kw_only=True):
    """Somebody whose tokens are accepted. Its keys are found by discovery, unless another key says how."""

    issuer: str
    """Exactly as in the tokens' `iss`, and in the issuer's metadata (RFC 8414)."""
    audience: str | None = None
    """What `aud` must name; default: the route's own URL, `public_url` and path (RFC 8707)."""
    other_audiences: list[str] = []
    """What `aud` may name besides. A token that is good elsewhere, too, can be used here by whoever gets it
    there: it is refused unless all of its other audiences are in this list."""
    jwks_url: str | None = None
    """Where the keys are; default: what the issuer's metadata (RFC 8414, OpenID Connect Discovery) says."""
    algorithms: list[Algorithm] | None = None
    """Those that are accepted; default: all that fit the key. Each key is used with its own ones alone."""
    secret: str | None = None
    """Shared with the issuer, which signs with it (HS256, HS384, HS512) instead of with a key of its own;
    write ${NAME} to take it from the environment."""
    introspection: Introspection | None = None
    """Ask the issuer about every token instead of verifying it; also for tokens that are no JWTs."""
    refresh: Duration = Duration(300)
    """How often the keys are fetched again. A key that was withdrawn is accepted until then."""
    stale: Duration = Duration(86_400)
    """How long keys are used after they were fetched last, if the issuer cannot be reached."""


class Auth(Section, frozen=True, kw_only=True):
    """Who may use a route: the proxy is an OAuth 2.1 resource server, or passes tokens on to one."""

    mode: Literal["resource", "passthrough"] = "resource"
    """resource: tokens are verified here, and never forwarded. passthrough: they are forwarded unread; only
    where the route's one upstream and the proxy are the same `resource`."""
    issuers: list[Issuer] = []
    """Whose tokens are accepted; with passthrough only named to clients."""
    resource: str | None = None
    """The URL by which clients and issuers know the route (RFC 8707); default: `public_url` and its path."""
    scopes: list[str] = []
    """What a token must allow; all of them."""
    leeway: Duration = Duration(30)
    """By how much an issuer's clock may differ from this machine's."""
    cache: Duration = Duration(300)
    """How long a token that was verified is taken for good, at most; never beyond its own end."""


class Route(Section, frozen=True, kw_only=True):
    """A path of the public listener and the upstreams that serve it."""

    path: str = "/mcp"
    """Matches this path and everything below it, by whole segments."""
    upstreams: list[Upstream]
    balance: Balance = Balance()
    health: Health | None = None
    """Off by default."""
    breaker: Breaker | None = None
    """Off by default."""
    outlier: Outlier | None = None
    """Off by default."""
    pool: Pool = Pool()
    timeouts: Timeouts = Timeouts()
    retry: Retry = Retry()
    auth: Auth | None = None
    """Off by default: everybody may use the route."""


class Sessions(Section, frozen=True, kw_only=True):
    """Sessions of the legacy era, kept in memory that all workers share."""

    capacity: Annotated[int, Meta(ge=1, le=2**20)] = 65_536
    """Most sessions at a time on this host; each takes up to 1.5 KiB, allocated at the start."""
    idle_timeout: Duration = Duration(1800)
    """A session without a request, an open stream or a running call for so long is over."""
    max_lifetime: Duration = Duration(86_400)
    """A session this old is over, however busy it is."""
    per_principal: Positive = 1000
    """Most sessions of one principal; of one client address where nobody authenticates."""
    recovery: Literal["reinitialize", "expire"] = "reinitialize"
    """When an upstream has lost a session: initialize it anew, or tell the client (404)."""
    recovery_wait: Duration = Duration(3)
    """How long a session's own upstream is tried while it refuses connections, before it counts as gone."""


class Http(Section, frozen=True, kw_only=True):
    """Limits on what a client may send, and how long it may take."""

    body_limit: Size = Size(4 * 2**20)
    """Largest request body; beyond it 413. The MCP Python SDK's own cap is 4 MiB."""
    head_limit: Size = Size(32 * 2**10)
    """Largest request head (request line and header fields); beyond it 431."""
    max_fields: Positive = 100
    """Most header fields in a request head; beyond it 431."""
    target_limit: Size = Size(8 * 2**10)
    """Longest request target; beyond it 414."""
    head_timeout: Duration = Duration(10)
    """From a head's first byte to its last; beyond it 408."""
    body_timeout: Duration = Duration(30)
    """From a head's last byte to the body's last; beyond it 408."""
    keepalive_timeout: Duration = Duration(75)
    """How long an idle client connection is kept."""
    write_timeout: Duration = Duration(30)
    """How long a client may take nothing of what it is being sent before it is cut off."""
    max_requests: Positive = 10_000
    """Requests on one client connection before it is closed."""


class Log(Section, frozen=True, kw_only=True):
    """The process log on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class AccessLog(Section, frozen=True, kw_only=True):
    """A line per request, without queries, tokens, session ids or arguments. SIGUSR1 opens the file anew."""

    path: str = "-"
    """A file to append to; "-" for standard output."""
    format: Literal["text", "json"] = "text"
    """text: the fields of nginx's "combined", then name=value; json: one object per line."""
    sample: Annotated[float, Meta(ge=0, le=1)] = 1.0
    """Share of the successful requests that are logged; those that fail (a status of 400 or more, or an
    answer that broke off) always are."""


class Config(Section, frozen=True, kw_only=True):
    """Everything Shadowcat can be told."""

    listen: str | list[str] = "127.0.0.1:8080"
    """Address or addresses of the public listener: host:port, [v6]:port; port 0 picks a free one."""
    workers: Annotated[int, Meta(ge=1, le=256)] = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    """Worker processes; default: the number of CPUs this process may use."""
    admin: str | None = "127.0.0.1:9090"
    """Address of the admin listener: a loopback host:port or unix:/path; null switches it off."""
    public_url: str | None = None
    """The URL by which clients know this proxy; its host is accepted as Host, its origin as Origin."""
    allowed_hosts: list[str] = []
    """Further hosts to accept, with or without a port; "*" for all. Loopback listeners add loopback names."""
    allowed_origins: list[str] = []
    """Further origins of web pages to accept, such as https://app.example; "*" for all."""
    trusted_proxies: list[str] = []
    """Networks (CIDR) of proxies in front, whose X-Forwarded-* fields are believed."""
    backlog: Positive = 1024
    """Accept queue of each worker's socket; the kernel caps it at net.core.somaxconn."""
    cpu_affinity: bool = False
    """Pin worker i to the i-th CPU that this process may use."""
    insecure: bool = False
    """Permit a listener on an address that is not loopback, though a route does not authenticate."""
    drain_timeout: Duration = Duration(30)
    """How long open exchanges may go on after SIGTERM before they are cut off."""
    upstream_drain_timeout: Duration = Duration(300)
    """How long the sessions of an upstream that was removed, or is drained, may go on before they end."""
    max_upstreams: Annotated[int, Meta(ge=1, le=4096)] = 1024
    """Most upstreams of all routes together, with those removed while running that still have sessions; each
    takes about 200 bytes for each process, allocated at the start."""
    max_routes: Annotated[int, Meta(ge=1, le=1024)] = 64
    """Most routes, with those removed while running; each takes about 5 KiB for each process."""
    routes: list[Route]
    sessions: Sessions = Sessions()
    http: Http = Http()
    log: Log = Log()
    access_log: AccessLog | None = None
    """Off by default."""
