"""One measurement of each kind: a fresh proxy is given work, and its cost is read before and after."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.rig import client, requests
from bench.rig.processes import RigError, Running
from shadowcat.mcp.eras import Era
from shadowcat.testing.load.plan import Broken, Plan, Report, Result

CONNECTIONS = 64
WARMUP = 1.0
WARM_PASSES = 8
"""How often each head is sent before the measured run: what a proxy remembers of heads must have settled."""
WARMUP_LIMIT = 60.0
SCRIPT = Path(__file__).parent / "wrk.lua"

Sample = dict[str, Any]


def probe(port: int, call: str) -> int:
    """Make sure that a call gets through, twice on one connection; returns the size of its answer."""
    with client.connect(port) as connection:
        for _ in range(2):
            answer = client.exchange(connection, requests.filled(call))
            if answer.status != 200 or b"application/json" not in answer.head:
                raise RigError(f"port {port}: expected a JSON answer, got {answer}")
            message = json.loads(answer.body)
            if message.get("jsonrpc") != "2.0" or "result" not in message:
                raise RigError(f"port {port}: expected a JSON-RPC result, got {answer.body!r}")
    return answer.size


def open_sessions(port: int, count: int, *, tokens: bool, named: bool = True) -> list[str]:
    """Open `count` sessions through the proxy, many at a time; returns one call for each.

    Args:
        port: The proxy's.
        count: How many.
        tokens: Whether each session's requests carry a bearer token of their own.
        named: Whether the upstream issues session ids; otherwise it must be seen not to.

    Raises:
        RigError: A handshake failed, or two sessions have the same id.
    """
    credentials = [requests.token(number) if tokens else "" for number in range(count)]
    sessions: list[str] = []
    with contextlib.ExitStack() as stack:
        lanes = [stack.enter_context(client.connect(port)) for _ in range(min(count, CONNECTIONS))]
        for first in range(0, count, len(lanes)):
            batch = credentials[first : first + len(lanes)]
            opened = client.exchange_all(
                lanes[: len(batch)], [requests.initialize(port, token) for token in batch]
            )
            for answer in opened:
                if answer.status != 200 or (answer.session is not None) != named:
                    raise RigError(f"port {port}: initialize got {answer}")
            ids = [answer.session or "" for answer in opened]
            notes = [
                requests.initialized(port, session, token) for session, token in zip(ids, batch, strict=True)
            ]
            for answer in client.exchange_all(lanes[: len(batch)], notes):
                if answer.status != 202:
                    raise RigError(f"port {port}: notifications/initialized got {answer}")
            sessions += ids
    if named and len(set(sessions)) != count:
        raise RigError(f"port {port}: {count} sessions got only {len(set(sessions))} ids")
    return [
        requests.legacy(port, session, token) for session, token in zip(sessions, credentials, strict=True)
    ]


def closed_loop(server: Running, calls: Sequence[str], seconds: float, cpus: frozenset[int]) -> Sample:
    """As many calls as 64 connections carry, from wrk; CPU of the server's process tree per call."""
    size = probe(server.port, calls[0])
    with tempfile.NamedTemporaryFile(prefix="rig-") as file:
        file.write(requests.blocks(calls))
        file.flush()
        sent = failed = 0
        deadline = time.monotonic() + WARMUP_LIMIT
        while sent < WARM_PASSES * len(calls):
            if time.monotonic() > deadline:
                raise RigError(f"only {sent} calls in {WARMUP_LIMIT:g} s of warm-up")
            warm = _wrk(server.port, file.name, WARMUP, cpus, sent)
            failed += failures(warm, size)
            sent += warm["requests"]
        server.check()
        before = server.cpu()
        counted = _wrk(server.port, file.name, seconds, cpus, sent)
        spent = server.cpu() - before
    memory = server.memory()
    return {
        "requests": counted["requests"],
        "cpu_us": spent / counted["requests"] * 1e6,
        "per_second": counted["requests"] / counted["microseconds"] * 1e6,
        "p50_ms": counted["p50"] / 1e3,
        "p99_ms": counted["p99"] / 1e3,
        "rss_mib": memory.rss / 2**20,
        "own_mib": memory.own / 2**20,
        "errors": failed + failures(counted, size),
    }


def failures(counted: Mapping[str, int], size: int) -> int:
    """How many calls of a run of wrk went wrong, if all good answers have `size` bytes.

    wrk counts a status from 400 up, and takes the others for good. To look at each answer in Lua would cost
    the generator much of its rate. So the bytes of all answers are compared with those of as many answers
    like the one that `probe` has checked. What is half read at the end makes a small difference.
    """
    wrong = sum(counted[kind] for kind in ("connect", "read", "write", "status", "timeout"))
    odd = abs(counted["bytes"] - counted["requests"] * size) > CONNECTIONS * size
    return counted["requests"] if odd and not wrong else wrong


