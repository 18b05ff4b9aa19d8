"""Start, death, hang and replacement of the real processes, seen from outside."""

from __future__ import annotations

import json
import resource
import signal
import socket
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from tests.e2e.harness import PATIENCE, SLACK, EchoUpstream, Shadowcat, eventually, post
from tests.e2e.load import BODY, Load, call

NO_UPSTREAM = {"routes": [{"path": "/mcp", "upstreams": [{"url": "http://127.0.0.1:1/mcp"}]}]}


@pytest.fixture
def upstream():
    with EchoUpstream() as echo:
        yield echo


def test_ready_line_titles_and_clean_stop(upstream):
    with Shadowcat(upstream.config | {"listen": ["127.0.0.1:0", "[::1]:0"], "workers": 3}) as cat:
        assert cat.ready["event"] == "ready"
        assert cat.ready["pid"] == cat.pid
        assert cat.ready["workers"] == 3
        assert [address.rpartition(":")[0] for address in cat.ready["listen"]] == ["127.0.0.1", "[::1]"]
        assert set(cat.children()) == {"worker 0", "worker 1", "worker 2", "control"}
        assert psutil.Process(cat.pid).cmdline()[0].strip() == "shadowcat: supervisor"
        assert call(cat)
        host, _, port = cat.ready["listen"][1].rpartition(":")
        assert post((host.strip("[]"), int(port)), "/mcp", BODY) == (200, BODY)
        assert cat.admin("/readyz")[0] == 200
        children = cat.children()
        assert cat.stop() == 0
        assert not any(child.is_running() for child in children.values())
        with pytest.raises(ConnectionRefusedError):
            call(cat)


def test_without_admin_listener(upstream):
    with Shadowcat(upstream.config | {"admin": None}) as cat:
        assert cat.ready["admin"] is None
        assert call(cat)
        assert cat.stop() == 0


def test_admin_on_a_unix_socket_that_goes_with_the_supervisor(upstream, tmp_path: Path):
    path = tmp_path / "admin.sock"
    with Shadowcat(upstream.config | {"admin": f"unix:{path}"}) as cat:
        assert cat.ready["admin"] == f"unix:{path}"
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(str(path))
            client.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        assert cat.stop() == 0
    assert not path.exists()


def test_second_instance_is_refused_with_the_address(upstream):
    with Shadowcat(upstream.config) as first:
        taken = first.ready["listen"][0]
        second = Shadowcat(upstream.config | {"listen": taken})
        second.launch()
        assert second.wait() == 1
        assert taken in second.stderr
        assert "in use" in second.stderr
        second.__exit__(None, None, None)
        assert call(first)


def test_bad_config_is_exit_status_2():
    cat = Shadowcat({"routes": [], "listen": "127.0.0.1:0"})
    cat.launch()
    assert cat.wait() == 2
    assert "routes" in cat.stderr
    cat.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("main", "cause"),
    [
        ("raise StartError('the moon is in the wrong phase')", "the moon is in the wrong phase"),
        ("os._exit(3)", "exit status 3"),
    ],
)
def test_start_failure_is_reported_once_and_stops_everything(main, cause):
    prelude = f"""
import shadowcat.worker.main
from shadowcat.errors import StartError
def run(config, shared, slot, *rest):
    {main}
shadowcat.worker.main.run = run
"""
    cat = Shadowcat(NO_UPSTREAM, prelude=prelude)
    cat.launch()
    assert cat.wait() == 1
    assert cat.stderr.count(cause) == 1
    cat.__exit__(None, None, None)


def test_never_ready_is_a_start_failure():
    prelude = """
import time
import shadowcat.worker.main
shadowcat.worker.main.run = lambda *_: time.sleep(60)
"""
    cat = Shadowcat(NO_UPSTREAM, prelude=prelude, timing={"start_timeout": 0.3})
    cat.launch()
    assert cat.wait() == 1
    assert "not ready within 0.3 s" in cat.stderr
    cat.__exit__(None, None, None)


