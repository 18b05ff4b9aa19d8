"""`shadowcat status`: the running host as tables."""

from __future__ import annotations

import http.client
import socket
import sys
import time
from typing import Any

import click
import orjson
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from shadowcat.config.addresses import Address, parse_listen

DEFAULT_ADDRESS = "127.0.0.1:9090"
_TIMEOUT = 5.0
_REFRESH = 1.0
_PIPED_WIDTH = 200
"""Columns where there is no terminal: rows that are not folded can be cut and grepped."""

Document = dict[str, Any]


@click.command()
@click.option(
    "--admin",
    "address",
    envvar="SHADOWCAT_ADMIN",
    default=DEFAULT_ADDRESS,
    show_default=True,
    show_envvar=True,
    metavar="ADDRESS",
    help="Admin listener: HOST:PORT or unix:/PATH.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the document as it is, as JSON.")
@click.option("--watch", is_flag=True, help="Refresh every second, with rates, until interrupted.")
def status(address: str, as_json: bool, watch: bool) -> None:
    """Show workers, routes and upstreams of the host that runs here."""
    if as_json and watch:
        raise click.UsageError("--json and --watch exclude each other")
    try:
        target = parse_listen(address)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--admin") from None
    # Names come from the configuration: they are text, whatever brackets they have.
    width = None if sys.stdout.isatty() else _PIPED_WIDTH
    console = Console(markup=False, emoji=False, highlight=False, width=width)
    if as_json:
        document = _fetch(target)
        click.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    elif watch:
        _watch(target, console)
    else:
        console.print(render(_fetch(target)))


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _fetch(address: Address) -> Document:
    connection = (
        http.client.HTTPConnection(address.host, address.port, timeout=_TIMEOUT)
        if address.unix_path is None
        else _UnixConnection(address.unix_path)
    )
    try:
        connection.request("GET", "/api/status")
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise click.ClickException(
                f"{address} answered {answer.status} {answer.reason}: is that Shadowcat's admin listener?"
            )
        document: Document = orjson.loads(body)
        if "workers" not in document:
            raise ValueError("no workers in it")
    except OSError as error:
        raise click.ClickException(
            f"nothing answers at {address} ({error.strerror or error}): "
            "start shadowcat-supervisor, or name its admin address with --admin or SHADOWCAT_ADMIN"
        ) from None
    except (http.client.HTTPException, ValueError, TypeError) as error:
        raise click.ClickException(
            f"{address} does not speak like Shadowcat's admin listener ({error}): is it the right address?"
        ) from None
    finally:
        connection.close()
    return document


def _watch(address: Address, console: Console) -> None:
    document = _fetch(address)
    try:
        with Live(render(document), console=console, screen=True) as live:
            while True:
                time.sleep(_REFRESH)
                try:
                    before, document = document, _fetch(address)
                except click.ClickException as error:
                    # The control process may be replaced while one watches; the next look finds the new one.
                    live.update(Group(Text(error.message, "red"), render(document)), refresh=True)
                else:
                    live.update(render(document, before), refresh=True)
    except KeyboardInterrupt:
        console.print(render(document))


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
        *_refusals(document),
    )


def _headline(document: Document) -> Text:
    state = Text("ready", "green") if document["ready"] else Text("not ready", "bold red")
    line = Text.assemble(
        ("shadowcat ", "bold"), document["version"], ", ", state, f", up {_span(document['uptime_seconds'])}"
    )
    if document.get("listen"):
        line.append(f", listening on {', '.join(document['listen'])}")
    for reason in document["reasons"]:
        line.append(f"\n  {reason}", "red")
    return line


def _processes(document: Document, before: Document | None, seconds: float) -> Table:
    table = _table("Processes", "pid", "state", "connections", "in flight", "memory", "restarts", "up")
    table.add_column("CPU %" if before else "CPU s", justify="right")
    earlier = {process["pid"]: process for process in _all_processes(before)} if before else {}
    for process in _all_processes(document):
        cpu, old = process["cpu_seconds"], earlier.get(process["pid"])
        if before:
            cpu = 100 * (cpu - old["cpu_seconds"]) / seconds if old and cpu is not None else None
        is_worker = process["process"] == "worker"
        table.add_row(
            f"worker {process['slot']}" if is_worker else process["process"],
            str(process["pid"] or "-"),
            process["state"],
            str(process.get("connections", "-")),
            str(process.get("in_flight", "-")),
            _bytes(process["rss_bytes"]),
            str(process["restarts"]),
            _span(process["uptime_seconds"]),
            "-" if cpu is None else f"{cpu:.1f}",
        )
    return table


def _all_processes(document: Document) -> list[Document]:
    return [*document["processes"], *document["workers"]]


def _routes(document: Document, before: Document | None, seconds: float) -> Table:
    requests = "requests/s" if before else "requests"
    table = _table(
        "Routes and upstreams", requests, "in flight", "mean", "statuses", "idle", "queue", "dials", "failed"
    )
    old_routes = {route["path"]: route for route in before["routes"]} if before else {}
    for route in document["routes"]:
        old_route = old_routes.get(route["path"], {})
        statuses = " ".join(f"{code}:{count}" for code, count in route["statuses"].items())
        mean = route["mean_duration_seconds"]
        table.add_row(
            route["path"],
            _count(route, old_route if before else None, seconds),
            str(route["in_flight"]),
            "-" if mean is None else f"{mean * 1000:.1f} ms",
            statuses or "-",
        )
        old_upstreams = {upstream["name"]: upstream for upstream in old_route.get("upstreams", [])}
        for upstream in route["upstreams"]:
            table.add_row(
                f"  {upstream['name']}",
                _count(upstream, old_upstreams.get(upstream["name"], {}) if before else None, seconds),
                str(upstream["pool_active"]),
                "",
                "",
                str(upstream["pool_idle"]),
                str(upstream["pool_queue"]),
                str(upstream["pool_dials"]),
                str(upstream["pool_dial_failures"]),
            )
    return table


def _count(row: Document, old: Document | None, seconds: float) -> str:
    if old is None:
        return str(row["requests"])
    return f"{(row['requests'] - old.get('requests', 0)) / seconds:.1f}"


def _refusals(document: Document) -> list[RenderableType]:
    if not document["refusals"]:
        return []
    table = _table("Refused by the proxy", "count")
    for reason, count in document["refusals"].items():
        table.add_row(reason, str(count))
    return ["", table]


def _table(title: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(title)
    for column in columns:
        table.add_column(column, justify="left" if column in ("state", "statuses") else "right")
    return table


def _bytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 2**20:.1f} MiB"


def _span(seconds: float | None) -> str:
    """A length of time in its two largest units."""
    if seconds is None:
        return "-"
    rest = int(seconds)
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, length)
        if count or parts or unit == "s":
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])
