"""What types cannot say about a configuration: forms, ranges, keys that must agree. Pure: opens nothing."""

from __future__ import annotations

import re
from ipaddress import ip_network
from math import inf
from typing import TYPE_CHECKING, Any, Final

import msgspec

from shadowcat.config.access import auth_problems, authenticates
from shadowcat.config.addresses import Address, parse_host, parse_listen
from shadowcat.config.admin_token import check_admin_token
from shadowcat.config.auditing import audit_problems
from shadowcat.config.credentials import credential_problems
from shadowcat.config.headers import FIELD_NAME, RESERVED
from shadowcat.config.limits import limit_problems
from shadowcat.config.login import login_problems
from shadowcat.config.model import Config, Health
from shadowcat.config.overload import overload_problems
from shadowcat.config.rules import policy_problems
from shadowcat.config.structure import build
from shadowcat.config.tools import tools_problems
from shadowcat.config.units import Duration, Limit, Size
from shadowcat.config.urls import check_authority, check_path, check_public_url, parse_upstream, upstream_name
from shadowcat.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shadowcat.config.model import Breaker, Outlier, Route, Upstream

MAY_BE_ZERO: Final = frozenset(
    {"drain_timeout", "idle_timeout", "queue_timeout", "detached", "leeway", "body_min_rate"}
)
"""Quantities where 0 has a meaning: at once, or not at all. Elsewhere it would refuse every request."""

_ORIGIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]+)")

_NOT_HASHED: Final = (RESERVED.keys() - {"mcp-name"}) | {"authorization", "cookie", "forwarded", "x-real-ip"}
"""Headers that cannot tell where a request belongs."""

# RFC 3986 section 3.4.
_QUERY: Final = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*")

PATH_LIMIT: Final = 200
"""Bytes of a route's path: every session remembers it, in a record of 512 bytes at most."""

SHORTEST_INTERVAL: Final = Duration(0.1)
"""Of health checks."""

SHORTEST_COUNT: Final = Duration(1)
"""Of what is counted by all workers together."""

LONGEST: Final = Duration(365 * 86400)
"""Upper bound of durations: nanoseconds of it fit a 64-bit cell hundreds of times."""


def validate(config: Config) -> None:
    """Check a configuration, wherever it is from.

    Raises:
        ConfigError: It cannot be used; the message lists every problem with its path.
    """
    problems = list(_mistyped(config)) or semantic_problems(config)
    if problems:
        raise ConfigError("\n".join(problems))


def semantic_problems(config: Config) -> list[str]:
    """Every problem of a configuration whose types are right, as ``path: what is wrong``."""
    return [
        *_quantities(config, ""),
        *_listeners(config),
        *_callers(config),
        *_limits(config),
        *_sessions(config),
        *overload_problems(config),
        *_access_log(config),
        *(audit_problems(config.audit) if config.audit is not None else ()),
        *_room(config),
        *_routes(config),
    ]


def _mistyped(config: Config) -> Iterator[str]:
    """A Struct built in Python takes any value; what would come back from a file shows which do not fit."""
    problems: list[str] = []
    plain = msgspec.to_builtins(config, enc_hook=str)
    if config.admin is None:
        plain["admin"] = None
    again = build(plain, Config, "", problems)
    yield from problems or _unlike(config, again, "")


def _unlike(value: Any, wanted: Any, path: str) -> Iterator[str]:
    """Values that a file would have turned into those of another type."""
    if isinstance(value, msgspec.Struct) and type(value) is type(wanted):
        for key in value.__struct_fields__:
            where = f"{path}.{key}" if path else key
            yield from _unlike(getattr(value, key), getattr(wanted, key), where)
    elif isinstance(value, list) and isinstance(wanted, list):
        for i, pair in enumerate(zip(value, wanted, strict=True)):
            yield from _unlike(*pair, f"{path}[{i}]")
    elif isinstance(value, dict) and isinstance(wanted, dict) and value.keys() == wanted.keys():
        for name, item in value.items():
            yield from _unlike(item, wanted[name], f"{path}.{name}")
    elif type(value) is not type(wanted) and value != wanted:
        name = type(wanted).__name__
        # Other values may be secrets.
        advice = f": write {name}({value!r})" if isinstance(wanted, (Duration, Limit, Size)) else ""
        yield f"{path}: expected {name}, got {type(value).__name__}{advice}"