def test_killed_worker_under_load_is_replaced_at_once(upstream):
    with Shadowcat(upstream.config) as cat:
        old = cat.children()["worker 0"]
        with Load(cat) as load:
            eventually(lambda: load.outcomes["answered"] > 50)
            old.kill()
            began = time.monotonic()
            eventually(
                lambda: (
                    cat.status()["workers"][0]["state"] == "ready"
                    and cat.status()["workers"][0]["pid"] != old.pid
                ),
                what="slot 0 is served again",
            )
            assert time.monotonic() - began < 1.0 + SLACK
            before = load.outcomes["answered"]
            eventually(lambda: load.outcomes["answered"] > before + 50)
        assert load.outcomes["refused"] == load.outcomes["no answer"] == load.outcomes["wrong answer"] == 0
        # At most what was on the dead worker's connections.
        assert load.outcomes["reset"] + load.outcomes["cut off"] <= 8
        assert load.slowest < 1.0 + SLACK
        assert cat.status()["workers"][0]["restarts"] == 1
        assert cat.admin("/readyz")[0] == 200


def test_orphaned_slot_is_adopted_and_given_back(upstream):
    with Shadowcat(upstream.config, timing={"backoff_first": 16.0, "backoff_max": 16.0}) as cat:
        first = cat.children()["worker 0"].pid
        cat.children()["worker 0"].kill()
        second = eventually(
            lambda: next((c for n, c in cat.children().items() if n == "worker 0" and c.pid != first), None),
            what="first restart",
        )
        eventually(lambda: f"worker 0 is ready (pid {second.pid})" in cat.stderr)
        second.kill()  # its replacement has to wait for 8 s at least
        eventually(lambda: cat.status()["workers"][0]["served_by"] == 1, what="adoption")
        began = time.monotonic()
        for _ in range(40):  # about half of them belong to slot 0
            assert call(cat)
        assert time.monotonic() - began < SLACK
        assert "worker 0" not in cat.children()
        assert cat.admin("/readyz")[0] == 200
        eventually(lambda: cat.status()["workers"][0]["served_by"] == 0, what="given back")
        assert all(call(cat) for _ in range(20))


def test_stopped_worker_is_stood_in_for_and_replaced(upstream):
    with Shadowcat(upstream.config, timing={"stale_after": 6.0, "abort_grace": 0.2}) as cat:
        hung = cat.children()["worker 0"]
        hung.suspend()
        eventually(lambda: cat.status()["workers"][0]["served_by"] == 1, what="adoption")
        assert all(call(cat) for _ in range(20))
        assert hung.is_running()
        eventually(lambda: not hung.is_running(), what="end of the hung worker")
        eventually(lambda: cat.status()["workers"][0]["served_by"] == 0, what="replacement")
        assert "worker 0 does not answer" in cat.stderr
        assert all(call(cat) for _ in range(20))


def test_control_may_die(upstream):
    with Shadowcat(upstream.config) as cat, Load(cat) as load:
        for _ in range(3):
            control = cat.children()["control"]
            before = load.outcomes["answered"]
            control.kill()
            eventually(lambda: load.outcomes["answered"] > before + 20)  # noqa: B023
            eventually(lambda: cat.children().get("control", control).pid != control.pid)  # noqa: B023
        eventually(lambda: "control is ready" in cat.stderr.rpartition("died")[2])
        assert cat.admin("/readyz")[0] == 200
        assert set(load.outcomes) == {"answered"}


def test_killed_supervisor_leaves_nobody(upstream):
    with Shadowcat(upstream.config) as cat:
        children = cat.children()
        assert len(children) == 3
        cat.signal(signal.SIGKILL)
        cat.wait()
        _, alive = psutil.wait_procs(children.values(), timeout=PATIENCE)
        assert not alive
        with pytest.raises(ConnectionRefusedError):
            call(cat)


