"""Which number each route and each upstream has, and how they get new ones when the configuration changes.

Shared memory knows routes and upstreams by numbers alone, so that a change moves nobody: what stays keeps its
number, what is new gets one that is free. An upstream is the same as before if its route, its name, its URL
and the kind of its credential are; then its sessions, its connections and what is known about it stay,
whatever else has changed.

    in the config --removed--> leaving --its sessions are over, or the deadline--> resting --> free
          ^                       |
          +------ put back -------+

A number rests until no worker uses it any more. The generation tells two users of one number apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from shadowcat.config import model
from shadowcat.config.credentials import kind_of
from shadowcat.config.units import Limit, Size
from shadowcat.config.urls import upstream_name
from shadowcat.errors import ConfigError

NO_DEADLINE: Final = 0


class Phase(IntEnum):
    """How an upstream stands, apart from what its configuration says."""

    SERVING = 0
    DRAINING = 1
    """Nothing new; what it has goes on until the deadline."""
    DRAINED = 2
    """What it had is over: connections that are still open are cut."""


class Seat(msgspec.Struct, frozen=True, array_like=True):
    """The place of one upstream in shared memory."""

    row: int
    generation: int
    """Version of the snapshot in which the upstream got the row."""
    phase: Phase = Phase.SERVING
    until_ns: int = NO_DEADLINE
    """When a drain is over, CLOCK_MONOTONIC; 0 where there is none."""


class Leaving(msgspec.Struct, frozen=True):
    """An upstream that the configuration does not name any more, and that still has sessions."""

    route: model.Route
    """Its route, as it was, with this upstream alone."""
    number: int
    """Of the route."""
    seat: Seat


class Snapshot(msgspec.Struct, frozen=True):
    """What all processes go by: the configuration, and who has which number."""

    version: int
    config: model.Config
    numbers: list[int]
    """Of the routes, in the order of the configuration."""
    seats: list[list[Seat]]
    """Of the upstreams of each route."""
    leaving: list[Leaving] = []
    resting: dict[int, int] = {}
    """Rows that nobody has: the version that gave each of them up."""
    known: dict[str, int] = {}
    """All routes that ever had a number: they get it again."""

    def routes(self) -> Iterator[tuple[int, model.Route, list[Seat]]]:
        """Number, section and seats of each route."""
        return zip(self.numbers, self.config.routes, self.seats, strict=True)

    def upstreams(self) -> Iterator[tuple[str, int, model.Upstream, Seat]]:
        """Route path, route number, section and seat of each upstream, those that leave last."""
        for number, route, seats in self.routes():
            for upstream, seat in zip(route.upstreams, seats, strict=True):
                yield route.path, number, upstream, seat
        for one in self.leaving:
            yield one.route.path, one.number, one.route.upstreams[0], one.seat


def first(config: model.Config) -> Snapshot:
    """The snapshot that a host starts with: numbers in the order of the configuration.

    Raises:
        ConfigError: There are more routes or upstreams than the configuration has room for.
    """
    nobody = Snapshot(0, replace(config, routes=[]), [], [])
    return change(nobody, config, {}, now_ns=0, taken_up=0)


def change(
    old: Snapshot,
    config: model.Config,
    drains: Mapping[tuple[str, str], int],
    *,
    now_ns: int,
    taken_up: int,
) -> Snapshot:
    """The snapshot that follows when `config` takes the place of the old configuration.

    Args:
        old: The present snapshot.
        config: Has been validated.
        drains: Upstreams that begin to drain, by route path and name, and their deadlines.
        now_ns: CLOCK_MONOTONIC.
        taken_up: The version that all workers have taken up: rows given up until then are free.

    Raises:
        ConfigError: There is no room; nothing has changed.
    """
    version = old.version + 1
    known = dict(old.known)
    limits = old.config  # What there is room for was decided at the start.
    numbers = [_number(route.path, known, limits.max_routes) for route in config.routes]
    before = {
        (path, upstream_name(upstream), upstream.url, kind_of(upstream)): seat
        for path, _, upstream, seat in old.upstreams()
    }
    most = limits.max_upstreams
    used = {seat.row for seat in before.values()} | {
        row for row, given_up in old.resting.items() if given_up > taken_up
    }
    free = (row for row in range(most) if row not in used)
    seats: list[list[Seat]] = []
    for route in config.routes:
        seats.append([])
        for upstream in route.upstreams:
            name = upstream_name(upstream)
            # Requests that are under way to one that is told who the client is know what to say, and others
            # do not.
            seat = before.pop((route.path, name, upstream.url, kind_of(upstream)), None)
            if seat is None:
                row = next(free, None)
                if row is None:
                    raise ConfigError(
                        f"routes: no room for upstream {name} of {route.path}: max_upstreams is {most}, with"
                        " those removed that are not over yet; try again, or raise it and restart"
                    )
                seat = Seat(row, version)
            seats[-1].append(_phase(seat, upstream, drains.get((route.path, name))))
    leaving = _leaving(old, config, set(before.values()), now_ns)
    kept = {one.seat.row for one in leaving} | {seat.row for row in seats for seat in row}
    gone = {seat.row for _, _, _, seat in old.upstreams()} - kept
    resting = {row: given_up for row, given_up in old.resting.items() if row not in kept}
    resting |= dict.fromkeys(gone, version)
    return Snapshot(version, config, numbers, seats, leaving, resting, known)


def settle(old: Snapshot, over: set[int], freed: set[int]) -> Snapshot:
    """The snapshot that follows when drains come to an end.

    Args:
        old: The present snapshot.
        over: Rows whose deadline has passed: what is open there is cut.
        freed: Rows of `leaving` that nothing refers to any more.
    """
    version = old.version + 1

    def after(seat: Seat) -> Seat:
        return replace(seat, phase=Phase.DRAINED) if seat.row in over else seat

    return replace(
        old,
        version=version,
        seats=[[after(seat) for seat in seats] for seats in old.seats],
        leaving=[replace(one, seat=after(one.seat)) for one in old.leaving if one.seat.row not in freed],
        resting=old.resting | dict.fromkeys(freed, version),
    )


def _number(path: str, known: dict[str, int], most: int) -> int:
    number = known.setdefault(path, len(known))
    if number >= most:
        raise ConfigError(
            f"routes: no room for {path}: max_routes is {most}, with those that were removed since the"
            " start; raise it and restart"
        )
    return number


def _phase(seat: Seat, upstream: model.Upstream, deadline: int | None) -> Seat:
    """A drain lasts until the upstream is enabled again."""
    if deadline is not None:
        return replace(seat, phase=Phase.DRAINING, until_ns=deadline)
    if upstream.enabled:
        return replace(seat, phase=Phase.SERVING, until_ns=NO_DEADLINE)
    return seat


def _leaving(old: Snapshot, config: model.Config, removed: set[Seat], now_ns: int) -> list[Leaving]:
    """Those that leave: where the whole route is gone, nobody can reach its sessions, so they end at once."""
    paths = {route.path for route in config.routes}
    wait = round(config.upstream_drain_timeout * 1_000_000_000)
    found = []
    for number, route, seats in old.routes():
        until = now_ns + wait if route.path in paths else now_ns
        for upstream, seat in zip(route.upstreams, seats, strict=True):
            if seat in removed:
                until = min(until, seat.until_ns) if seat.phase is not Phase.SERVING else until
                alone = replace(route, upstreams=[upstream])
                phase = Phase.DRAINED if seat.phase is Phase.DRAINED else Phase.DRAINING
                found.append(Leaving(alone, number, replace(seat, phase=phase, until_ns=until)))
    found += [
        one
        if one.route.path in paths
        else replace(one, seat=replace(one.seat, until_ns=min(one.seat.until_ns, now_ns)))
        for one in old.leaving
        if one.seat in removed
    ]
    return found


def _plain(quantity: Any) -> float | str:
    if isinstance(quantity, Limit):
        return str(quantity)
    return int(quantity) if isinstance(quantity, Size) else float(quantity)


def _quantity(kind: type, value: Any) -> Any:
    return kind(value)


_encoder: Final = msgspec.msgpack.Encoder(enc_hook=_plain)
_decoder: Final = msgspec.msgpack.Decoder(Snapshot, dec_hook=_quantity)


def encode(snapshot: Snapshot) -> bytes:
    """The snapshot as bytes for shared memory."""
    return _encoder.encode(snapshot)


def decode(data: bytes) -> Snapshot:
    """What `encode` was given."""
    return _decoder.decode(data)
