"""Signals, drain and end of the real processes, seen from outside."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.e2e.harness import PATIENCE, SLACK, EchoUpstream, Shadowcat, eventually, post
from tests.e2e.load import BODY, Load, call


@pytest.fixture
def upstream():
    with EchoUpstream() as echo:
        yield echo


def test_stop_under_load_loses_no_request():
    with EchoUpstream(delay=0.02) as upstream, Shadowcat(upstream.config) as cat:
        with Load(cat, threads=16) as load:
            eventually(lambda: load.outcomes["answered"] > 100)
            cat.signal(signal.SIGTERM)
            assert cat.wait() == 0
            # A client that has just had its answer is to be refused, too, before it is told to end.
            eventually(lambda: gone(load) == 16, 2 * PATIENCE, "the refusal of all clients")
        assert set(load.outcomes) <= {"answered", "refused", "no handshake"}, load.outcomes


def gone(load: Load) -> int:
    """How many clients found nobody there."""
    return load.outcomes["refused"] + load.outcomes["no handshake"]


def test_open_request_is_finished_and_new_connections_are_refused():
    with EchoUpstream(delay=1.0 + SLACK) as upstream, Shadowcat(upstream.config) as cat:
        answers = []
        thread = threading.Thread(target=lambda: answers.append(post(cat.address, "/mcp", BODY)))
        thread.start()
        eventually(lambda: upstream.requests == 1)
        cat.signal(signal.SIGTERM)
        eventually(lambda: cat.admin("/readyz")[0] == 503, what="the drain")
        eventually(lambda: refused(cat), what="refusal")
        assert not answers
        thread.join()
        assert answers == [(200, BODY)]
        assert cat.wait() == 0


def refused(cat: Shadowcat) -> bool:
    try:
        socket.create_connection(cat.address, timeout=0.2).close()
    except ConnectionRefusedError:
        return True
    except TimeoutError:
        pass
    return False


def test_drain_timeout_cuts_off():
    with EchoUpstream(delay=30) as upstream, Shadowcat(upstream.config | {"drain_timeout": "500ms"}) as cat:
        with open_request(cat, upstream) as client:
            cat.signal(signal.SIGTERM)
            assert cat.wait(0.5 + SLACK) == 0
            assert ended(client)
        assert "cut off" in cat.stderr


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_asked_twice_it_stops_at_once(second):
    with (
        EchoUpstream(delay=30) as upstream,
        Shadowcat(upstream.config) as cat,
        open_request(cat, upstream),
    ):
        children = cat.children()
        cat.signal(signal.SIGTERM)
        eventually(lambda: "once more stops at once" in cat.stderr)
        assert psutil.pid_exists(cat.pid)
        eventually(lambda: ended_by(cat, second), timeout=SLACK)
        assert not any(child.is_running() for child in children.values())


def ended_by(cat: Shadowcat, number: signal.Signals) -> bool:
    """Ask once more; what comes right after the first time is taken for the same request."""
    cat.signal(number)
    try:
        return cat.wait(0.1) == 0
    except subprocess.TimeoutExpired:
        return False


def test_one_request_delivered_twice_is_one_request():
    # The two come one right after the other, except from a test that stood still in between.
    timing = {"repeat_after": 0.3 + SLACK}
    with EchoUpstream(delay=1.0) as upstream, Shadowcat(upstream.config, timing=timing) as cat:
        with open_request(cat, upstream) as client:
            cat.signal(signal.SIGTERM)
            cat.signal(signal.SIGTERM)
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert cat.wait() == 0


def test_sigquit_stops_at_once():
    with (
        EchoUpstream(delay=30) as upstream,
        Shadowcat(upstream.config) as cat,
        open_request(cat, upstream),
    ):
        cat.signal(signal.SIGQUIT)
        assert cat.wait(SLACK) == 0


def open_request(cat: Shadowcat, upstream: EchoUpstream) -> socket.socket:
    """A client whose request has reached the upstream."""
    client = socket.create_connection(cat.address, timeout=10)
    head = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(BODY)
    client.sendall(head + BODY)
    eventually(lambda: upstream.requests == 1)
    return client


def ended(client: socket.socket) -> bool:
    try:
        return client.recv(100) == b""
    except ConnectionResetError:
        return True


def test_sighup_and_sigusr1_disturb_nothing(upstream):
    with Shadowcat(upstream.config) as cat:
        children = {name: child.pid for name, child in cat.children().items()}
        cat.signal(signal.SIGUSR1)
        cat.signal(signal.SIGHUP)
        eventually(lambda: "configuration 2: changed nothing" in cat.stderr)
        assert call(cat)
        assert {name: child.pid for name, child in cat.children().items()} == children


def test_a_worker_told_to_end_hands_its_slot_on(upstream):
    with Shadowcat(upstream.config) as cat, Load(cat) as load:
        eventually(lambda: load.outcomes["answered"] > 50)
        old = cat.children()["worker 1"]
        old.terminate()
        eventually(lambda: not old.is_running(), what="end of the old worker")
        eventually(lambda: cat.status()["workers"][1]["served_by"] == 1, what="replacement")
        before = load.outcomes["answered"]
        eventually(lambda: load.outcomes["answered"] > before + 50)
        assert set(load.outcomes) == {"answered"}


def test_service_manager_is_told(upstream, tmp_path: Path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE)
        # Every 0.6 s: the kernel keeps eleven for a reader that is late (net.unix.max_dgram_qlen).
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1200000"}
        with ExitStack() as stack:
            cat = Shadowcat(upstream.config, environ=environ)
            stack.push(cat)
            cat.launch()
            # Read while it starts, which may take longer than that.
            expect(manager, b"READY=1")
            cat.wait_ready()
            assert manager.recv(1000) == b"WATCHDOG=1"
            cat.signal(signal.SIGHUP)
            assert expect(manager, b"RELOADING=1").startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            expect(manager, b"READY=1")
            cat.signal(signal.SIGTERM)
            expect(manager, b"STOPPING=1")
            assert cat.wait() == 0


def expect(manager: socket.socket, start: bytes) -> bytes:
    while True:
        message = manager.recv(1000)
        if message.startswith(start):
            return message
        assert message == b"WATCHDOG=1"
