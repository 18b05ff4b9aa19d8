"""`shadowcat sessions` against a real control process."""

from __future__ import annotations

import socket
import threading
import time

import orjson
import pytest
from click.testing import CliRunner, Result

from shadowcat.cli import sessions as module
from shadowcat.cli.main import main
from shadowcat.shm.shared import worker_number
from shadowcat.testing.scripted import refused_port

from .people import SECOND, opened
from .test_status_command import admin, line


def invoke(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(main, ["sessions", *arguments], env={"COLUMNS": "200", **environ})


@pytest.fixture
def table(shared):
    return shared.sessions_for(worker_number(0))


def test_the_list_over_tcp_and_unix(table, control, tcp, unix) -> None:
    began = time.monotonic_ns()
    session = opened(table, began - 61 * SECOND, row=1, version="2025-03-26")
    table.take_stream(session, worker_number(1))
    for listener in (tcp, unix):
        result = invoke("list", "--admin", admin(listener))
        assert result.exit_code == 0, result.output
        row = line(result.output, f"{session.slot:x}-").split()
        assert row[1:7] == ["/mcp", "b", "anonymous", "192.0.2.7", "2025-03-26", "open"]
        # A machine that stalls makes it older than it was opened.
        older = range((time.monotonic_ns() - began) // SECOND + 1)
        assert any(f" 1m {1 + seconds}s" in result.output for seconds in older)
        assert "worker 1" in result.output


def test_nothing_to_list(control, tcp) -> None:
    result = invoke("list", SHADOWCAT_ADMIN=admin(tcp))
    assert result.exit_code == 0
    assert result.output.split()[0] == "Sessions"
    assert invoke("list", "--json", SHADOWCAT_ADMIN=admin(tcp)).output == "[]\n"


def test_long_lists_are_read_in_pages(table, control, tcp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAGE", 10)
    handles = {f"{opened(table).slot:x}" for _ in range(25)}
    result = invoke("list", "--json", "--admin", admin(tcp))
    assert {row["handle"].partition("-")[0] for row in orjson.loads(result.stdout)} == handles
    result = invoke("list", "--json", "--limit", "12", "--admin", admin(tcp))
    assert len(orjson.loads(result.stdout)) == 12
    result = invoke("list", "--limit", "12", "--admin", admin(tcp))
    assert "more than these 12" in result.stderr
    assert invoke("list", "--limit", "25", "--admin", admin(tcp)).stderr == ""


def test_ending_one(table, control, tcp) -> None:
    one, two = opened(table), opened(table)
    rows = orjson.loads(invoke("list", "--json", "--admin", admin(tcp)).output)
    handle = next(row["handle"] for row in rows if row["handle"].startswith(f"{one.slot:x}-"))
    result = invoke("end", handle, "--admin", admin(tcp))
    assert (result.exit_code, result.output) == (0, "")
    assert table.find(one.id, time.monotonic_ns()) is None
    assert table.find(two.id, time.monotonic_ns()) is not None
    result = invoke("end", handle, "--admin", admin(tcp))
    assert result.exit_code == 1
    assert result.output == f"Error: {handle}: no such session\n"


@pytest.mark.parametrize("handle", ["rubbish", "", "../status", "a/b", "?limit=1", "ä ö\n"])
def test_what_is_no_handle(control, tcp, handle: str) -> None:
    result = invoke("end", "--admin", admin(tcp), "--", handle)
    assert result.exit_code == 1
    assert "what /api/sessions lists" in result.output


def test_nobody_there() -> None:
    with refused_port() as port:
        for arguments in (("list",), ("end", "0-0123456789abcdef")):
            result = invoke(*arguments, "--admin", f"127.0.0.1:{port}")
            assert result.exit_code == 1
            assert f"nothing answers at 127.0.0.1:{port}" in result.output


@pytest.mark.parametrize("arguments", [("list",), ("end", "0-0123456789abcdef")])
def test_something_else_there(arguments: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nhello")

        server = threading.Thread(target=serve)
        server.start()
        result = invoke(*arguments, "--admin", admin(listener))
        server.join()
    assert result.exit_code == 1
    assert "404 Not Found" in result.output
    assert result.output.startswith("Error: ")


@pytest.mark.parametrize("arguments", [("list", "--limit", "0"), ("end",), ("list", "--admin", "nonsense")])
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    assert invoke(*arguments).exit_code == 2
