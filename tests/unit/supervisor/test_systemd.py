"""What the service manager is told."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from shadowcat.supervisor.systemd import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path: Path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        if request.param == "path":
            name = address = str(tmp_path / "notify")
        else:
            name, address = f"@shadowcat-test-{os.getpid()}", f"\0shadowcat-test-{os.getpid()}"
        receiver.bind(address)
        receiver.settimeout(5)
        yield name, receiver


def test_messages(manager):
    name, receiver = manager
    notifier = Notifier({"NOTIFY_SOCKET": name})
    notifier.ready("serving")
    assert receiver.recv(1000) == b"READY=1\nSTATUS=serving"
    notifier.reloading(1_234_567_890)
    assert receiver.recv(1000) == b"RELOADING=1\nMONOTONIC_USEC=1234567"
    notifier.stopping()
    assert receiver.recv(1000).startswith(b"STOPPING=1")
    notifier.close()


def test_watchdog_is_fed_at_half_the_interval_and_only_while_healthy(manager):
    name, receiver = manager
    notifier = Notifier(
        {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "10000000", "WATCHDOG_PID": str(os.getpid())}
    )
    assert notifier.watchdog_interval == 5.0
    pings = 0
    receiver.setblocking(False)
    for now in range(100, 121):
        notifier.ping(float(now), healthy=now < 111)
        try:
            assert receiver.recv(100) == b"WATCHDOG=1"
        except BlockingIOError:
            continue
        pings += 1
    assert pings == 3  # 100, 105, 110
    notifier.close()


@pytest.mark.parametrize(
    "environ",
    [{}, {"WATCHDOG_USEC": "5000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "x"}, {"NOTIFY_SOCKET": ""}],
)
def test_no_manager_no_message(environ):
    notifier = Notifier(environ)
    assert notifier.watchdog_interval is None
    notifier.ready("serving")
    notifier.ping(0.0, healthy=True)


def test_a_manager_that_has_gone_is_no_error(tmp_path: Path):
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    notifier.ready("serving")
    notifier.close()