def open_loop(server: Running, rate: float, seconds: float, cpus: frozenset[int]) -> Sample:
    """Calls at a fixed rate; latency from the time each was due."""
    plan = Plan(
        host="127.0.0.1",
        port=server.port,
        authority=f"127.0.0.1:{server.port}",
        path="/mcp",
        era=Era.MODERN,
        rate=rate,
        duration=seconds,
        warmup=WARMUP,
        connections=CONNECTIONS,
        arguments={"text": "lazy dog"},
        # The upstream answers every call with the same bytes.
        check_ids=False,
    )
    command = [sys.executable, "-m", "shadowcat.testing.load"]
    before = server.cpu()
    done = subprocess.run(
        command, input=msgspec.json.encode(plan), stdout=subprocess.PIPE, check=False, preexec_fn=_on(cpus)
    )
    spent = server.cpu() - before
    last = done.stdout.splitlines()[-1] if done.stdout else b""
    report = msgspec.json.decode(last, type=Report) if last else Broken("the generator said nothing")
    if not isinstance(report, Result):
        raise RigError(f"open loop: {report}")
    latency, total = report.latency, rate * (WARMUP + seconds)
    return {
        "rate": rate,
        "p50_ms": latency.p50,
        "p90_ms": latency.p90,
        "p99_ms": latency.p99,
        "p999_ms": latency.p999,
        "service_p99_ms": report.service.p99,
        "lateness_p99_ms": report.lateness.p99,
        "cpu_us": spent / total * 1e6,
        "errors": report.due - report.answered,
    }


def stream_events(server: Running, streams: int, seconds: float, cpus: frozenset[int]) -> Sample:
    """Events over open streams; CPU of the server's process tree per event."""
    with _sink(server.port, streams, cpus) as mark:
        deadline = time.monotonic() + 10
        while mark()["open"] < streams:
            if time.monotonic() > deadline:
                raise RigError(f"fewer than {streams} streams could be opened")
            time.sleep(0.05)
        time.sleep(WARMUP)
        mark()
        before, begin = server.cpu(), time.monotonic()
        time.sleep(seconds)
        spent, elapsed = server.cpu() - before, time.monotonic() - begin
        counted = mark()
    if not counted["events"]:
        raise RigError("no event arrived")
    return {
        "events": counted["events"],
        "cpu_us": spent / counted["events"] * 1e6,
        "per_second": counted["events"] / elapsed,
        "p50_ms": counted["p50"] / 1e6,
        "p99_ms": counted["p99"] / 1e6,
        "errors": streams - counted["open"],
    }


def connection_memory(server: Running, count: int, *, streams: bool) -> Sample:
    """User memory that `count` idle connections, or quiet streams, add to the process tree.

    Nothing is opened and closed beforehand: freed memory that is used again would hide the cost.
    """
    request = requests.filled(requests.modern(server.port))
    before = server.memory()
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            connection = stack.enter_context(client.connect(server.port))
            if streams:
                client.open_stream(connection, request)
            elif (answer := client.exchange(connection, request)).status != 200:
                raise RigError(f"port {server.port}: a call got {answer}")
        time.sleep(0.5)
        after = server.memory()
    return {
        "connections": count,
        "kib": (after.anonymous - before.anonymous) / count / 1024,
        "base_rss_mib": before.rss / 2**20,
        "base_own_mib": before.own / 2**20,
        "errors": 0,
    }


def _wrk(port: int, heads: str, seconds: float, cpus: frozenset[int], sent: int) -> dict[str, int]:
    """One run; it goes on with the head after the `sent`th, and repeats no JSON-RPC id."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s", "--timeout", "10s"]
    command += ["-s", str(SCRIPT), f"http://127.0.0.1:{port}/mcp", "--", heads, str(sent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=_on(cpus))
    _, found, line = done.stdout.rpartition("@@")
    if not found:
        raise RigError(f"wrk failed: {done.stdout}{done.stderr}")
    counted: dict[str, int] = json.loads(line)
    if not counted["requests"]:
        raise RigError("wrk got not a single answer")
    return counted


@contextlib.contextmanager
def _sink(port: int, streams: int, cpus: frozenset[int]) -> Iterator[Any]:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.rig.streams", "sink", str(port), str(streams)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        preexec_fn=_on(cpus),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    source, answers = process.stdin, process.stdout

    def mark() -> dict[str, int]:
        source.write("\n")
        line = answers.readline()
        if not line:
            raise RigError("the reader of the streams has died")
        counted: dict[str, int] = json.loads(line)
        return counted

    try:
        yield mark
    finally:
        process.kill()
        process.wait()
        source.close()
        answers.close()


def _on(cpus: frozenset[int]) -> Any:
    return lambda: os.sched_setaffinity(0, cpus)
