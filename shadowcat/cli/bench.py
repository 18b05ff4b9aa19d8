"""`shadowcat bench`: open-loop MCP load against one endpoint."""

from __future__ import annotations

import ipaddress
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from rich.console import Console
from rich.live import Live
from rich.table import Table

from shadowcat.config.units import Duration
from shadowcat.config.urls import UpstreamAddress, parse_upstream
from shadowcat.mcp.eras import Era
from shadowcat.testing.load.plan import Broken, Latency, Plan, Progress, Report, Result

_MAX_DURATION: Final = 3600.0
_MAX_CONNECTIONS: Final = 10_000
_MAX_RATE: Final = 1_000_000.0
# What the mock server's tools take.
_ARGUMENTS: Final[dict[str, dict[str, Any]]] = {
    "echo": {"text": "The quick brown fox"},
    "stream": {"count": 10, "interval": 0},
}


class _Seconds(click.ParamType[float]):
    """A duration such as 10s or 2m."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return float(Duration.parse(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command()
@click.argument("url")
@click.option(
    "--era",
    type=click.Choice([era.value for era in Era]),
    default=Era.MODERN.value,
    show_default=True,
    help="modern: stateless calls; legacy: a session on each connection.",
)
@click.option(
    "--rate",
    type=click.FloatRange(0, _MAX_RATE, min_open=True),
    default=1000.0,
    show_default=True,
    help="Requests per second, sent on schedule whatever the server does.",
)
@click.option(
    "--duration", type=_Seconds(), default="10s", show_default=True, help="Measured time, at most 1h."
)
@click.option(
    "--warmup",
    type=_Seconds(),
    default="1s",
    show_default=True,
    help="Load before the measured time; not counted.",
)
@click.option(
    "--connections",
    type=click.IntRange(1, _MAX_CONNECTIONS),
    default=64,
    show_default=True,
    help="Keep-alive connections.",
)
@click.option(
    "--timeout", type=_Seconds(), default="10s", show_default=True, help="Longest wait for one answer."
)
@click.option("--tool", help="Tool to call.  [default: echo, with --sse stream]")
@click.option(
    "--arguments", help="Its arguments, as a JSON object. Default: what these two take at the mock server."
)
@click.option("--sse", is_flag=True, help="Ask for progress, and require an event stream as answer.")
@click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="NAME:VALUE",
    help="Header field to add to each request; repeatable.",
)
@click.option(
    "--no-id-check", is_flag=True, help="Accept answers with another id: for stubs with a fixed answer."
)
@click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Write the result as JSON to this file, or - for standard output.",
)
@click.option("--quiet", is_flag=True, help="No progress display.")
@click.option("--allow-remote", is_flag=True, help="Permit a target that is not on this machine.")
def bench(
    url: str,
    era: str,
    rate: float,
    duration: float,
    warmup: float,
    connections: int,
    timeout: float,
    tool: str | None,
    arguments: str | None,
    sse: bool,
    headers: tuple[str, ...],
    no_id_check: bool,
    json_path: str | None,
    quiet: bool,
    allow_remote: bool,
) -> None:
    """Load the MCP server at URL with tools/call at a fixed rate, and show how long the answers took.

    Latency counts from when a request was due, not from when it could be sent, so a server that stalls
    is charged for every request that had to wait (no coordinated omission).

    Exit code: 0 if every request got a good answer, 1 if not, 2 if the run could not start.
    """
    if not 0 < duration <= _MAX_DURATION:
        raise click.BadParameter("between 1ms and 1h, please", param_hint="--duration")
    if not 0 <= warmup <= _MAX_DURATION:
        raise click.BadParameter("1h at most", param_hint="--warmup")
    if not 0 < timeout <= _MAX_DURATION:
        raise click.BadParameter("between 1ms and 1h, please", param_hint="--timeout")
    tool = tool or ("stream" if sse else "echo")
    target = _target(url)
    plan = Plan(
        host=_host(target, allow_remote),
        port=target.port,
        authority=target.authority.decode("ascii"),
        path=target.base_path,
        server_name=target.host if target.scheme == "https" else None,
        era=Era(era),
        rate=rate,
        duration=duration,
        warmup=warmup,
        connections=connections,
        timeout=timeout,
        tool=tool,
        arguments=_arguments(arguments, tool),
        headers=[_header(text) for text in headers],
        stream=sse,
        check_ids=not no_id_check,
    )
    console = Console(stderr=True)
    result = _run(plan, console, live=not quiet and console.is_terminal)
    if isinstance(result, Broken):
        console.print(f"cannot load {url}: {result.message}", style="red", markup=False)
        raise SystemExit(2)
    if json_path is not None:
        data = msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n"
        if json_path == "-":
            sys.stdout.buffer.write(data)
        else:
            Path(json_path).write_bytes(data)
    if json_path != "-":
        _show(result, url, Console())
    raise SystemExit(0 if result.clean else 1)


def _target(url: str) -> UpstreamAddress:
    try:
        return parse_upstream(url)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="URL") from None


def _host(target: UpstreamAddress, allow_remote: bool) -> str:
    """The address to connect to. It is resolved once: what was checked is what gets the load."""
    if target.unix_path is not None:
        return target.unix_path
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise click.BadParameter(f"{target.host}: {error.strerror}", param_hint="URL") from None
    addresses = [str(entry[4][0]) for entry in found]
    if not allow_remote and not all(ipaddress.ip_address(a.partition("%")[0]).is_loopback for a in addresses):
        raise click.BadParameter(
            f"{target.host} is not on this machine ({addresses[0]}): add --allow-remote if you may load it",
            param_hint="URL",
        )
    return addresses[0]


def _arguments(text: str | None, tool: str) -> dict[str, Any]:
    if text is None:
        return _ARGUMENTS.get(tool, {})
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise click.BadParameter(f"no JSON object: {error}", param_hint="--arguments") from None


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    value = value.strip()
    if not colon or not name.strip() or not (name + value).isprintable():
        raise click.BadParameter(f"write NAME:VALUE, not {text!r}", param_hint="--header")
    return name.strip(), value


def _run(plan: Plan, console: Console, *, live: bool) -> Result | Broken:
    """Run the generator in a process of its own and follow its reports."""
    decoder = msgspec.json.Decoder(Report)
    final: Result | Broken | None = None
    with (
        _generator() as process,
        Live(console=console, auto_refresh=False, transient=True) as display,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode(plan))
        process.stdin.close()
        for line in process.stdout:
            report = decoder.decode(line)
            if not isinstance(report, Progress):
                final = report
            elif live:
                display.update(_progress(report, plan), refresh=True)
    return final or Broken(f"the generator ended with exit code {process.returncode}")


@contextmanager
def _generator() -> Iterator[subprocess.Popen[bytes]]:
    """The generator's process; while it runs, SIGINT is its signal.

    KeyboardInterrupt would be raised between reading a line and keeping it as well as anywhere else, and the
    line may be the result: the generator writes it as soon as it gets the signal itself. So SIGINT raises
    nothing here and is passed on. It waits until the handler is there and, since a blocked signal stays
    blocked through fork and exec, until the generator is ready for it.
    """
    old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    old_handler = signal.getsignal(signal.SIGINT)
    try:
        with subprocess.Popen(
            [sys.executable, "-m", "shadowcat.testing.load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            signal.signal(signal.SIGINT, lambda number, _: process.send_signal(number))
            signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)
            yield process
    finally:
        signal.signal(signal.SIGINT, old_handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)


def _progress(now: Progress, plan: Plan) -> Table:
    table = Table.grid(padding=(0, 2))
    phase = "warm-up" if now.elapsed < plan.warmup else "measuring"
    elapsed = max(now.elapsed, 0.0)
    table.add_row(
        f"[bold]{phase}[/] {elapsed:5.1f} / {plan.warmup + plan.duration:g} s",
        f"{now.answered} answered",
        f"{now.in_flight} in flight",
        f"{now.due - now.sent} waiting",
        f"[red]{now.failed} failed[/]" if now.failed else "0 failed",
        f"p50 {now.p50:.2f} ms",
        f"p99 {now.p99:.2f} ms",
    )
    return table


def _milliseconds(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _show(result: Result, url: str, console: Console) -> None:
    plan = result.plan
    title = f"{url}: {plan.tool}, {plan.era.value}, {plan.rate:g}/s over {plan.connections} connections"
    table = Table(title=title, title_justify="left")
    table.add_column("ms", no_wrap=True)
    for name in ("mean", "p50", "p90", "p99", "p99.9", "max"):
        table.add_column(name, justify="right", no_wrap=True)
    rows: list[tuple[str, Latency]] = [("latency from due time", result.latency)]
    if plan.stream:
        rows.append(("first byte from due time", result.first_byte))
    rows += [("service time from sending", result.service), ("lateness of sending", result.lateness)]
    for name, row in rows:
        table.add_row(name, *(_milliseconds(value) for value in msgspec.structs.astuple(row)))
    console.print(table)
    rate = result.answered / result.seconds if result.seconds else 0.0
    console.print(
        f"{result.answered} of {result.due} requests answered well in {result.seconds:.1f} s: {rate:.0f}/s"
    )
    if plan.stream:
        console.print(f"{result.events} events")
    failures = dict(result.problems)
    if result.unsent:
        failures["not sent: no connection was free"] = result.unsent
    if result.unanswered:
        failures["no answer in time"] = result.unanswered
    for problem, count in sorted(failures.items(), key=lambda item: -item[1]):
        console.print(f"  {count} x {problem}", style="red", markup=False)
    if result.reconnects:
        console.print(f"{result.reconnects} connections were replaced")
    if result.lateness.p99 > max(1.0, result.service.p99):
        console.print(
            "Requests were sent late: more --connections, or a lower --rate, if the server is not the cause.",
            style="yellow",
        )
