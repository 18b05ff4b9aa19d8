from __future__ import annotations

import http.client
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shadowcat.config.model import Config, Route, Sessions, Upstream
from shadowcat.control.admin.limits import LimitsApi
from shadowcat.control.admin.server import Admin
from shadowcat.control.closer import Closer
from shadowcat.control.main import run
from shadowcat.control.present import Present
from shadowcat.control.upstreams.health import HealthChecker
from shadowcat.shm.shared import CONTROL, Shared, worker_number

from .live import TOKEN, Changes, Host, serving
from .people import SECOND

DEADLINE = 30.0
Request = Callable[..., http.client.HTTPResponse]


class Tie:
    """The child's end of a lifeline: one byte, then text, to the test that plays the supervisor."""

    def __init__(self, own: socket.socket) -> None:
        self._own = own

    def fileno(self) -> int:
        return self._own.fileno()

    def ready(self) -> None:
        self._own.send(b"R")

    def failed(self, message: str) -> None:
        self._own.send(b"F" + message.encode())


class Control:
    """A control process, and what its supervisor would know of it."""

    def __init__(self, config: Config, shared: Shared, sockets: list[socket.socket]) -> None:
        self._line, own = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._line.settimeout(DEADLINE)
        self._status: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            status = 99
            try:
                self._line.close()
                status = run(shared, sockets, Tie(own), token=TOKEN)
            finally:
                os._exit(status)
        own.close()

    def said(self) -> str:
        return self._line.recv(4096).decode()

    def let_go(self) -> None:
        self._line.close()

    def kill(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """The exit code, negative for a signal."""
        if self._status is None:
            # Without sleeping: some tests replace that.
            pidfd = os.pidfd_open(self.pid)
            try:
                assert select.select([pidfd], [], [], DEADLINE)[0], "the control process does not end"
            finally:
                os.close(pidfd)
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status

    def close(self) -> None:
        if self._status is None:
            self.kill(signal.SIGKILL)
            self.wait()
        self._line.close()


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    """What commands show to the listener."""
    monkeypatch.setenv("SHADOWCAT_ADMIN_TOKEN", TOKEN)


@pytest.fixture
def config() -> Config:
    return Config(
        workers=2,
        routes=[
            Route(
                path="/mcp",
                upstreams=[
                    Upstream(name="a", url="http://127.0.0.1:3001/mcp"),
                    Upstream(name="b", url="http://127.0.0.1:3002/mcp"),
                ],
            ),
            Route(path="/other", upstreams=[Upstream(name="a", url="http://127.0.0.1:3003/mcp")]),
        ],
        sessions=Sessions(capacity=64),
    )


@pytest.fixture
def shared(config: Config) -> Iterator[Shared]:
    areas = Shared.create(config)
    yield areas
    areas.close()


@pytest.fixture
def full_start(shared: Shared) -> None:
    """Both workers run (the test's own process stands for them) and serve their slots."""
    now = time.monotonic_ns()
    for slot in range(2):
        shared.page(worker_number(slot)).begin(os.getpid(), now)
        # Nobody beats for them later: a test that takes its time must not make them look hung.
        shared.page(worker_number(slot)).beat(now + 3600 * SECOND)
        shared.host.set_served(slot, worker_number(slot), now)
    shared.host.set_fully_started(now)


@pytest.fixture
def tcp() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def unix(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "admin"))
        listener.listen()
        yield listener


@pytest.fixture
def start(config: Config, shared: Shared) -> Iterator[Callable[..., Control]]:
    started: list[Control] = []

    def begin(*sockets: socket.socket) -> Control:
        started.append(Control(config, shared, list(sockets)))
        return started[-1]

    yield begin
    for control in started:
        control.close()


@pytest.fixture
def control(start: Callable[..., Control], tcp: socket.socket, unix: socket.socket) -> Control:
    child = start(tcp, unix)
    assert child.said() == "R"
    return child


@pytest.fixture
def host(config: Config, shared: Shared) -> Iterator[Host]:
    """The admin listener in this process; see live.py."""
    changes = Changes(config)
    table = shared.sessions_for(CONTROL)
    try:
        present, closer = Present(shared), Closer(shared, table)
        limiter, concurrency = shared.limiter_with(table.locks), shared.concurrency_with(table.locks, CONTROL)
        limits = LimitsApi(present, limiter, concurrency)
        admin = Admin(present, shared, table, closer, HealthChecker(shared), changes, limits, token=TOKEN)
        with serving(admin, changes) as running:
            yield running
    finally:
        table.close()


def connect(listener: socket.socket) -> http.client.HTTPConnection:
    address = listener.getsockname()
    if listener.family != socket.AF_UNIX:
        return http.client.HTTPConnection(address[0], address[1], timeout=DEADLINE)
    connection = http.client.HTTPConnection("localhost", timeout=DEADLINE)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(DEADLINE)
    connection.sock.connect(address)
    return connection


@pytest.fixture
def ask(tcp: socket.socket) -> Request:
    """One request on its own connection; the answer's body is in `.body`."""

    def request(
        path: str, method: str = "GET", to: socket.socket | None = None, **headers: str
    ) -> http.client.HTTPResponse:
        connection = connect(to or tcp)
        try:
            connection.request(method, path, headers={"Authorization": f"Bearer {TOKEN}"} | headers)
            answer = connection.getresponse()
            answer.body = answer.read()  # type: ignore[attr-defined]
            return answer
        finally:
            connection.close()

    return request
