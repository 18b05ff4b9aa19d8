"""What slow clients cost honest ones: the latency of an open-loop load beside 1,000 of each kind, and alone.

    python -m bench.slow [--rate 300] [--seconds 4] [--rounds 5] [--clients 1000] [--workers 1] [--deadline 8]

They come one after the other, and each that is shown out is replaced by another one, so that there are as
many all the time. Rounds are interleaved; the table has the median of the rounds' 99th percentiles, and the
smallest and the largest.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
from contextlib import ExitStack
from typing import Any

import msgspec

from bench.proxy import running
from shadowcat.mcp.eras import Era
from shadowcat.testing.canned import CannedUpstream
from shadowcat.testing.load.plan import Broken, Plan, Progress, Result
from shadowcat.testing.slow import Kind, SlowClients

KEYS = ("head_timeout", "body_timeout", "keepalive_timeout", "write_timeout")


def load(address: tuple[str, int], rate: float, seconds: float) -> Result:
    """One run of honest load, in a process of its own."""
    plan = Plan(
        host=address[0],
        port=address[1],
        authority="localhost",
        path="/mcp",
        era=Era.MODERN,
        rate=rate,
        duration=seconds,
        warmup=1.0,
        connections=32,
        check_ids=False,
    )
    done = subprocess.run(
        [sys.executable, "-m", "shadowcat.testing.load"],
        input=msgspec.json.encode(plan),
        stdout=subprocess.PIPE,
        check=False,
    )
    report = msgspec.json.decode(done.stdout.splitlines()[-1], type=Progress | Result | Broken)
    if not isinstance(report, Result):
        sys.exit(f"the load could not run: {report}")
    return report


def configuration(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """With as many upstream connections as the slow ones can hold."""
    pool = {"max_connections": 4 * options.clients}
    route = {"path": "/mcp", "upstreams": [{"url": url}], "pool": pool}
    return {"workers": options.workers, "routes": [route], "http": dict.fromkeys(KEYS, options.deadline)}


def main() -> None:
    parser = argparse.ArgumentParser(description="What slow clients cost honest ones.")
    parser.add_argument("--rate", type=float, default=300.0)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--deadline",
        type=float,
        default=8.0,
        help="seconds after which a slow one is shown out, in which as many come as there are (default: "
        "%(default)s, so short that arriving and being shown out are much of the picture)",
    )
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    results: dict[str, list[Result]] = {}
    shown_out: dict[str, int] = {}
    with ExitStack() as stack:
        upstream = stack.enter_context(CannedUpstream())
        proxy = stack.enter_context(running(configuration(upstream.url, options)))
        address = proxy.host, proxy.port
        load(address, options.rate, 1.0)
        for _ in range(options.rounds):
            for kind in (None, *Kind):
                name = "quiet" if kind is None else kind.value
                with ExitStack() as crowd:
                    slow = None
                    if kind is not None:
                        slow = crowd.enter_context(
                            SlowClients(address, kind, options.clients, ramp=options.deadline, replace=True)
                        )
                        slow.wait_open(options.deadline + 30)
                    result = load(address, options.rate, options.seconds)
                    if slow is not None:
                        shown_out[name] = shown_out.get(name, 0) + len(slow.lasted)
                results.setdefault(name, []).append(result)
    quiet = statistics.median(result.latency.p99 for result in results["quiet"])
    print("beside          p50 ms  p99 ms   least    most  ÷ quiet  not ok  shown out")
    for name, runs in results.items():
        p99 = [run.latency.p99 for run in runs]
        failed = sum(run.due - run.answered for run in runs)
        print(
            f"{name:14}{statistics.median(run.latency.p50 for run in runs):8.2f}"
            f"{statistics.median(p99):8.2f}{min(p99):8.2f}{max(p99):8.2f}"
            f"{statistics.median(p99) / quiet:9.2f}{failed:8}{shown_out.get(name, 0):11}"
        )


if __name__ == "__main__":
    main()
