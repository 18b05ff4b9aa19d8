"""`bench/rig/compare`: runs the rows over the targets, round by round, and reports."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from bench.rig import measure, report, requests
from bench.rig.processes import Pinning, RigError, pinning, proxy
from bench.rig.rows import ROWS, Row, Settings, upstream
from bench.rig.targets import DIRECT, FULL, TARGETS, is_nginx

_CALIBRATION = 2.0


class _Names(click.ParamType[list[str]]):
    """A list of known names, separated by commas."""

    name = "names"

    def __init__(self, known: list[str]) -> None:
        self._known = known

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        names = value if isinstance(value, list) else [name.strip() for name in value.split(",")]
        for name in names:
            if name not in self._known:
                self.fail(f"{name!r} is none of {', '.join(self._known)}", param, ctx)
        return list(dict.fromkeys(names))


@click.command()
@click.option(
    "--targets", type=_Names([DIRECT, *TARGETS]), help="Default: all that are installed, and direct."
)
@click.option("--rows", type=_Names(list(ROWS)), help="Default: all.")
@click.option(
    "--rounds", type=click.IntRange(1, 50), default=5, show_default=True, help="Interleaved rounds."
)
@click.option(
    "--seconds", type=click.FloatRange(1, 60), default=4.0, show_default=True, help="For one sample."
)
@click.option(
    "--idle",
    type=click.IntRange(10, 4000),
    default=2000,
    show_default=True,
    help="Connections of the memory rows.",
)
@click.option(
    "--rate",
    type=click.FloatRange(1, 1e6),
    help="Requests per second of the row `latency`; default: "
    "half of what the slowest of nginx and Shadowcat carries.",
)
@click.option("--json", "json_path", type=click.Path(dir_okay=False), help="Write everything here, too.")
@click.option("--list", "listing", is_flag=True, help="Show the rows and targets, and do nothing.")
def main(
    targets: list[str] | None,
    rows: list[str] | None,
    rounds: int,
    seconds: float,
    idle: int,
    rate: float | None,
    json_path: str | None,
    listing: bool,
) -> None:
    """Compare proxies side by side on this machine: CPU per call, latency, memory.

    Exit code: 0 when every sample is clean (met bars or not), 1 when calls failed, 2 when it could not run.
    """
    console = Console(stderr=True)
    # An end by signal must end what was started, too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    # The memory rows hold thousands of connections, here and in the proxies, which inherit the limit.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    installed = [name for name, target in TARGETS.items() if target.program() is not None]
    if listing:
        for row in ROWS.values():
            click.echo(f"row     {row.name:13} {row.what}")
        for name in (DIRECT, *TARGETS):
            click.echo(f"target  {name:13} {'' if name == DIRECT or name in installed else 'not installed'}")
        return
    chosen = targets or [DIRECT, *installed]
    missing = [name for name in chosen if name != DIRECT and name not in installed]
    if missing:
        raise click.UsageError(
            f"not installed: {', '.join(missing)}. bench/rig/setup installs what can be had"
        )
    pins = pinning()
    samples: dict[str, dict[str, list[measure.Sample]]] = {}
    try:
        rate_of_latency = rate or 0.0
        if rate is None and (rows is None or "latency" in rows):
            rate_of_latency = _half_of_saturation(chosen, pins, console)
        settings = Settings(seconds, idle, pins, lambda: rate_of_latency)
        plan = [ROWS[name] for name in rows or ROWS]
        for number in range(rounds):
            # Each round begins with another target, so that none always follows the same one.
            order = chosen[number % len(chosen) :] + chosen[: number % len(chosen)]
            for row in plan:
                _round(row, order, settings, samples, f"round {number + 1}/{rounds}", console)
    except RigError as error:
        console.print(f"cannot go on: {error}", style="red", markup=False)
        raise SystemExit(2) from None
    ordered = {
        row.name: {name: samples[row.name][name] for name in chosen if name in samples[row.name]}
        for row in plan
    }
    facts = environment(chosen, pins)
    facts |= {"rounds": rounds, "seconds": seconds, "connections": measure.CONNECTIONS}
    out = Console(width=None if sys.stdout.isatty() else 120)
    versions = facts["versions"].items()
    lines = [f"{key}: {value}" for key, value in facts.items() if key != "versions"]
    lines += [f"{name}: {version}" for name, version in versions]
    out.print("\n".join(lines), markup=False, highlight=False)
    report.show(ordered, out)
    if json_path is not None:
        data = {"environment": facts, "bars": report.bars(ordered), "samples": ordered}
        Path(json_path).write_text(json.dumps(data, indent=1) + "\n")
    failed = any(s["errors"] for by_target in ordered.values() for kept in by_target.values() for s in kept)
    raise SystemExit(1 if failed else 0)


def _round(
    row: Row,
    order: list[str],
    settings: Settings,
    samples: dict[str, dict[str, list[measure.Sample]]],
    label: str,
    console: Console,
) -> None:
    """One sample of one row from each target."""
    kept = samples.setdefault(row.name, {})
    for name in order:
        if not row.only(name) or (name == DIRECT and not row.direct) or (name == FULL and not row.has_tokens):
            continue
        sample = _sample(row, name, settings)
        kept.setdefault(name, []).append(sample)
        value = f"{row.figure} {sample[row.figure]:.2f}"
        if sample["errors"]:
            value = f"failed: {sample['errors']} errors"
        console.print(f"{label}  {row.name:12} {name:13} {value}", highlight=False, markup=False)


def _sample(row: Row, name: str, settings: Settings) -> measure.Sample:
    """A fresh upstream and a fresh proxy for each sample: none inherits another's memory or connections."""
    pins = settings.pinning
    try:
        with upstream(row.source, settings) as origin:
            if name == DIRECT:
                return row.run(origin, settings) | {"start_ms": origin.start_seconds * 1e3}
            cpus = pins.proxy if row.pinned else pins.proxy | pins.load
            with proxy(TARGETS[name], origin.port, row.workers, cpus) as server:
                if row.source == "json":
                    measure.probe(server.port, requests.modern(server.port, token=requests.token(0)))
                return row.run(server, settings) | {"start_ms": server.start_seconds * 1e3}
    except (RigError, OSError) as error:
        raise RigError(f"row {row.name}, target {name}: {error}") from None