def _quantities(section: msgspec.Struct, path: str) -> Iterator[str]:
    for key in section.__struct_fields__:
        value: Any = getattr(section, key)
        where = f"{path}.{key}" if path else key
        if isinstance(value, msgspec.Struct):
            yield from _quantities(value, where)
        elif isinstance(value, list):
            for i, item in enumerate(value):
                if isinstance(item, msgspec.Struct):
                    yield from _quantities(item, f"{where}[{i}]")
        elif isinstance(value, dict):
            for name, item in value.items():
                yield from _quantity(item, f"{where}.{name}", may_be_zero=False)
        else:
            yield from _quantity(value, where, may_be_zero=key in MAY_BE_ZERO)


def _quantity(value: Any, where: str, *, may_be_zero: bool) -> Iterator[str]:
    if isinstance(value, (Duration, Size)) and value == 0 and not may_be_zero:
        yield f"{where}: must be more than 0"
    elif isinstance(value, Duration) and value > LONGEST:
        yield f"{where}: must be at most {LONGEST}"


def _listeners(config: Config) -> Iterator[str]:
    texts = [config.listen] if isinstance(config.listen, str) else config.listen
    if not texts:
        yield "listen: at least one address is needed, such as 127.0.0.1:8080"
    seen: dict[Address, str] = {}
    for i, text in enumerate(texts):
        path = "listen" if isinstance(config.listen, str) else f"listen[{i}]"
        try:
            address = parse_listen(text)
        except ValueError as error:
            yield f"{path}: {error}"
            continue
        yield from _duplicate(path, address, seen)
        if address.unix_path is not None:
            # SO_REUSEPORT, on which the slots of the workers rest, does not exist for Unix sockets.
            yield f"{path}: the public listener is TCP: write host:port"
        elif not address.is_loopback:
            yield from _public_listener(path, text, config)
    if config.admin_token is not None:
        try:
            check_admin_token(config.admin_token)
        except ValueError as error:
            yield f"admin_token: {error}"
    if config.admin is None:
        return
    try:
        admin = parse_listen(config.admin)
    except ValueError as error:
        yield f"admin: {error}"
        return
    yield from _duplicate("admin", admin, seen)
    if not admin.is_loopback:
        yield (
            f"admin: {config.admin} can be reached from other machines:"
            " use 127.0.0.1:9090 or unix:/run/shadowcat.sock"
        )


def _public_listener(path: str, text: str, config: Config) -> Iterator[str]:
    if not config.insecure:
        open_routes = [route.path for route in config.routes if not authenticates(route)]
        if open_routes:
            yield (
                f"{path}: {text} can be reached from other machines, and {', '.join(open_routes)} asks nobody"
                " for a token: give it an auth section (mode: resource), listen on 127.0.0.1, or set"
                " insecure: true"
            )
    if config.public_url is None and not config.allowed_hosts:
        yield (
            f"{path}: {text} can be reached by other names than localhost, and none is accepted: set"
            ' public_url or allowed_hosts to the names that clients use (["*"] accepts every Host, and so'
            " does not keep out web pages that rebind their name)"
        )


def _callers(config: Config) -> Iterator[str]:
    """By which names clients may call, from which pages, and through which proxies."""
    if config.public_url is not None:
        try:
            check_public_url(config.public_url)
        except ValueError as error:
            yield f"public_url: {error}"
    for i, host in enumerate(config.allowed_hosts):
        try:
            if host != "*":
                check_authority(host)
        except ValueError as error:
            yield f"allowed_hosts[{i}]: {error}"
    for i, origin in enumerate(config.allowed_origins):
        try:
            if origin != "*":
                _check_origin(origin)
        except ValueError as error:
            yield f"allowed_origins[{i}]: {error}"
    for i, network in enumerate(config.trusted_proxies):
        try:
            ip_network(network)
        except ValueError:
            yield f"trusted_proxies[{i}]: {_network_advice(network)}"
    if config.proxy_protocol and not config.trusted_proxies:
        yield (
            "proxy_protocol: it is taken from trusted proxies only, and there is none: nobody could connect;"
            " name the balancer's network in trusted_proxies"
        )


