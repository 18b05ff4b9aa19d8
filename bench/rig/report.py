"""Medians, spreads, ratios and bars of a run: pure arithmetic, and the tables that show it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench.rig.rows import ROWS
from bench.rig.targets import FULL, is_nginx

Samples = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
"""row -> target -> the samples of its rounds"""


@dataclass(frozen=True)
class Bar:
    """A goal for Shadowcat.

    `against` names what the row's median is divided by: nginx (the cheaper of its configurations), another
    row of Shadowcat, or nothing. A `difference` is taken round by round instead, and the median of that: what
    a round has in common drops out.
    """

    name: str
    row: str
    goal: float
    against: str | None = "nginx"
    figure: str | None = None
    difference: bool = False
    target: str = "shadowcat"


BARS: Final = (
    Bar("CPU per call, one head ÷ nginx", "one-head", 1.35),
    Bar("CPU per call, one session ÷ nginx", "one-session", 1.35),
    Bar("CPU per call, 10,000 token + session heads ÷ nginx", "sessions", 1.35),
    Bar("CPU per call for being in a session, µs", "one-session", 1.0, "no-session", difference=True),
    Bar("CPU per call, varying Mcp-Name ÷ nginx", "names", 1.35),
    Bar("CPU per call, unique traceparent ÷ nginx", "traceparent", 1.8),
    Bar("CPU per call, everything on, one session ÷ nginx", "session-token", 1.6, target=FULL),
    Bar("CPU per call, everything on, modern ÷ nginx", "token", 1.6, target=FULL),
    Bar("CPU per call, everything on, 10,000 users ÷ nginx", "sessions", 1.6, target=FULL),
    Bar("CPU per streamed event ÷ nginx", "events", 1.5),
    Bar("p99 at half of saturation ÷ nginx", "latency", 1.5),
    Bar("KiB per idle connection", "idle", 4.0, None),
    Bar("KiB per quiet stream", "quiet", 4.0, None),
    Bar("CPU per call, 2 workers ÷ 1", "workers-2", 1.05, "workers-1"),
    Bar("start to ready with 2 workers, ms", "workers-2", 500.0, None, "start_ms"),
)


def median(samples: Sequence[Mapping[str, Any]], figure: str) -> float:
    """The median of one figure over the rounds."""
    return float(statistics.median(sample[figure] for sample in samples))


def spread(samples: Sequence[Mapping[str, Any]], figure: str) -> tuple[float, float]:
    """The smallest and the largest value over the rounds."""
    values = [float(sample[figure]) for sample in samples]
    return min(values), max(values)


def errors(samples: Sequence[Mapping[str, Any]]) -> int:
    """How many calls failed in all rounds together: if any did, the other figures are worth nothing."""
    return sum(sample["errors"] for sample in samples)


def cheapest_nginx(samples: Samples, row: str) -> str | None:
    """The nginx configuration that did best in a row: that is what Shadowcat is compared with.

    One with errors is taken only if there is no other.
    """
    found = [name for name, rounds in samples.get(row, {}).items() if is_nginx(name) and rounds]
    clean = [name for name in found if not errors(samples[row][name])]
    figure = ROWS[row].figure
    return min(clean or found, key=lambda name: median(samples[row][name], figure), default=None)


def judge(bar: Bar, samples: Samples) -> dict[str, Any] | None:
    """Compare what Shadowcat reached with a bar.

    Returns:
        Name, value, goal and whether it is met; of a difference also the smallest and the largest of the
        rounds. The value is None if calls failed. None instead of all this: it was not measured.
    """
    mine = samples.get(bar.row, {}).get(bar.target)
    if not mine:
        return None
    base: Sequence[Mapping[str, Any]] | None = []
    if bar.against == "nginx":
        name = cheapest_nginx(samples, bar.row)
        base = samples[bar.row][name] if name else None
    elif bar.against is not None:
        base = samples.get(bar.against, {}).get("shadowcat")
    if base is None:
        return None
    verdict: dict[str, Any] = {"name": bar.name, "value": None, "goal": bar.goal, "met": False}
    if errors(mine) or errors(base):
        return verdict
    figure = bar.figure or ROWS[bar.row].figure
    if bar.difference:
        by_round = [a[figure] - b[figure] for a, b in zip(mine, base, strict=True)]
        value = statistics.median(by_round)
        verdict |= {"low": min(by_round), "high": max(by_round)}
    else:
        value = median(mine, figure) / (median(base, figure) if base else 1.0)
    return verdict | {"value": value, "met": value <= bar.goal}


def bars(samples: Samples) -> list[dict[str, Any]]:
    """All bars for which there are figures."""
    return [verdict for bar in BARS if (verdict := judge(bar, samples)) is not None]


def show(samples: Samples, console: Console) -> None:
    """Print a table per row, then the bars."""
    for name, targets in samples.items():
        row = ROWS[name]
        rounds = {target: kept for target, kept in targets.items() if kept}
        if not rounds:
            continue
        base = cheapest_nginx(samples, name)
        if base is not None and errors(rounds[base]):
            base = None
        columns = [key for key in next(iter(rounds.values()))[0] if key in _COLUMNS]
        table = Table(title=f"{name}: {row.what}", title_justify="left")
        table.add_column("", no_wrap=True)
        for key in columns:
            table.add_column(_COLUMNS[key][0], justify="right", no_wrap=True)
        table.add_column("spread", justify="right", no_wrap=True)
        table.add_column("÷ nginx", justify="right", no_wrap=True)
        for target, kept in rounds.items():
            if wrong := errors(kept):
                table.add_row(target, f"[red]failed: {wrong:,} errors[/]")
                continue
            low, high = spread(kept, row.figure)
            form = _COLUMNS[row.figure][1]
            ratio = median(kept, row.figure) / median(rounds[base], row.figure) if base else None
            table.add_row(
                target,
                *(format(median(kept, key), _COLUMNS[key][1]) for key in columns),
                f"{low:{form}}-{high:{form}}",
                f"{ratio:.2f}" if ratio is not None else "",
            )
        console.print(table)
    judged = bars(samples)
    if judged:
        table = Table(title="Shadowcat's bars", title_justify="left")
        for head in ("bar", "value", "spread", "goal", ""):
            table.add_column(head, justify="left" if head == "bar" else "right", no_wrap=True)
        for bar in judged:
            value = "" if bar["value"] is None else f"{bar['value']:.2f}"
            between = f"{bar['low']:.2f} to {bar['high']:.2f}" if "low" in bar else ""
            verdict = "[green]met[/]" if bar["met"] else "[red]missed[/]" if value else "[red]failed[/]"
            table.add_row(bar["name"], value, between, f"{bar['goal']:g}", verdict)
        console.print(table)


# What a table shows of a sample, and how; the JSON has everything.
_COLUMNS: Final = {
    "cpu_us": ("CPU µs", ".2f"),
    "per_second": ("per s", ",.0f"),
    "rate": ("rate/s", ",.0f"),
    "p50_ms": ("p50 ms", ".3f"),
    "p99_ms": ("p99 ms", ".3f"),
    "p999_ms": ("p99.9 ms", ".3f"),
    "kib": ("KiB each", ".2f"),
    "rss_mib": ("RSS MiB", ".1f"),
    "base_rss_mib": ("RSS MiB", ".1f"),
    "own_mib": ("own MiB", ".1f"),
    "base_own_mib": ("own MiB", ".1f"),
}
