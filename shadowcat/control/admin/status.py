"""/api/status: the host, its workers, routes and upstreams as one document."""

from __future__ import annotations

import os
from typing import Any

import orjson

from shadowcat import __version__
from shadowcat.config import urls
from shadowcat.config.model import Route, Upstream
from shadowcat.config.seats import Seat, Snapshot
from shadowcat.control.admin.processes import Member, members
from shadowcat.control.admin.readiness import complaints
from shadowcat.control.admin.reading import Reading
from shadowcat.control.oauth.upstream_grants import UpstreamGrants
from shadowcat.control.upstreams.health import HealthChecker
from shadowcat.control.upstreams.standing import Standing
from shadowcat.shm.counters import FAMILIES, Kind
from shadowcat.shm.directory import Directory
from shadowcat.shm.sessions.table import SessionTable
from shadowcat.shm.shared import Shared, worker_number

Document = dict[str, Any]

_UPSTREAM = {
    family.name.removeprefix("upstream_").removesuffix("_total"): family.name
    for family in FAMILIES
    if family.labels == ("route", "upstream") and family.kind is not Kind.SECONDS
}
_HOST = {
    family.name.removesuffix("_total"): family.name
    for family in FAMILIES
    if not family.labels and not family.per_worker
}

_SESSIONS = {
    "created": "sessions_created_total",
    "ended": "sessions_ended_total",
    "recoveries": "session_recoveries_total",
    "recovery_failures": "session_recovery_failures_total",
}


def status(
    snapshot: Snapshot,
    shared: Shared,
    table: SessionTable,
    health: HealthChecker,
    now_ns: int,
    consents: UpstreamGrants | None = None,
) -> bytes:
    """The document as JSON: counters since the start, levels now; times in seconds, sizes in bytes.

    Args:
        snapshot: What the host goes by.
        shared: The shared areas.
        table: The sessions.
        health: Checks upstreams.
        now_ns: CLOCK_MONOTONIC.
        consents: What operators have logged in for.
    """
    host = shared.host
    reading = Reading(shared, Directory(shared.layout, snapshot))
    standing = Standing(shared.board, health, now_ns, consents)
    reasons = complaints(shared, now_ns)
    processes = list(members(shared))
    document: Document = {
        "version": __version__,
        "pid": os.getppid(),
        "uptime_seconds": (now_ns - host.started) / 1e9,
        "ready": not reasons,
        "reasons": reasons,
        "draining": host.draining,
        **orjson.loads(host.addresses() or b"{}"),
        "processes": [_process(shared, member, now_ns) for member in processes if member.slot is None],
        "workers": [
            _worker(snapshot, shared, member, member.slot, now_ns)
            for member in processes
            if member.slot is not None
        ],
        "routes": [_route(route, seats, reading, standing) for _, route, seats in snapshot.routes()],
        "leaving": [
            {
                "route": one.route.path,
                **_upstream(one.route, one.route.upstreams[0], one.seat, reading, standing),
            }
            for one in snapshot.leaving
        ],
        "sessions": _sessions(table, reading),
        "refusals": {
            labels[0]: count
            for family in FAMILIES
            if family.labels == ("reason",)
            for labels, count in reading.series(family)
            if count
        },
        "totals": {key: reading.value(family) for key, family in _HOST.items()},
    }
    return orjson.dumps(document)


def _sessions(table: SessionTable, reading: Reading) -> Document:
    """`live` counts what is in the table; the totals count each upstream that a session has been with."""
    return {
        "live": table.count(),
        "capacity": table.capacity,
        **{key: reading.total(family) for key, family in _SESSIONS.items()},
    }


def _process(shared: Shared, member: Member, now_ns: int) -> Document:
    usage, page = member.usage, shared.page(member.number)
    return {
        "process": member.role,
        "pid": member.pid or None,
        "state": page.state.name.lower(),
        "uptime_seconds": (now_ns - page.started) / 1e9 if page.pid else None,
        "heartbeat_age_seconds": (now_ns - page.heartbeat) / 1e9 if page.heartbeat else None,
        "cpu_seconds": round(usage.cpu_seconds, 3) if usage else None,
        "rss_bytes": usage.rss_bytes if usage else None,
        "restarts": shared.host.restarts(member.number),
    }


def _worker(snapshot: Snapshot, shared: Shared, member: Member, slot: int, now_ns: int) -> Document:
    layout, cells = shared.layout, shared.page(member.number).cells
    server = shared.host.served_by(slot)
    return {
        "slot": slot,
        **_process(shared, member, now_ns),
        "served_by": server - worker_number(0) if server else None,
        "connections": cells[layout.cell("connections")],
        "connections_accepted": cells[layout.cell("connections_accepted_total")],
        "in_flight": sum(cells[layout.cell("requests_in_flight", number)] for number in snapshot.numbers),
    }


def _route(route: Route, seats: list[Seat], reading: Reading, standing: Standing) -> Document:
    statuses = reading.statuses(route.path)
    counts, seconds = reading.histogram("request_duration_seconds", route.path)
    upstreams = [
        _upstream(route, upstream, seat, reading, standing)
        for upstream, seat in zip(route.upstreams, seats, strict=True)
    ]
    total = sum(upstream["requests"] for upstream in upstreams)
    for upstream in upstreams:
        upstream["share"] = upstream["requests"] / total if total else None
    return {
        "path": route.path,
        "strategy": route.balance.strategy,
        "requests": sum(statuses.values()),
        "statuses": {str(code): count for code, count in statuses.items()},
        "in_flight": reading.value("requests_in_flight", route.path),
        "client_aborts": reading.value("client_aborts_total", route.path),
        "mean_duration_seconds": seconds / counts[-1] if counts[-1] else None,
        "upstreams": upstreams,
    }


def _upstream(route: Route, upstream: Upstream, seat: Seat, reading: Reading, standing: Standing) -> Document:
    path, name = route.path, urls.upstream_name(upstream)
    responses = reading.value("upstream_responses_total", path, name)
    waited = reading.value("upstream_response_seconds_total", path, name)
    return {
        "name": name,
        "url": upstream.url,
        **standing.of(route, upstream, seat),
        "sessions": reading.pinned(path, name),
        "mean_response_seconds": waited / 1e9 / responses if responses else None,
        **{key: reading.value(family, path, name) for key, family in _UPSTREAM.items()},
    }