def _half_of_saturation(chosen: list[str], pins: Pinning, console: Console) -> float:
    """Half of what the slowest contender carries, the same rate for all: each is compared at equal work."""
    contenders = [name for name in chosen if name == "shadowcat" or is_nginx(name)]
    contenders = contenders or [name for name in chosen if name != DIRECT] or chosen
    settings = Settings(_CALIBRATION, 0, pins, lambda: 0.0)
    samples = {name: _sample(ROWS["one-head"], name, settings) for name in contenders}
    failed = [name for name, sample in samples.items() if sample["errors"]]
    if failed:
        raise RigError(f"no rate for the row latency: calls through {', '.join(failed)} fail")
    carried = {name: float(sample["per_second"]) for name, sample in samples.items()}
    rate = min(carried.values()) / 2
    shown = ", ".join(f"{name} {value:,.0f}/s" for name, value in carried.items())
    console.print(f"saturation: {shown}; row latency runs at {rate:,.0f}/s", highlight=False)
    return rate


def environment(chosen: list[str], pins: Pinning) -> dict[str, Any]:
    """What the figures depend on."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    wrk = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False)
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "kernel": platform.release(),
        "cpu": f"{os.cpu_count()} x {model}",
        "pinning": pins.policy,
        "load average at the end": ", ".join(f"{value:.2f}" for value in os.getloadavg()),
        "versions": {name: TARGETS[name].version_text() for name in chosen if name != DIRECT}
        | {
            "python": platform.python_version(),
            "uvloop": importlib.metadata.version("uvloop"),
            "httptools": importlib.metadata.version("httptools"),
            "msgspec": importlib.metadata.version("msgspec"),
            "wrk": (wrk.stdout + wrk.stderr).splitlines()[0],
        },
    }


def _commit() -> str:
    here = Path(__file__).parent
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"],
        cwd=here,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
