"""`shadowcat mock mcp` as a process."""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from shadowcat.cli.mock import mock
from shadowcat.testing.mock_mcp.client import MockProcess
from shadowcat.testing.raw_client import RawClient
from shadowcat.testing.wire import request

ACCEPT = ("Accept", "application/json, text/event-stream")


def message(method: str, params: dict[str, object], *headers: tuple[str, str]) -> bytes:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    return request("POST", "/mcp/json", body, [ACCEPT, *headers])


HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}


def test_process_can_be_paused_and_sigterm_lets_a_running_call_finish_but_no_stream_block() -> None:
    # One process for all of it: importing the SDK takes more than a second.
    with MockProcess("--name=three") as server:
        assert server.control.state()["name"] == "three"
        assert server.control.state()["pid"] == server.pid
        with RawClient(server.port) as client, RawClient(server.port) as listener:
            server.pause()
            client.send(message("initialize", HELLO))
            client.expect_silence(0.05)
            server.resume()
            session = ("Mcp-Session-Id", client.read_response().header("mcp-session-id") or "")
            listener.send(request("GET", "/mcp/json", None, [ACCEPT, session]))
            assert listener.read_head().status == 200
            client.send(message("tools/call", {"name": "slow", "arguments": {"seconds": 0.2}}, session))
            server.control.requests(count=3)
            # On a machine that stalls it may be over before it is seen.
            while server.control.state()["running"] == 0 and not select.select([client.sock], [], [], 0)[0]:
                pass
            assert server.stop() == 0
            assert b"waited 0.2 s" in client.read_response().body
        with pytest.raises(ConnectionRefusedError):
            RawClient(server.port)


def test_it_ends_when_its_standard_input_ends() -> None:
    command = [sys.executable, "-m", "shadowcat.cli.mock", "mcp", "--until-eof"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        assert b'"control":null' in process.stdout.readline()
        process.stdin.close()
        assert process.wait(10) == 0


@pytest.mark.parametrize(
    ("bind", "words"),
    [
        ("0.0.0.0:0", "not a loopback address"),
        ("127.0.0.1", "has no port"),
        ("here:99", "not HOST:PORT"),
        ("127.0.0.1:99999", "not HOST:PORT"),
    ],
)
def test_bad_bind_is_explained(bind: str, words: str) -> None:
    result = CliRunner().invoke(mock, ["mcp", "--bind", bind])
    assert result.exit_code == 2
    assert words in result.output


def test_port_in_use_is_explained() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = CliRunner().invoke(mock, ["mcp", "--bind", f"127.0.0.1:{taken.getsockname()[1]}"])
    assert result.exit_code == 1
    assert "in use" in result.output


def test_missing_packages_are_named(tmp_path: Path) -> None:
    (tmp_path / "mcp.py").write_text("raise ModuleNotFoundError('gone', name='mcp')\n")
    result = subprocess.run(
        [sys.executable, "-c", "from shadowcat.cli.mock import mock; mock(['mcp'])"],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert result.returncode == 1
    assert b"pip install 'shadowcat[mock]'" in result.stderr
    assert result.stdout == b""
