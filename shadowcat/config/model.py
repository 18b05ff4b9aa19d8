"""The configuration schema: one tree of msgspec Structs, the same for files, environment and code.

A key stands here only if it has an effect. Ranges and forms that a type cannot express are checked in
``validate.py``; reading files, environment and command line is ``load.py``. Sections with a subject of their
own are in ``sections/``; whoever needs one imports it from here.
"""

from __future__ import annotations

import os
from typing import Annotated, Literal

from msgspec import Meta, field

from shadowcat.config.sections.audit import Audit, AuditEvent
from shadowcat.config.sections.auth import Algorithm, Auth, Introspection, Issuer, Login
from shadowcat.config.sections.base import Positive, Section
from shadowcat.config.sections.credentials import (
    Assertion,
    AuthorizationCode,
    ClientCredentials,
    Credential,
    OAuthClient,
    TokenExchange,
)
from shadowcat.config.sections.limits import Limits, RouteLimits
from shadowcat.config.sections.overload import Overload, Priority
from shadowcat.config.sections.policy import Policy, Rule, Tools
from shadowcat.config.sections.upstreams import (
    Balance,
    Breaker,
    Health,
    Outlier,
    Pool,
    Retry,
    StrategyName,
    Timeouts,
    Tls,
    Upstream,
)
from shadowcat.config.units import Duration, Size

__all__ = [
    "AccessLog",
    "Algorithm",
    "Assertion",
    "Audit",
    "AuditEvent",
    "Auth",
    "AuthorizationCode",
    "Balance",
    "Breaker",
    "ClientCredentials",
    "Config",
    "Credential",
    "Health",
    "Http",
    "Introspection",
    "Issuer",
    "Limits",
    "Log",
    "Login",
    "OAuthClient",
    "Outlier",
    "Overload",
    "Policy",
    "Pool",
    "Positive",
    "Priority",
    "Retry",
    "Route",
    "RouteLimits",
    "Rule",
    "Section",
    "Sessions",
    "StrategyName",
    "Timeouts",
    "Tls",
    "TokenExchange",
    "Tools",
    "Upstream",
]


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
    policy: Policy | None = None
    """Off by default: whoever may use the route may do everything."""
    priority: Priority = "normal"
    """Where requests have to wait (`overload.max_in_flight`): which routes' go first, and are given up last.
    Requests for new sessions come behind those of all routes."""
    limits: RouteLimits | None = None
    """Off by default."""


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
    body_min_rate: Size = Size(500)
    """Bytes per second, on average, with which a body has to come behind its first 5 seconds; beyond that
    408. It is looked at after 15 seconds for the first time; 0 asks for no rate."""
    keepalive_timeout: Duration = Duration(75)
    """How long an idle client connection is kept."""
    write_timeout: Duration = Duration(30)
    """How long a client may take nothing of what it is being sent before it is cut off."""
    max_requests: Positive = 10_000
    """Requests on one client connection before it is closed."""
    max_connections_per_ip: Positive | None = None
    """Most client connections from one address at a time, all workers together; of IPv6 from one /64 network.
    Further ones are reset. Those of trusted proxies are not counted. Off by default."""


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
    admin_token: str | None = None
    """What callers of the admin listener show as a bearer token, 16 visible characters or more. Default: over
    TCP a random one, in a file that only this user can read; over a Unix socket none: it has permissions."""
    public_url: str | None = None
    """The URL by which clients know this proxy; its host is accepted as Host, its origin as Origin."""
    allowed_hosts: list[str] = []
    """Further hosts to accept, with or without a port; "*" for all. Loopback listeners add loopback names."""
    allowed_origins: list[str] = []
    """Further origins of web pages to accept, such as https://app.example; "*" for all."""
    trusted_proxies: list[str] = []
    """Networks (CIDR) of proxies in front, who are believed: Forwarded, X-Forwarded-*, PROXY protocol."""
    proxy_protocol: bool = False
    """Every connection begins with a header of the PROXY protocol, version 1 or 2, which names its client.
    Only trusted proxies may connect then."""
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
    limits: Limits = Limits()
    http: Http = Http()
    overload: Overload = Overload()
    log: Log = Log()
    access_log: AccessLog | None = None
    """Off by default."""
    audit: Audit | None = None
    """Off by default."""
