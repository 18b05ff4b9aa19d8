from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from shadowcat.cli.bench import bench
from shadowcat.testing.load.plan import Plan

from .conftest import Request, Stub, json_answer, result

QUICK = ["--rate", "100", "--duration", "300ms", "--warmup", "0s", "--connections", "2", "--quiet"]


def call(*arguments: str) -> Result:
    return CliRunner().invoke(bench, list(arguments))


def test_a_good_run(stub: Stub) -> None:
    done = call(stub.url, *QUICK, "--header", "Authorization: Bearer t")
    assert done.exit_code == 0, done.output
    assert "30 of 30 requests answered well" in done.output
    assert {request.headers["authorization"] for request in stub.calls()} == {"Bearer t"}


def test_json_to_standard_output_is_nothing_but_json(stub: Stub) -> None:
    done = call(stub.url, *QUICK, "--era", "legacy", "--tool", "add", "--arguments", '{"a":1}', "--json", "-")
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.exit_code == 0
    assert found["answered"] == found["due"] == 30
    assert found["latency"]["p50"] > 0
    assert found["plan"]["era"] == "legacy"
    assert {call.message["params"]["name"] for call in stub.calls()} == {"add"}
    assert {call.message["params"]["arguments"]["a"] for call in stub.calls()} == {1}


def test_json_to_a_file_beside_the_table(stub: Stub, tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    done = call(stub.url, *QUICK, "--json", str(path))
    assert "p99.9" in done.output
    assert json.loads(path.read_bytes())["answered"] == 30


def test_failures_are_named_and_the_exit_code_tells(stub: Stub) -> None:
    async def fail(request: Request, writer: asyncio.StreamWriter) -> bytes | None:
        return json_answer(result(request), status="500 Oh")

    stub.answer = fail
    done = call(stub.url, *QUICK)
    assert done.exit_code == 1
    assert "30 x status 500" in done.output


def test_a_target_elsewhere_needs_permission() -> None:
    done = call("http://192.0.2.1/mcp", *QUICK)
    assert done.exit_code == 2
    assert "--allow-remote" in done.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["http://127.0.0.1:1/mcp", "--duration", "2h"], "--duration"),
        (["http://127.0.0.1:1/mcp", "--duration", "soon"], "duration"),
        (["http://127.0.0.1:1/mcp", "--connections", "0"], "--connections"),
        (["http://127.0.0.1:1/mcp", "--connections", "10001"], "--connections"),
        (["http://127.0.0.1:1/mcp", "--rate", "0"], "--rate"),
        (["http://127.0.0.1:1/mcp", "--arguments", "[1]"], "--arguments"),
        (["http://127.0.0.1:1/mcp", "--header", "nonsense"], "--header"),
        (["http://127.0.0.1:1/mcp", "--header", "a: b\r\nc: d"], "--header"),
        (["ftp://127.0.0.1/mcp"], "URL"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments: list[str], says: str) -> None:
    done = call(*arguments)
    assert done.exit_code == 2
    assert says in done.output


def test_nothing_listens_there() -> None:
    done = call("http://127.0.0.1:1/mcp", *QUICK)
    assert done.exit_code == 2
    assert "cannot load http://127.0.0.1:1/mcp" in done.output


@pytest.mark.parametrize("send", [os.killpg, os.kill], ids=["from the terminal", "to bench alone"])
def test_interrupted_by_the_user_it_shows_what_it_has(stub: Stub, send: Callable[[int, int], None]) -> None:
    script = "from shadowcat.cli.bench import bench; bench()"
    options = ["--rate", "100", "--duration", "60s", "--warmup", "0s", "--connections", "1", "--json", "-"]
    answered = asyncio.Event()

    async def answer(request: Request, writer: asyncio.StreamWriter) -> bytes | None:
        # On the only connection, so the generator has got the 19 answers before.
        if request.message["id"] == 20 and not answered.is_set():
            answered.set()
            send(process.pid, signal.SIGINT)
        return json_answer(result(request))

    stub.answer = answer
    command = [sys.executable, "-c", script, stub.url, *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    output, _ = process.communicate(timeout=30)
    found = json.loads(output)
    assert process.returncode == (0 if found["answered"] == found["due"] else 1)
    assert found["interrupted"]
    assert 19 <= found["answered"] < 6000


def test_an_interrupt_before_the_generator_is_ready_ends_its_run(stub: Stub) -> None:
    plan = Plan(host="127.0.0.1", port=stub.port, authority="x", path="/mcp", rate=1, duration=60)
    old = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "shadowcat.testing.load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(msgspec.json.encode(plan), timeout=30)
    last = json.loads(output.splitlines()[-1])
    assert (process.returncode, last["type"], last["interrupted"]) == (0, "result", True)
