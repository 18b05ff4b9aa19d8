"""Runs the suite directly and through Shadowcat, prints the difference, exits 0 if the proxy lost nothing."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .difference import Change, Check, Outcome, Results, compare, count
from .processes import StartError, announced
from .suite import LEGS, Leg, SuiteError, prepare

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "conformance"
WORKERS = 2
LOST, BROKEN = 1, 2
_SESSIONS_CREATED = re.compile(r'shadowcat_sessions_created_total\{.*upstream="([^"]+)".*\} (\d+)')


class Proxy(NamedTuple):
    """A running Shadowcat."""

    url: str  # to use instead of the upstreams' URLs
    metrics: str
    token: str

    def sessions(self) -> dict[str, int]:
        """Return how many sessions each upstream has been given so far."""
        request = urllib.request.Request(self.metrics, headers={"Authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(request, timeout=10) as response:
            return sessions_in(response.read().decode())


def sessions_in(page: str) -> dict[str, int]:
    """Return how many sessions each upstream has been given, from a metrics page."""
    return {upstream: int(count) for upstream, count in _SESSIONS_CREATED.findall(page)}


@contextlib.contextmanager
def conformance_server(log: Path) -> Iterator[str]:
    """Run the conformance server and yield its URL."""
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    command = [sys.executable, "-m", "conformance.server"]
    with announced(command, log, environ) as ready:
        yield str(ready["url"])


@contextlib.contextmanager
def shadowcat(upstreams: Sequence[str], results: Path) -> Iterator[Proxy]:
    """Run Shadowcat in front of these upstreams."""
    # A SHADOWCAT_ variable of the caller would be configuration (it outranks the defaults).
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SHADOWCAT_")}
    command = [str(Path(sys.executable).with_name("shadowcat-supervisor")), "--workers", str(WORKERS)]
    command += ["--bind", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    for number, url in enumerate(upstreams):
        command += ["--upstream", f"upstream-{number}={url}"]
    with announced(command, results / "shadowcat", environ) as ready:
        token = Path(ready["admin_token_file"]).read_text().strip()
        yield Proxy(f"http://{ready['listen'][0]}/mcp", f"http://{ready['admin']}/metrics", token)


def summary(leg: Leg, way: str, results: Results) -> str:
    """Return one line on one run."""
    passed, failed, warned = (count(results, status) for status in ("SUCCESS", "FAILURE", "WARNING"))
    return f"{leg.revision}  {way:<8} {passed:4} passed {failed:4} failed {warned:4} warnings"


def name(check: Check) -> str:
    """Return how a check is called in the report."""
    return f"{check.scenario} / {check.id} ({check.name})"


def describe(change: Change) -> str:
    """Return one line on one difference, and one more with what the suite says of it."""

    def status(outcome: Outcome | None) -> str:
        return outcome.status if outcome is not None else "not reported"

    verdict = "LOST" if change.lost else "differs"
    line = f"  {verdict}: {name(change.check)}: {status(change.direct)} -> {status(change.proxied)}"
    message = change.proxied.message if change.proxied is not None else ""
    return f"{line}\n      {message}" if message else line


def spread(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """Return how many sessions each upstream was given between two readings."""
    return {upstream: count - before.get(upstream, 0) for upstream, count in after.items()}


def run(legs: Sequence[Leg], results: Path, *, direct_only: bool, upstreams: int) -> int:
    """Run these legs and print what came of them.

    Args:
        legs: Which.
        results: Where the suite's files and the logs go.
        direct_only: Leave the proxy out.
        upstreams: How many conformance servers stand behind the proxy; the direct run uses the first.

    Returns:
        The exit status: 0, or `LOST` if the proxy lost a check or our own server does not pass them all.
    """
    suite = prepare(CACHE)
    results.mkdir(parents=True, exist_ok=True)
    status = 0
    with contextlib.ExitStack() as running:
        servers = [
            running.enter_context(conformance_server(results / f"server-{number}"))
            for number in range(upstreams)
        ]
        proxy = None if direct_only else running.enter_context(shadowcat(servers, results))
        for leg in legs:
            direct = suite.run(leg, servers[0], results / f"{leg.revision}-direct")
            print(summary(leg, "direct", direct), flush=True)
            failures = [check for check, outcome in direct.items() if outcome.status == "FAILURE"]
            if failures or count(direct, "SUCCESS") < leg.checks:
                print(f"  the conformance server itself must pass {leg.checks} checks and fail none")
                for check in failures:
                    print(f"  FAILED: {name(check)}\n      {direct[check].message}")
                status = LOST
            if proxy is None:
                continue
            before = proxy.sessions() if upstreams > 1 else {}
            proxied = suite.run(leg, proxy.url, results / f"{leg.revision}-proxied")
            print(summary(leg, "proxied", proxied), flush=True)
            if upstreams > 1:
                sessions = spread(before, proxy.sessions())
                print("  sessions by upstream:", *sorted(sessions.values()), flush=True)
                # Without sessions on each of them the run says nothing about keeping them apart.
                if leg.sessions and not all(sessions.get(f"upstream-{n}") for n in range(upstreams)):
                    print("  not every upstream was given sessions")
                    status = LOST
            changes = compare(direct, proxied)
            print(*map(describe, changes) if changes else ["  no difference"], sep="\n", flush=True)
            if any(change.lost for change in changes):
                status = LOST
    return status


def main() -> int:
    """Read the command line and run."""
    by_revision = {leg.revision: leg for leg in LEGS}
    parser = argparse.ArgumentParser(prog="scripts/conformance", description=__doc__)
    parser.add_argument(
        "--leg", action="append", choices=by_revision, help="run only this revision (repeatable)"
    )
    parser.add_argument(
        "--direct", action="store_true", help="check the conformance server only, without the proxy"
    )
    parser.add_argument(
        "--upstreams",
        type=int,
        choices=range(1, 9),
        default=1,
        metavar="N",
        help="how many servers stand behind the proxy; with more than one, only revisions with sessions run "
        "unless --leg names others (default: 1)",
    )
    parser.add_argument(
        "--output", type=Path, default=CACHE / "results", help="where the suite's files and the logs go"
    )
    arguments = parser.parse_args()
    legs = [by_revision[revision] for revision in arguments.leg or by_revision]
    if arguments.upstreams > 1 and not arguments.leg:
        # A server announces changes to its own subscribers: a stateless revision loses that by design.
        legs = [leg for leg in legs if leg.sessions]
    try:
        return run(legs, arguments.output, direct_only=arguments.direct, upstreams=arguments.upstreams)
    except (SuiteError, StartError) as error:
        print(f"conformance: {error}", file=sys.stderr)
        return BROKEN


if __name__ == "__main__":
    sys.exit(main())
