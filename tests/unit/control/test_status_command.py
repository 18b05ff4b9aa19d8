"""`shadowcat status` against a real control process."""

from __future__ import annotations

import os
import socket
import threading
import time

import orjson
import pytest
from click.testing import CliRunner
from rich.console import Console

from shadowcat.cli.status import render, status
from shadowcat.shm.shared import worker_number
from shadowcat.testing.host import cell_of


def invoke(*arguments: str, **environ: str):
    return CliRunner().invoke(status, arguments, env={"COLUMNS": "200", **environ})


def admin(listener: socket.socket) -> str:
    name = listener.getsockname()
    return f"unix:{name}" if isinstance(name, str) else f"{name[0]}:{name[1]}"


@pytest.fixture
def traffic(shared, full_start) -> None:
    cells = shared.page(worker_number(1)).cells
    cells[cell_of(shared, "requests_total", "/mcp") + 200] = 1234
    cells[cell_of(shared, "connections")] = 56
    cells[cell_of(shared, "upstream_requests_total", "/mcp", "b")] = 789
    cells[cell_of(shared, "upstream_requests_total", "/mcp", "a")] = 263
    cells[cell_of(shared, "refusals_total", "no_route")] = 3
    cells[cell_of(shared, "sessions_created_total", "/mcp", "b")] = 4321
    cells[cell_of(shared, "sessions_ended_total", "/mcp", "b")] = 1111
    cells[cell_of(shared, "session_recoveries_total", "/other")] = 17
    shared.host.set_addresses(b'{"listen":["127.0.0.1:43121"]}')


def line(text: str, start: str) -> str:
    return next(row for row in text.splitlines() if row.strip().startswith(start))


def test_tables_over_tcp_and_unix(control, tcp, unix, traffic) -> None:
    for listener in (tcp, unix):
        result = invoke("--admin", admin(listener))
        assert result.exit_code == 0, result.output
        assert "ready" in result.output
        assert "127.0.0.1:43121" in result.output
        assert "1234" in line(result.output, "/mcp")
        assert "200:1234" in line(result.output, "/mcp")
        shown = line(result.output, "/mcp b ").split()
        assert shown[2:6] == ["up", "1", "789", "75%"]
        assert "3210" in shown
        assert "0 of 64 sessions; since the start 4321 created, 1111 ended, 17 recovered" in result.output
        assert "56" in line(result.output, "worker 1")
        assert str(os.getpid()) in line(result.output, "worker 0")
        assert str(control.pid) in line(result.output, "control")
        assert "3" in line(result.output, "no_route")


def test_the_address_from_the_environment(control, tcp) -> None:
    result = invoke(SHADOWCAT_ADMIN=admin(tcp))
    assert result.exit_code == 0
    assert "not ready" in result.output
    assert "starting: 0 of 2" in result.output


def test_json(control, tcp, traffic) -> None:
    result = invoke("--admin", admin(tcp), "--json")
    assert result.exit_code == 0
    assert orjson.loads(result.output)["routes"][0]["requests"] == 1234


def test_watching_shows_rates_and_outlives_the_control_process(
    control, tcp, traffic, shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks: list[float] = []

    def tick(seconds: float) -> None:
        ticks.append(seconds)
        if len(ticks) == 2:
            control.close()
            tcp.shutdown(socket.SHUT_RDWR)
        if len(ticks) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", tick)
    result = invoke("--admin", admin(tcp), "--watch", FORCE_COLOR="1")
    assert result.exit_code == 0, result.output
    assert len(ticks) == 3
    assert "nothing answers" in result.output
    assert "1234" in result.output


def test_rates_are_differences() -> None:
    def document(uptime: float, requests: int, cpu: float) -> dict[str, object]:
        upstream = dict.fromkeys(
            ("sessions", "pool_active", "pool_idle", "pool_queue", "pool_dials", "pool_dial_failures"), 0
        )
        return {
            "version": "1", "pid": 1, "uptime_seconds": uptime, "ready": True, "reasons": [], "refusals": {},
            "sessions": {"live": 3, "capacity": 64, "created": 5, "ended": 2, "recoveries": 1},
            "processes": [],
            "workers": [{
                "process": "worker", "slot": 0, "pid": 7, "state": "ready", "connections": 0, "in_flight": 0,
                "rss_bytes": 2**20, "restarts": 0, "uptime_seconds": 90061, "cpu_seconds": cpu,
            }],
            "routes": [{
                "path": "/mcp[bold]", "requests": requests, "in_flight": 0, "statuses": {},
                "mean_duration_seconds": 0.0015,
                "upstreams": [{
                    "name": "a", "requests": requests, "state": "half_open", "weight": 3, "share": 1.0,
                    "mean_response_seconds": 0.002, "drained_in_seconds": None, "ejected_for_seconds": None,
                    "health": None, **upstream,
                }],
            }],
            "leaving": [],
        }  # fmt: skip

    console = Console(width=200, markup=False)
    with console.capture() as capture:
        console.print(render(document(12.0, 600, 3.0), document(10.0, 100, 2.0)))
    text = capture.get()
    assert "250.0" in line(text, "/mcp[bold]")
    for shown in ("250.0", "breaker half-open", "100%", "2.0 ms"):
        assert shown in line(text, "a ")
    assert "1.5 ms" in line(text, "/mcp[bold]")
    assert "50.0" in line(text, "worker 0")
    assert "1d 1h" in line(text, "worker 0")


def test_nothing_there() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        result = invoke("--admin", admin(unused))
    assert result.exit_code == 1
    assert f"nothing answers at {admin_text(result.output)}" in result.output
    assert "Connection refused" in result.output
    assert "--admin" in result.output
    result = invoke("--admin", "unix:/nonexistent/socket")
    assert result.exit_code == 1
    assert "No such file" in result.output


def admin_text(output: str) -> str:
    return output.partition("nothing answers at ")[2].partition(" ")[0]


@pytest.mark.parametrize(
    "answer",
    [
        b"220 mail.example ESMTP\r\n",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n17",
        b"",
    ],
)
def test_something_else_there(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        server = threading.Thread(target=serve)
        server.start()
        result = invoke("--admin", admin(listener))
        server.join()
    assert result.exit_code == 1
    assert admin_or_address(result.output)
    assert not isinstance(result.exception, (ValueError, TypeError, OSError))


def admin_or_address(output: str) -> bool:
    return output.startswith("Error: ") and "127.0.0.1" in output


@pytest.mark.parametrize("arguments", [("--admin", "nonsense"), ("--json", "--watch")])
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    assert invoke(*arguments).exit_code == 2
