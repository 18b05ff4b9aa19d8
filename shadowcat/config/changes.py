"""Changes of a configuration while it is in use: one upstream at a time, and from one file to the next.

Whatever changes something returns a new configuration that has been checked as a file would be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import msgspec
from msgspec.structs import replace

from shadowcat.config.model import Config, Route, Upstream
from shadowcat.config.urls import upstream_name
from shadowcat.config.validate import validate
from shadowcat.errors import ConfigError

RELOADABLE: Final = (
    "routes",
    "upstream_drain_timeout",
    "public_url",
    "allowed_hosts",
    "allowed_origins",
    "trusted_proxies",
    "proxy_protocol",
    "http",
    "overload",
    "sessions",
    "limits",
)
"""Keys that take effect while Shadowcat runs, with all that is below them but for `FIXED`. Every other one
needs a restart:

    listen, admin, backlog     the supervisor opens the sockets before it forks, and every slot inherits them
    admin_token                the supervisor keeps the file with the token there is in place of this one
    insecure                   permits what `listen` says, which stays as it is
    workers, max_upstreams,    the size of shared memory, which is sealed
      max_routes
    cpu_affinity,              what a process is given when it is forked, or what the supervisor itself goes
      drain_timeout, log         by; it does not read the file again
    access_log, audit          the log's writer is made with it; the size of shared memory

