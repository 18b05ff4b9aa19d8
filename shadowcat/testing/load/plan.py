"""What a load run is told, and what it tells: structs that cross a process border as JSON."""

from __future__ import annotations

from typing import Any

import msgspec

from shadowcat.mcp.eras import Era
from shadowcat.testing.load.histogram import Histogram


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One run. Times are seconds."""

    host: str
    """IP address or name to connect to; the path of the socket if `port` is 0."""
    port: int
    authority: str
    """Value of the Host field."""
    path: str
    server_name: str | None = None
    """Speak TLS and verify this name."""
    era: Era = Era.MODERN
    rate: float = 1000.0
    """Requests per second, whatever the server does."""
    duration: float = 10.0
    warmup: float = 1.0
    """Sent at the same rate before `duration` begins, and not counted."""
    connections: int = 64
    """Keep-alive connections; in the legacy era each one is a session, too."""
    timeout: float = 10.0
    """For one answer, for connecting, and for sending after the end what was due before it."""
    tool: str = "echo"
    arguments: dict[str, Any] = {}
    headers: list[tuple[str, str]] = []
    stream: bool = False
    """Ask for progress, and accept nothing but an event stream."""
    check_ids: bool = True
    """Whether an answer must carry its request's id."""


class Latency(msgspec.Struct, frozen=True):
    """Durations in milliseconds."""

    mean: float
    p50: float
    p90: float
    p99: float
    p999: float
    max: float

    @classmethod
    def of(cls, histogram: Histogram) -> Latency:
        """Summarise a histogram."""
        p50, p90, p99, p999 = (ns / 1e6 for ns in histogram.percentiles(50, 90, 99, 99.9))
        return cls(histogram.mean / 1e6, p50, p90, p99, p999, histogram.largest / 1e6)


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """The state of a run under way, warm-up included."""

    elapsed: float
    due: int
    """Requests due by now."""
    sent: int
    answered: int
    """Good answers."""
    failed: int
    in_flight: int
    p50: float
    """Milliseconds, over the counted requests so far."""
    p99: float


class Result(msgspec.Struct, frozen=True, tag="result", kw_only=True):
    """The outcome of a run; the warm-up is not in it."""

    plan: Plan
    seconds: float
    """From the first counted request's due time to the last answer."""
    due: int
    """Requests that were to be sent."""
    answered: int
    """Good answers."""
    events: int
    """Events of all streams."""
    unsent: int
    """Due, but not sent even a time-out after the end: no connection was free."""
    unanswered: int
    """Sent, but not answered when the time-out had passed."""
    problems: dict[str, int]
    """What went wrong with the others, and how often."""
    reconnects: int
    interrupted: bool
    latency: Latency
    """From the due time to the last byte. Unsent and unanswered requests are in it with the time they had
    waited when the run ended; failed ones are not."""
    service: Latency
    """From sending to the last byte: what a closed-loop tool would report."""
    first_byte: Latency
    """From the due time to the first byte of the body."""
    lateness: Latency
    """From the due time to sending: large when connections or the generator itself were the bottleneck."""

    @property
    def clean(self) -> bool:
        """Whether every request got a good answer."""
        return self.answered == self.due


class Broken(msgspec.Struct, frozen=True, tag="broken"):
    """The run could not start."""

    message: str


Report = Progress | Result | Broken