def _check_origin(text: str) -> None:
    parts = _ORIGIN.fullmatch(text)
    if parts is None:
        raise ValueError(
            f"{text!r} is no origin: write scheme://host or scheme://host:port, without a path,"
            " such as https://app.example"
        )
    check_authority(parts[1])


def _network_advice(text: str) -> str:
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        return f"{text!r} is no IP address and no network: write 10.0.0.0/8, fd00::/8 or 192.0.2.7"
    return f"{text} has bits set behind its prefix: write {network} for the network, or the address alone"


def _duplicate(path: str, address: Address, seen: dict[Address, str]) -> Iterator[str]:
    # Port 0 is another port each time.
    if address in seen and (address.port or address.unix_path):
        yield f"{path}: {address} is already the address of {seen[address]}"
    seen.setdefault(address, path)


def _limits(config: Config) -> Iterator[str]:
    http = config.http
    if http.head_limit < http.target_limit:
        yield (
            f"http.head_limit: {http.head_limit} is less than http.target_limit ({http.target_limit}):"
            " a head holds its target"
        )


def _sessions(config: Config) -> Iterator[str]:
    if not config.sessions.idle_timeout:
        # Elsewhere 0 means that nothing is kept while idle: a session is idle between any two requests.
        yield "sessions.idle_timeout: must be more than 0: every session would be over before its first use"


def _access_log(config: Config) -> Iterator[str]:
    log = config.access_log
    if log is not None and (not log.path or "\0" in log.path):
        yield "access_log.path: not the name of a file: write one, or - for standard output"
    if log is not None and log.sample != log.sample:  # not a number: no range keeps it out
        yield "access_log.sample: expected a number from 0 to 1"


def _room(config: Config) -> Iterator[str]:
    upstreams = sum(len(route.upstreams) for route in config.routes)
    for key, count in (("max_routes", len(config.routes)), ("max_upstreams", upstreams)):
        most = getattr(config, key)
        if count > most:
            yield f"{key}: there are {count}, and the start makes room for {most}: write at least {count}"


def _routes(config: Config) -> Iterator[str]:
    routes = config.routes
    if not routes:
        yield "routes: at least one route is needed"
    seen: dict[str, str] = {}
    for i, route in enumerate(routes):
        path = f"routes[{i}]"
        yield from _route_path(f"{path}.path", route.path)
        if route.path in seen:
            yield f"{path}.path: {route.path} is already the path of {seen[route.path]}"
        seen.setdefault(route.path, path)
        if not route.upstreams:
            yield f"{path}.upstreams: at least one upstream is needed"
        yield from _hash_on(f"{path}.balance.hash_on", route.balance.hash_on)
        if route.auth is not None:
            yield from auth_problems(f"{path}.auth", route, config)
            if route.auth.login is not None:
                yield from login_problems(f"{path}.auth.login", route.auth, config)
        if route.policy is not None:
            yield from policy_problems(f"{path}.policy", route)
            if route.policy.tools is not None:
                yield from tools_problems(f"{path}.policy.tools", route.policy.tools)
        if route.limits is not None:
            yield from limit_problems(f"{path}.limits", route)
        if route.health is not None:
            yield from _health(f"{path}.health", route.health)
        if route.breaker is not None:
            yield from _breaker(f"{path}.breaker", route.breaker)
        if route.outlier is not None:
            yield from _outlier(f"{path}.outlier", route.outlier)
        names: dict[str, str] = {}
        for j, upstream in enumerate(route.upstreams):
            where = f"{path}.upstreams[{j}]"
            problems = list(_upstream(where, route, upstream, config))
            yield from problems
            if not problems:
                name = upstream_name(upstream)
                if name in names:
                    yield f"{where}.name: {name} is already the name of {names[name]}: give each its own name"
                names.setdefault(name, where)