def test_end_of_file_on_the_lifeline_ends_the_children_without_pdeathsig(upstream):
    prelude = """
import shadowcat.supervisor.process as process
class NoPrctl:
    def prctl(self, *_):
        return -1
process._LIBC = NoPrctl()
"""
    with Shadowcat(upstream.config, prelude=prelude) as cat:
        children = cat.children()
        cat.signal(signal.SIGKILL)
        cat.wait()
        _, alive = psutil.wait_procs(children.values(), timeout=PATIENCE)
        assert not alive


def test_workers_are_pinned_if_asked(upstream):
    with Shadowcat(upstream.config | {"cpu_affinity": True}) as cat:
        cpus = sorted(psutil.Process().cpu_affinity())
        for slot in range(2):
            assert cat.children()[f"worker {slot}"].cpu_affinity() == [cpus[slot % len(cpus)]]
        assert cat.children()["control"].cpu_affinity() == cpus


def test_as_many_clients_wait_for_a_worker_as_the_backlog_says(upstream):
    waiting: list[socket.socket] = []
    with Shadowcat(upstream.config | {"workers": 1, "backlog": 4}) as cat, ExitStack() as clients:
        worker = cat.children()["worker 0"]
        worker.suspend()
        clients.callback(worker.resume)
        # Whoever comes when the queue is full is not answered: Linux has room for one more than it is told.
        with suppress(TimeoutError):
            while len(waiting) < 50:
                client = socket.create_connection(cat.address, timeout=0.5)
                waiting.append(clients.enter_context(client))
        assert 1 <= len(waiting) <= 5


def test_json_log(upstream):
    with Shadowcat(upstream.config | {"log": {"format": "json"}}) as cat:
        assert cat.stop() == 0
        lines = [json.loads(line) for line in cat.stderr.splitlines()]
    assert {"time", "level", "process", "pid", "message"} <= set(lines[0])
    assert lines[-1]["message"] == "stopped"


@pytest.mark.parametrize(("level", "seen"), [("debug", {"debug", "info"}), ("error", set())])
def test_the_log_has_what_its_level_asks_for(upstream, level, seen):
    with Shadowcat(upstream.config | {"log": {"level": level, "format": "json"}}) as cat:
        assert cat.stop() == 0
        found = {json.loads(line)["level"] for line in cat.stderr.splitlines()}
    assert found == seen


def test_descriptor_limit_is_raised(upstream):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    prelude = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (256, {hard}))
"""
    with Shadowcat(upstream.config, prelude=prelude) as cat:
        for child in cat.children().values():
            assert resource.prlimit(child.pid, resource.RLIMIT_NOFILE) == (hard, hard)


def test_nobody_holds_a_listener_that_it_does_not_serve(upstream):
    with Shadowcat(upstream.config) as cat:
        public, admin = cat.address[1], int(cat.ready["admin"].rpartition(":")[2])
        ports = {name: listening_ports(child) for name, child in cat.children().items()}
        assert ports == {"worker 0": {public}, "worker 1": {public}, "control": {admin}}


def listening_ports(process: psutil.Process) -> set[int]:
    return {
        connection.laddr.port
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


def test_eight_workers_each_killed_once(upstream):
    with Shadowcat(upstream.config | {"workers": 8}) as cat:
        before = {name: child.pid for name, child in cat.children().items()}
        assert len(before) == 9
        for slot in range(8):
            cat.children()[f"worker {slot}"].kill()
        eventually(
            lambda: all(
                worker["state"] == "ready" and worker["pid"] != before[f"worker {worker['slot']}"]
                for worker in cat.status()["workers"]
            ),
            what="all replaced",
        )
        assert [worker["restarts"] for worker in cat.status()["workers"]] == [1] * 8
        assert all(call(cat) for _ in range(40))
        children = cat.children()
        assert cat.stop() == 0
        assert not any(child.is_running() for child in children.values())
