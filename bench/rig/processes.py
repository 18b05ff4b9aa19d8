"""Starts and stops the processes of a run, and reads what they have cost."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from bench.rig.requests import INITIALIZED
from bench.rig.targets import TARGETS, Target
from shadowcat.mcp.eras import Era
from shadowcat.testing.load.messages import NEWEST

START_DEADLINE = 20.0
STOP_DEADLINE = 10.0
_SIZE = re.compile(r"^(\w+): +([0-9]+) kB$", re.MULTILINE)


class RigError(Exception):
    """The run cannot go on; the message says why."""


@dataclass(frozen=True)
class Pinning:
    """Which CPUs what may use."""

    proxy: frozenset[int]
    load: frozenset[int]
    policy: str


def pinning() -> Pinning:
    """The proxy on a CPU of its own, all else on the others.

    Otherwise the scheduler moves the proxy about, and its caches and its share of the machine depend on
    where the generator happens to run: the spread between rounds is several times larger.
    """
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) == 1:
        both = frozenset(cpus)
        return Pinning(both, both, "one CPU: proxy, upstream and generator share it")
    load = frozenset(cpus[1:])
    text = f"proxy on CPU {cpus[0]}; upstream and generator on CPU {','.join(map(str, cpus[1:]))}"
    return Pinning(frozenset(cpus[:1]), load, text)


def free_port() -> int:
    """A port that was free just now, for programs that cannot tell which one they got."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Memory:
    """Bytes over a process tree."""

    rss: int
    """Resident memory as ps shows it, added up: pages that processes share count several times."""
    own: int
    """Anonymous and shared-memory pages, each counted once: what the processes have written themselves."""
    anonymous: int
    """Anonymous pages alone. Shared ones appear while the control process looks through the session table, in
    its own time, so what a connection takes does not show in them."""


class Running:
    """A process tree that serves `port`."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, start_seconds: float) -> None:
        self.port = port
        self.start_seconds = start_seconds
        self._process = process
        self._root = psutil.Process(process.pid)

    def _tree(self) -> list[psutil.Process]:
        return [self._root, *self._root.children(recursive=True)]

    def cpu(self) -> float:
        """User plus system seconds of all processes of the tree so far, dead children included."""
        total = 0.0
        for process in self._tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total

    def memory(self) -> Memory:
        """What the tree occupies now.

        Files are left out of `own`: their share in it would change with every other process on the machine
        that maps the same libraries.
        """
        rss = own = anonymous = 0
        for process in self._tree():
            with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
                sizes = {name: int(kib) * 1024 for name, kib in _SIZE.findall(rollup)}
                rss += sizes["Rss"]
                own += sizes["Pss_Anon"] + sizes["Pss_Shmem"]
                anonymous += sizes["Pss_Anon"]
        return Memory(rss, own, anonymous)

    def check(self) -> None:
        """Raise if it has died."""
        if self._process.poll() is not None:
            raise RigError(f"{self._process.args!r} ended with exit code {self._process.returncode}")


@contextlib.contextmanager
def running(
    command: Sequence[str], cpus: frozenset[int], port: int, *, says_ready: bool = False
) -> Iterator[Running]:
    """Start a server, wait until it serves, end it afterwards."""
    with tempfile.TemporaryFile() as errors:
        begin = time.monotonic()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if says_ready else errors,
            stderr=errors,
            preexec_fn=lambda: os.sched_setaffinity(0, cpus),
        )
        try:
            try:
                port = _ready_port(process) if says_ready else _wait_for_port(process, port)
            except RigError as error:
                errors.seek(0)
                said = errors.read()[-2000:].decode(errors="replace").strip()
                raise RigError(f"{command[0]}: {error}\n{said}") from None
            yield Running(process, port, time.monotonic() - begin)
        finally:
            _stop(process)


@contextlib.contextmanager
def proxy(target: Target, upstream: int, workers: int, cpus: frozenset[int]) -> Iterator[Running]:
    """A fresh instance of a proxy, in a directory of its own."""
    program = target.program()
    if program is None:
        raise RigError(f"{target.name} is not installed: see bench/rig/setup")
    with tempfile.TemporaryDirectory(prefix="rig-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # nginx drops its rights
        port = 0 if target.says_ready else free_port()
        config = target.write_config(directory, port, upstream, workers)
        command = target.command(program, config, workers)
        with running(command, cpus, port, says_ready=target.says_ready) as process:
            yield process


@contextlib.contextmanager
def json_upstream(cpus: frozenset[int], *, sessions: bool = True) -> Iterator[Running]:
    """The upstream that answers each call with the same JSON; `sessions`: whether legacy calls need one."""
    values = {
        "modern": NEWEST[Era.MODERN],
        "legacy": NEWEST[Era.LEGACY],
        "issued": "$request_id" if sessions else '""',
        "session": "[0-9a-f]{32}" if sessions else "",
        "notification": str(len(INITIALIZED)),
    }
    target = replace(TARGETS["nginx-lean"], name="upstream", template="upstream.conf", values=values)
    with proxy(target, 0, 1, cpus) as process:
        yield process


def stream_source(rate: float) -> list[str]:
    """The command of the upstream that answers each call with a stream; `rate` events per second in all."""
    return [sys.executable, "-m", "bench.rig.streams", "source", str(rate)]


def _wait_for_port(process: subprocess.Popen[bytes], port: int) -> int:
    deadline = time.monotonic() + START_DEADLINE
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RigError(f"ended with exit code {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return port
        time.sleep(0.005)
    raise RigError(f"did not serve within {START_DEADLINE:g} s")


def _ready_port(process: subprocess.Popen[bytes]) -> int:
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], START_DEADLINE)
    line = process.stdout.readline() if readable else b""
    if not line:
        raise RigError(f"no ready line within {START_DEADLINE:g} s")
    return int(json.loads(line)["listen"][0].rsplit(":", 1)[1])


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(STOP_DEADLINE)
    except subprocess.TimeoutExpired:
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    if process.stdout is not None:
        process.stdout.close()