def _hash_on(path: str, value: str) -> Iterator[str]:
    kind, colon, name = value.partition(":")
    if value == "principal" or (kind == "argument" and name):
        return
    if kind != "header" or not colon:
        yield f"{path}: {value!r}: write principal, header:NAME or argument:NAME"
    elif FIELD_NAME.fullmatch(name) is None:
        yield f"{path}: {name!r} is no header name: use ASCII letters, digits and hyphens"
    elif name.lower() in _NOT_HASHED:
        yield f"{path}: {name} is for the proxy alone, or differs in each request: name another header"


def _breaker(path: str, breaker: Breaker) -> Iterator[str]:
    if 0 < breaker.window < SHORTEST_COUNT:
        yield f"{path}.window: workers tell each other what they count ten times a second: write 1s or more"


def _outlier(path: str, outlier: Outlier) -> Iterator[str]:
    if 0 < outlier.interval < SHORTEST_COUNT:
        yield f"{path}.interval: workers tell each other what they count ten times a second: write 1s or more"
    if outlier.max_ejection_time < outlier.ejection_time:
        yield (
            f"{path}.max_ejection_time: {outlier.max_ejection_time} is less than ejection_time"
            f" ({outlier.ejection_time}), with which ejections begin"
        )
    if outlier.latency_factor == inf:
        yield f"{path}.latency_factor: no upstream would ever be that slow: write a number such as 5"


def _health(path: str, health: Health) -> Iterator[str]:
    if 0 < health.interval < SHORTEST_INTERVAL:
        yield f"{path}.interval: {health.interval} is a load of its own: write {SHORTEST_INTERVAL} or more"
    if health.timeout > health.interval:
        yield (
            f"{path}.timeout: {health.timeout} is longer than the interval ({health.interval}): a check would"
            " go on while the next one is due; shorten it, or lengthen the interval"
        )
    if health.type != "http":
        for key in ("path", "statuses"):
            if getattr(health, key) != getattr(Health(), key):
                yield f"{path}.{key}: only checks of type http use it: add type: http, or remove {key}"
        return
    if not health.statuses:
        yield f"{path}.statuses: no answer would be a good one: name at least one status, such as 200"
    plain, _, query = health.path.partition("?")
    if not plain.startswith("/"):
        yield f"{path}.path: {health.path!r} does not start with a slash: write /{health.path}"
    elif _QUERY.fullmatch(query) is None:
        yield f"{path}.path: the query has characters that must be encoded: write them as %XX"
    else:
        try:
            check_path(plain)
        except ValueError as error:
            yield f"{path}.path: {error}"


def _route_path(path: str, value: str) -> Iterator[str]:
    if not value.startswith("/"):
        yield f"{path}: {value!r} does not start with a slash: write /{value}"
    elif value != "/" and value.endswith("/"):
        plain = value.rstrip("/") or "/"
        yield f"{path}: {value!r} ends with a slash: a route matches everything below it, write {plain}"
    elif len(value.encode("utf-8", "replace")) > PATH_LIMIT:
        yield f"{path}: at most {PATH_LIMIT} bytes, as every session remembers its route's path: shorten it"
    else:
        try:
            check_path(value)
        except ValueError as error:
            yield f"{path}: {error}"


def _upstream(path: str, route: Route, upstream: Upstream, config: Config) -> Iterator[str]:
    if not upstream.name.isprintable() or len(upstream.name) > 128:
        yield f"{path}.name: use at most 128 printable characters"
    scheme = None
    try:
        scheme = parse_upstream(upstream.url).scheme
    except ValueError as error:
        yield f"{path}.url: {error}"
    if upstream.tls is not None:
        if scheme not in {None, "https"}:
            yield f"{path}.tls: the URL is {scheme}: write https, or remove tls"
        if upstream.tls.key is not None and upstream.tls.cert is None:
            yield f"{path}.tls.key: a key needs its certificate: add tls.cert"
        if upstream.tls.server_name is not None:
            try:
                parse_host(upstream.tls.server_name)
            except ValueError as error:
                yield f"{path}.tls.server_name: {error}"
    if upstream.credential is not None:
        yield from credential_problems(f"{path}.credential", route, upstream, config)