Time-outs and limits of `http` hold for connections that are opened from then on.
"""
FIXED: Final = ("sessions.capacity", "limits.capacity")
"""Keys below a reloadable one that are not: the size of shared memory, again."""

_NAMES: Final[dict[type, Callable[[Any], str]]] = {
    Route: lambda route: route.path,
    Upstream: upstream_name,
}
"""What tells the entries of a list apart, whatever their order."""


class UnknownTargetError(ConfigError):
    """There is no such route or upstream; the message names those that there are."""


class ConflictError(ConfigError):
    """What is asked for contradicts what there is; the message says what to do first."""


class Target(NamedTuple):
    """One upstream, as metrics and logs name it."""

    route: str
    upstream: str


def find_route(config: Config, path: str | None) -> str:
    """The path of a route, which need not be named where there is only one.

    Raises:
        UnknownTargetError: There is no such route, or several and none is named.
    """
    known = [route.path for route in config.routes]
    if path is None and len(known) == 1:
        return known[0]
    if path is None:
        raise UnknownTargetError(f"there are several routes: name one of {', '.join(known)}")
    if path not in known:
        raise UnknownTargetError(f"no route {path}: known are {', '.join(known)}")
    return path


def find(config: Config, name: str, route: str | None = None) -> Target:
    """The upstream of this name; its route need not be named where the name stands only once.

    Raises:
        UnknownTargetError: There is no such upstream, or there are several.
    """
    if route is not None:
        find_route(config, route)
    sections = [section for section in config.routes if route in (None, section.path)]
    found = [section.path for section in sections if name in _names(section)]
    if len(found) == 1:
        return Target(found[0], name)
    if found:
        raise UnknownTargetError(
            f"{name} is an upstream of several routes: name one of the routes {', '.join(found)}"
        )
    known = "; ".join(f"{', '.join(_names(section))} of {section.path}" for section in sections)
    raise UnknownTargetError(f"no upstream {name}: known are {known}")


def change_upstream(
    config: Config, target: Target, *, enabled: bool | None = None, weight: int | None = None
) -> Config:
    """Give an upstream other values; None leaves one as it is.

    Raises:
        UnknownTargetError: There is no such upstream.
        ConfigError: The result is not valid.
    """
    given = {key: value for key, value in (("enabled", enabled), ("weight", weight)) if value is not None}
    section, place = _locate(config, target)
    upstreams = list(section.upstreams)
    upstreams[place] = replace(upstreams[place], **given)
    return _with_upstreams(config, section, upstreams, place)


def add_upstream(config: Config, route: str, upstream: Upstream) -> Config:
    """Put an upstream behind the others of its route.

    Raises:
        UnknownTargetError: There is no such route.
        ConflictError: The route has an upstream of this name.
        ConfigError: The upstream is not valid.
    """
    find_route(config, route)
    section = next(section for section in config.routes if section.path == route)
    try:
        name = upstream_name(upstream)
    except ValueError as error:
        raise ConfigError(f"upstream.url: {error}") from None
    if name in _names(section):
        raise ConflictError(
            f"upstream.name: {route} has an upstream {name}: give this one another name, or remove that one"
        )
    return _with_upstreams(config, section, [*section.upstreams, upstream], len(section.upstreams))


def remove_upstream(config: Config, target: Target) -> Config:
    """Take an upstream out of its route.

    Raises:
        UnknownTargetError: There is no such upstream.
        ConflictError: It is the last one. A route without upstreams could only refuse, and would not be
            accepted from a file either; who wants that can disable it.
    """
    section, place = _locate(config, target)
    upstreams = [*section.upstreams[:place], *section.upstreams[place + 1 :]]
    if not upstreams:
        raise ConflictError(
            f"{target.upstream} is the last upstream of {target.route}: add another one first, or disable it"
        )
    return _with_upstreams(config, section, upstreams, place)


def differences(old: Config, new: Config) -> list[str]:
    """The paths of all keys that differ, such as ``routes[/mcp].upstreams[a].weight``; never their values.

    Routes go by their path and upstreams by their name: a path that ends there stands for one that was added
    or removed, and ``routes[/mcp].upstreams`` for another order.
    """
    return list(_differences(old, new, ""))


def needs_restart(old: Config, new: Config) -> list[str]:
    """The paths of those keys that differ and have no effect while Shadowcat runs; see RELOADABLE."""
    return [path for path in differences(old, new) if not _is_reloadable(path)]


def applicable(old: Config, new: Config) -> Config:
    """As much of `new` as takes effect while Shadowcat runs, and `old` for the rest.

    Raises:
        ConfigError: The two do not go together.
    """
    mixed = replace(old, **{key: getattr(new, key) for key in RELOADABLE})
    mixed = replace(mixed, sessions=replace(mixed.sessions, capacity=old.sessions.capacity))
    mixed = replace(mixed, limits=replace(mixed.limits, capacity=old.limits.capacity))
    validate(mixed)
    return mixed


def _names(route: Route) -> list[str]:
    return [upstream_name(upstream) for upstream in route.upstreams]


def _locate(config: Config, target: Target) -> tuple[Route, int]:
    find(config, target.upstream, target.route)
    section = next(section for section in config.routes if section.path == target.route)
    return section, _names(section).index(target.upstream)


def _with_upstreams(config: Config, section: Route, upstreams: list[Upstream], place: int) -> Config:
    """The configuration with other upstreams in one route; what is wrong is said of the one at `place`."""
    number = config.routes.index(section)
    routes = list(config.routes)
    routes[number] = replace(section, upstreams=upstreams)
    changed = replace(config, routes=routes)
    try:
        validate(changed)
    except ConfigError as error:
        raise ConfigError(str(error).replace(f"routes[{number}].upstreams[{place}].", "upstream.")) from None
    return changed


def _differences(old: Any, new: Any, path: str) -> Iterator[str]:
    if old == new:
        return
    if isinstance(old, msgspec.Struct) and type(old) is type(new):
        for name, key in zip(old.__struct_fields__, old.__struct_encode_fields__, strict=True):
            yield from _differences(getattr(old, name), getattr(new, name), f"{path}.{key}" if path else key)
        return
    before, after = _by_name(old), _by_name(new)
    if before is None or after is None:
        yield path
        return
    for name in dict.fromkeys((*before, *after)):
        if name in before and name in after:
            yield from _differences(before[name], after[name], f"{path}[{name}]")
        else:
            yield f"{path}[{name}]"
    if [name for name in before if name in after] != [name for name in after if name in before]:
        yield path


def _by_name(value: Any) -> dict[str, Any] | None:
    """The entries of a list of routes or upstreams; None for everything else."""
    if not isinstance(value, list) or not value or type(value[0]) not in _NAMES:
        return None
    return {_NAMES[type(entry)](entry): entry for entry in value}


def _is_reloadable(path: str) -> bool:
    return path not in FIXED and any(
        path == key or path.startswith((f"{key}.", f"{key}[")) for key in RELOADABLE
    )
