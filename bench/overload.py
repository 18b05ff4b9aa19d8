"""Overload, as its clients and its upstream see it: `python -m bench.overload`.

A server with so many slots, each busy for a fixed time with a call, sets the capacity. A steady load of half
of that runs all the time; in the middle comes a burst that makes it several times the capacity. Both are open
loops: they send on schedule, whatever the answers.

goodput     good answers per second during the burst / capacity
recovery    from the burst's end to the last call of the steady load that was not answered well (0.25 s exact)
memory      private memory of the workers at its highest, less what it was before
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, cast

import msgspec
import psutil
import uvloop

from bench.proxy import Proxy, running
from shadowcat.mcp.eras import Era
from shadowcat.testing.load.plan import Plan, Progress, Report, Result

STEADY = 0.5
"""Share of the capacity that is asked for all the time."""
BEFORE = 3.0
AFTER = 4.0
"""Seconds of steady load before and after the burst."""
SETTLE = 1.0
"""Seconds at the beginning of the burst that are not counted: its queues are still empty."""


# The server.


class _Slots:
    def __init__(self, count: int, seconds: float) -> None:
        self.free = count
        self.seconds = seconds
        self.waiting: deque[tuple[asyncio.Transport, bytes]] = deque()
        self.loop = asyncio.get_running_loop()

    def ask(self, transport: asyncio.Transport, body: bytes) -> None:
        self.waiting.append((transport, body))
        self.work()

    def work(self) -> None:
        while self.free and self.waiting:
            self.free -= 1
            self.loop.call_later(self.seconds, self.done, *self.waiting.popleft())

    def done(self, transport: asyncio.Transport, body: bytes) -> None:
        self.free += 1
        # Work for a client that has gone has cost as much as any.
        if not transport.is_closing():
            number = json.loads(body)["id"]
            result = {"content": [{"type": "text", "text": "done"}]}
            answer = json.dumps({"jsonrpc": "2.0", "id": number, "result": result}).encode()
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            transport.write(head % len(answer) + answer)
        self.work()


class _Serving(asyncio.Protocol):
    def __init__(self, slots: _Slots) -> None:
        self._slots = slots
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n") + 4) >= 4:
            length = int(self._buffer[:end].lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            if len(self._buffer) < end + length:
                return
            body, self._buffer = self._buffer[end : end + length], self._buffer[end + length :]
            self._slots.ask(self._transport, body)


async def _serve(count: int, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    slots = _Slots(count, seconds)
    server = await loop.create_server(lambda: _Serving(slots), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)  # Whose end is that of the parent.


@contextlib.contextmanager
def upstream(slots: int, seconds: float) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.overload", "--serve", f"--slots={slots}", f"--service={seconds}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/mcp"
    finally:
        process.communicate()


# The load.


class Load(threading.Thread):
    """One open loop, in a process of its own."""

    def __init__(self, port: int, rate: float, duration: float, connections: int, patience: float) -> None:
        super().__init__()
        self._plan = Plan(
            host="127.0.0.1",
            port=port,
            authority="localhost",
            path="/mcp",
            era=Era.MODERN,
            rate=rate,
            duration=duration,
            warmup=0,
            connections=connections,
            timeout=patience,
            arguments={"text": "x"},
        )
        self.reports: list[tuple[float, Progress]] = []
        self.result: Result | None = None

    def run(self) -> None:
        command = [sys.executable, "-m", "shadowcat.testing.load"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(msgspec.json.encode(self._plan))
            process.stdin.close()
            for line in process.stdout:
                report = msgspec.json.decode(line, type=Report)
                if isinstance(report, Progress):
                    self.reports.append((time.monotonic(), report))
                elif isinstance(report, Result):
                    self.result = report
                else:
                    raise SystemExit(report.message)

    def answered_by(self, when: float) -> int:
        return max((report.answered for at, report in self.reports if at <= when), default=0)


def watch(processes: list[psutil.Process], stop: threading.Event, found: list[int]) -> None:
    while not stop.wait(0.1):
        found.append(sum(process.memory_full_info().uss for process in processes))


def run(arguments: argparse.Namespace, overload: dict[str, Any]) -> dict[str, Any]:
    capacity = arguments.slots / arguments.service
    with upstream(arguments.slots, arguments.service) as url:
        route = {"upstreams": [{"url": url}], "pool": {"max_connections": 4000}}
        config = {"workers": arguments.workers, "routes": [route], "overload": overload}
        with running(config) as proxy:
            return measure(arguments, proxy, capacity)


def measure(arguments: argparse.Namespace, proxy: Proxy, capacity: float) -> dict[str, Any]:
    port, workers = proxy.port, proxy.workers
    steady = Load(port, STEADY * capacity, BEFORE + arguments.seconds + AFTER, 256, arguments.patience)
    extra = (arguments.factor - STEADY) * capacity
    burst = Load(port, extra, arguments.seconds, arguments.connections, arguments.patience)
    memory: list[int] = []
    stop = threading.Event()
    watcher = threading.Thread(target=watch, args=(workers, stop, memory))
    watcher.start()
    steady.start()
    time.sleep(BEFORE)
    quiet = max(memory)
    cpu = sum(sum(process.cpu_times()[:2]) for process in workers)
    burst.start()
    while not burst.reports:
        time.sleep(0.01)
    began = burst.reports[0][0]
    time.sleep(max(0.0, began + arguments.seconds - time.monotonic()))
    ended = time.monotonic()
    cpu = sum(sum(process.cpu_times()[:2]) for process in workers) - cpu
    steady.join()
    burst.join()
    stop.set()
    watcher.join()
    assert burst.result is not None
    assert steady.result is not None
    counted = began + SETTLE
    good = sum(load.answered_by(ended) - load.answered_by(counted) for load in (steady, burst))
    window = max(at for at, _ in burst.reports if at <= ended) - min(
        at for at, _ in burst.reports if at >= counted - 0.25
    )
    bad = [
        at for (at, report), (_, next_one) in zip(steady.reports, steady.reports[1:], strict=False)
        if next_one.failed > report.failed
    ]  # fmt: skip
    return {
        "capacity": capacity,
        "offered": burst.result.due / arguments.seconds + STEADY * capacity,
        "goodput": good / window / capacity,
        "recovery": max(0.0, max(bad, default=0.0) + 0.25 - ended),
        "memory": (max(memory) - quiet) / 2**20,
        "cpu": cpu / arguments.seconds,
        "service p50": burst.result.service.p50,
        "service p99": burst.result.service.p99,
        "late p99": burst.result.lateness.p99,
        "problems": burst.result.problems,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--slots", type=int, default=20)
    parser.add_argument("--service", type=float, default=0.04, help="seconds of a call")
    parser.add_argument("--factor", type=float, default=5.0, help="load / capacity during the burst")
    parser.add_argument("--seconds", type=float, default=6.0, help="of the burst")
    parser.add_argument("--connections", type=int, default=1500)
    parser.add_argument("--patience", type=float, default=1.0, help="seconds that a client waits")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--queue", type=int, default=200)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        uvloop.run(_serve(arguments.slots, arguments.service))
        return
    bounded = {"max_in_flight": arguments.slots, "queue": arguments.queue}
    for name, overload in (("bounded", bounded), ("unbounded", {})):
        print(f"{name}: {json.dumps(overload)}")
        for key, value in run(arguments, overload).items():
            print(f"  {key:12} {value if isinstance(value, dict) else format(value, '.2f')}")


if __name__ == "__main__":
    main()
