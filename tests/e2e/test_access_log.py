"""The access log of the real processes: its file, its rotation, standard output, what failing costs."""

from __future__ import annotations

import json
import selectors
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.harness import PATIENCE, EchoUpstream, Shadowcat, eventually, post
from tests.e2e.load import Load

CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo"}}'
NO_UPSTREAM = {"routes": [{"path": "/mcp", "upstreams": [{"url": "http://127.0.0.1:1/mcp"}]}]}


@pytest.fixture
def upstream():
    with EchoUpstream() as echo:
        yield echo


def lines(path: Path) -> list[dict]:
    """Those that are there as a whole: who reads while a batch is being written may see the half of one."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().rpartition("\n")[0].splitlines()]


def test_every_request_once_from_all_workers(upstream, tmp_path: Path):
    path = tmp_path / "access.log"
    config = upstream.config | {"access_log": {"path": str(path), "format": "json"}}
    with Shadowcat(config) as cat:
        for number in range(40):
            assert post(cat.address, "/mcp", CALL, **{"X-Number": str(number)})[0] == 200
        assert post(cat.address, "/nowhere", CALL)[0] == 404
        eventually(lambda: len(lines(path)) == 41)
    entries = lines(path)
    assert Counter((entry["status"], entry["name"]) for entry in entries) == {
        (200, "echo"): 40,
        (404, None): 1,
    }
    assert {entry["worker"] for entry in entries} == {0, 1}


def test_rotation_under_load_loses_no_line(upstream, tmp_path: Path):
    path = tmp_path / "access.log"
    config = upstream.config | {"access_log": {"path": str(path), "format": "json"}}
    with Shadowcat(config) as cat:
        with Load(cat) as load:
            for number in range(3):
                eventually(lambda: lines(path))
                path.rename(tmp_path / f"access.log.{number}")
                cat.signal(signal.SIGUSR1)
                eventually(path.exists)
                eventually(lambda: len(lines(path)) > 20)
        answered = load.outcomes["answered"]
        assert set(load.outcomes) == {"answered"}
        assert cat.stop() == 0
    files = [path, *tmp_path.glob("access.log.*")]
    assert len(files) == 4
    assert all(lines(file) for file in files)
    assert sum(len(lines(file)) for file in files) == answered


def test_a_rotation_while_a_worker_starts_is_not_missed(upstream, tmp_path: Path):
    path = tmp_path / "access.log"
    config = upstream.config | {"workers": 1, "access_log": {"path": str(path)}}
    # Slow after opening the log, as on a loaded machine.
    prelude = f"""
import time
from shadowcat.worker.acceptors import Acceptors
prepare = Acceptors.__init__
def slow(*arguments):
    while not Path({str(tmp_path / "go")!r}).exists():
        time.sleep(0.005)
    prepare(*arguments)
Acceptors.__init__ = slow
"""
    cat = Shadowcat(config, prelude=prelude)
    try:
        cat.launch()
        eventually(path.exists)
        path.rename(tmp_path / "old")
        cat.signal(signal.SIGUSR1)
        eventually(lambda: "opening log files anew" in cat.stderr)
        (tmp_path / "go").touch()
        cat.wait_ready()
        assert post(cat.address, "/mcp", CALL)[0] == 200
        eventually(path.exists)
        eventually(lambda: "tools/call" in path.read_text())
        assert (tmp_path / "old").read_text() == ""
    finally:
        cat.__exit__(None, None, None)


def test_standard_output(upstream):
    with Shadowcat(upstream.config | {"access_log": {"format": "json"}}) as cat:
        for _ in range(10):
            assert post(cat.address, "/mcp", CALL)[0] == 200
        stdout = cat._popen.stdout
        received = b""
        deadline = time.monotonic() + PATIENCE
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while received.count(b"\n") < 10:
                assert selector.select(deadline - time.monotonic()), received
                received += stdout.read1()
        assert {json.loads(line)["name"] for line in received.splitlines()} == {"echo"}


def test_a_reader_of_standard_output_that_stopped_reading_delays_nobody(upstream):
    with Shadowcat(upstream.config | {"workers": 1, "access_log": {}}) as cat:
        path = "/mcp/" + "a" * 1000
        began = time.monotonic()
        for _ in range(400):  # 64 KiB fit into the pipe, 256 KiB are held back
            assert post(cat.address, path, b"{")[0] == 400
        assert time.monotonic() - began < 60
        metric = b"shadowcat_access_log_dropped_total "
        eventually(
            lambda: any(
                line.startswith(metric) and float(line.removeprefix(metric)) > 0
                for line in cat.admin("/metrics")[1].splitlines()
            )
        )


def test_a_log_that_cannot_be_opened_ends_the_start(tmp_path: Path):
    path = tmp_path / "nowhere" / "access.log"
    cat = Shadowcat(NO_UPSTREAM | {"access_log": {"path": str(path)}})
    try:
        cat.launch()
        assert cat.wait() == 1
        assert f"access_log.path: {path} cannot be opened" in cat.stderr
    finally:
        cat.__exit__(None, None, None)


def test_failures_are_logged_whatever_the_sample(upstream, tmp_path: Path):
    path = tmp_path / "access.log"
    config = upstream.config | {"access_log": {"path": str(path), "format": "json", "sample": 0}}
    with Shadowcat(config) as cat:
        for _ in range(20):
            assert post(cat.address, "/mcp", CALL)[0] == 200
        assert post(cat.address, "/mcp", b"{")[0] == 400
        eventually(lambda: lines(path))
        assert cat.stop() == 0
    assert [(entry["status"], entry["refusal"]) for entry in lines(path)] == [(400, "not_json")]


def test_off_unless_asked_for(upstream):
    with Shadowcat(upstream.config) as cat:
        assert post(cat.address, "/mcp", CALL)[0] == 200
        stdout = cat._popen.stdout
        assert cat.stop() == 0
        assert stdout.read() == b""
