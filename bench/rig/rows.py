"""The rows of the comparison: what work each one gives to a proxy, and which bar it has to meet."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from bench.rig import measure, requests
from bench.rig.measure import Sample
from bench.rig.processes import Pinning, Running, json_upstream, running, stream_source
from bench.rig.targets import is_nginx

HEADS: Final = 10_000
STREAMS: Final = 64
EVENT_RATE: Final = 10_000.0


@dataclass(frozen=True)
class Settings:
    """What the command line chose."""

    seconds: float
    idle: int
    """Connections or quiet streams of the memory rows."""
    pinning: Pinning
    rate: Callable[[], float]
    """Requests per second of the open-loop row."""


@dataclass(frozen=True)
class Row:
    """One kind of work.

    `run` gets a proxy that has just been started, with nothing but this work to do.
    """

    name: str
    what: str
    run: Callable[[Running, Settings], Sample]
    figure: str = "cpu_us"
    """The key of the sample that the row is about."""
    source: str = "json"
    """Which upstream: json, sessionless (JSON, too), events, or quiet (streams without events)."""
    workers: int = 1
    pinned: bool = True
    direct: bool = True
    """Whether the upstream alone can do this work, too."""
    has_tokens: bool = False
    """Whether its calls carry tokens, without which some targets refuse them."""
    only: Callable[[str], bool] = lambda name: True


@contextlib.contextmanager
def upstream(source: str, settings: Settings) -> Iterator[Running]:
    """The upstream of a row."""
    cpus = settings.pinning.load
    if source in ("json", "sessionless"):
        with json_upstream(cpus, sessions=source == "json") as process:
            yield process
    else:
        rate = EVENT_RATE if source == "events" else 0.0
        with running(stream_source(rate), cpus, 0, says_ready=True) as process:
            yield process


def _one_head(server: Running, settings: Settings) -> Sample:
    return _closed(server, [requests.modern(server.port)], settings)


def _one_session(server: Running, settings: Settings) -> Sample:
    return _closed(server, measure.open_sessions(server.port, 1, tokens=False), settings)


def _no_session(server: Running, settings: Settings) -> Sample:
    return _closed(server, measure.open_sessions(server.port, 1, tokens=False, named=False), settings)


def _sessions(server: Running, settings: Settings) -> Sample:
    return _closed(server, measure.open_sessions(server.port, HEADS, tokens=True), settings)


def _token(server: Running, settings: Settings) -> Sample:
    return _closed(server, [requests.modern(server.port, token=requests.token(0))], settings)


def _session_token(server: Running, settings: Settings) -> Sample:
    return _closed(server, measure.open_sessions(server.port, 1, tokens=True), settings)


def _names(server: Running, settings: Settings) -> Sample:
    calls = [requests.modern(server.port, f"tool_{number:05d}") for number in range(HEADS)]
    return _closed(server, calls, settings)


def _traceparent(server: Running, settings: Settings) -> Sample:
    return _closed(server, [requests.modern(server.port, trace=True)], settings)


def _closed(server: Running, calls: list[str], settings: Settings) -> Sample:
    return measure.closed_loop(server, calls, settings.seconds, settings.pinning.load)


def _unpinned(server: Running, settings: Settings) -> Sample:
    everywhere = settings.pinning.proxy | settings.pinning.load
    return measure.closed_loop(server, [requests.modern(server.port)], settings.seconds, everywhere)


def _events(server: Running, settings: Settings) -> Sample:
    return measure.stream_events(server, STREAMS, settings.seconds, settings.pinning.load)


def _idle(server: Running, settings: Settings) -> Sample:
    return measure.connection_memory(server, settings.idle, streams=False)


def _quiet(server: Running, settings: Settings) -> Sample:
    return measure.connection_memory(server, settings.idle, streams=True)


def _latency(server: Running, settings: Settings) -> Sample:
    return measure.open_loop(server, settings.rate(), settings.seconds, settings.pinning.load)


def _scales(name: str) -> bool:
    return name == "shadowcat" or is_nginx(name)


ROWS: Final = {
    row.name: row
    for row in (
        Row("one-head", "modern calls, the same head each time", _one_head),
        Row("one-session", "legacy calls of one session, 150-byte bodies", _one_session),
        Row(
            "no-session",
            "as one-session, but the upstream has no sessions",
            _no_session,
            source="sessionless",
        ),
        Row(
            "sessions",
            f"legacy calls of {HEADS:,} sessions, each with its own token",
            _sessions,
            has_tokens=True,
        ),
        Row("session-token", "as one-session, with a token", _session_token, has_tokens=True),
        Row("token", "as one-head, with a token", _token, has_tokens=True),
        Row("names", f"modern calls, {HEADS:,} different Mcp-Name", _names),
        Row("traceparent", "modern calls, a traceparent of its own in each", _traceparent),
        Row("events", f"{STREAMS} event streams, {EVENT_RATE:,.0f} events/s", _events, source="events"),
        Row("latency", "modern calls at half of saturation, open loop", _latency, "p99_ms"),
        Row("idle", "memory per idle keep-alive connection", _idle, "kib", direct=False),
        Row("quiet", "memory per quiet event stream", _quiet, "kib", source="quiet", direct=False),
        Row(
            "workers-1",
            "as one-head, 1 worker, not pinned",
            _unpinned,
            pinned=False,
            direct=False,
            only=_scales,
        ),
        Row(
            "workers-2",
            "as one-head, 2 workers, not pinned",
            _unpinned,
            workers=2,
            pinned=False,
            direct=False,
            only=_scales,
        ),
    )
}
