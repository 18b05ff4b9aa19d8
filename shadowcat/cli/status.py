"""`shadowcat status`: the running host as tables."""

from __future__ import annotations

import time
from collections.abc import Iterator

import click
import orjson
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from shadowcat.cli.admin import Document, Listener, admin_option, get
from shadowcat.cli.tables import console, span, table

_REFRESH = 1.0


@click.command()
@admin_option
@click.option("--json", "as_json", is_flag=True, help="Print the document as it is, as JSON.")
@click.option("--watch", is_flag=True, help="Refresh every second, with rates, until interrupted.")
def status(listener: Listener, as_json: bool, watch: bool) -> None:
    """Show workers, routes and upstreams of the host that runs here."""
    if as_json and watch:
        raise click.UsageError("--json and --watch exclude each other")
    if as_json:
        document = _fetch(listener)
        click.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    elif watch:
        _watch(listener, console())
    else:
        console().print(render(_fetch(listener)))


def _fetch(listener: Listener) -> Document:
    return get(listener, "/api/status", "workers")


def _watch(listener: Listener, screen: Console) -> None:
    document = _fetch(listener)
    try:
        with Live(render(document), console=screen, screen=True) as live:
            while True:
                time.sleep(_REFRESH)
                try:
                    before, document = document, _fetch(listener)
                except click.ClickException as error:
                    # The control process may be replaced while one watches; the next look finds the new one.
                    live.update(Group(Text(error.message, "red"), render(document)), refresh=True)
                else:
                    live.update(render(document, before), refresh=True)
    except KeyboardInterrupt:
        screen.print(render(document))


def render(document: Document, before: Document | None = None) -> RenderableType:
    """The document as tables.

    Args:
        document: What /api/status answered.
        before: An earlier answer of the same host: with it, totals become rates per second.
    """
    seconds = document["uptime_seconds"] - before["uptime_seconds"] if before else 0.0
    if before and (before["pid"] != document["pid"] or seconds <= 0):
        before = None
    return Group(
        _headline(document),
        "",
        _processes(document, before, seconds),
        "",
        _routes(document, before, seconds),
        "",
        _upstreams(document, before, seconds),
        *_refusals(document),
    )


def _headline(document: Document) -> Text:
    state = Text("ready", "green") if document["ready"] else Text("not ready", "bold red")
    line = Text.assemble(
        ("shadowcat ", "bold"), document["version"], ", ", state, f", up {span(document['uptime_seconds'])}"
    )
    if document.get("listen"):
        line.append(f", listening on {', '.join(document['listen'])}")
    for reason in document["reasons"]:
        line.append(f"\n  {reason}", "red")
    sessions = document["sessions"]
    line.append(
        f"\n{sessions['live']} of {sessions['capacity']} sessions; since the start "
        f"{sessions['created']} created, {sessions['ended']} ended, {sessions['recoveries']} recovered"
    )
    return line


def _processes(document: Document, before: Document | None, seconds: float) -> Table:
    shown = table("Processes", "pid", "state", "connections", "in flight", "memory", "restarts", "up")
    shown.add_column("CPU %" if before else "CPU s", justify="right")
    earlier = {process["pid"]: process for process in _all_processes(before)} if before else {}
    for process in _all_processes(document):
        cpu, old = process["cpu_seconds"], earlier.get(process["pid"])
        if before:
            cpu = 100 * (cpu - old["cpu_seconds"]) / seconds if old and cpu is not None else None
        is_worker = process["process"] == "worker"
        shown.add_row(
            f"worker {process['slot']}" if is_worker else process["process"],
            str(process["pid"] or "-"),
            process["state"],
            str(process.get("connections", "-")),
            str(process.get("in_flight", "-")),
            _bytes(process["rss_bytes"]),
            str(process["restarts"]),
            span(process["uptime_seconds"]),
            "-" if cpu is None else f"{cpu:.1f}",
        )
    return shown


def _all_processes(document: Document) -> list[Document]:
    return [*document["processes"], *document["workers"]]


def _routes(document: Document, before: Document | None, seconds: float) -> Table:
    shown = table("Routes", _requests(before), "in flight", "mean", "statuses")
    old_routes = {route["path"]: route for route in before["routes"]} if before else {}
    for route in document["routes"]:
        statuses = " ".join(f"{code}:{count}" for code, count in route["statuses"].items())
        shown.add_row(
            route["path"],
            _count(route, old_routes.get(route["path"], {}) if before else None, seconds),
            str(route["in_flight"]),
            _milliseconds(route["mean_duration_seconds"]),
            statuses or "-",
        )
    return shown


def _upstreams(document: Document, before: Document | None, seconds: float) -> Table:
    shown = table(
        "Upstreams", "state", "weight", _requests(before), "share", "latency", "active", "sessions", "idle",
        "queue", "dials", "failed",
    )  # fmt: skip
    old = {(route, upstream["name"]): upstream for route, upstream in _all_upstreams(before)}
    several = len(document["routes"]) > 1
    for route, upstream in _all_upstreams(document):
        share = upstream.get("share")
        shown.add_row(
            f"{route} {upstream['name']}" if several else upstream["name"],
            _state(upstream),
            str(upstream["weight"]),
            _count(upstream, old.get((route, upstream["name"]), {}) if before else None, seconds),
            "-" if share is None else f"{share:.0%}",
            _milliseconds(upstream["mean_response_seconds"]),
            str(upstream["pool_active"]),
            str(upstream["sessions"]),
            str(upstream["pool_idle"]),
            str(upstream["pool_queue"]),
            str(upstream["pool_dials"]),
            str(upstream["pool_dial_failures"]),
        )
    return shown


def _all_upstreams(document: Document | None) -> Iterator[tuple[str, Document]]:
    if document is None:
        return
    for route in document["routes"]:
        for upstream in route["upstreams"]:
            yield route["path"], upstream
    for upstream in document["leaving"]:
        yield upstream["route"], upstream


def _state(upstream: Document) -> str:
    """Its state, and what goes with that: for how long, or why."""
    state = str(upstream["state"])
    left = {"draining": upstream["drained_in_seconds"], "ejected": upstream["ejected_for_seconds"]}.get(state)
    if left is not None:
        return f"{state}, {span(left)}"
    if state == "down" and upstream["health"]["cause"]:
        return f"{state}: {upstream['health']['cause']}"
    return f"breaker {state.replace('_', '-')}" if state in ("open", "half_open") else state


def _requests(before: Document | None) -> str:
    return "requests/s" if before else "requests"


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f} ms"


def _count(row: Document, old: Document | None, seconds: float) -> str:
    if old is None:
        return str(row["requests"])
    return f"{(row['requests'] - old.get('requests', 0)) / seconds:.1f}"


def _refusals(document: Document) -> list[RenderableType]:
    if not document["refusals"]:
        return []
    shown = table("Refused by the proxy", "count")
    for reason, count in document["refusals"].items():
        shown.add_row(reason, str(count))
    return ["", shown]


def _bytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 2**20:.1f} MiB"
