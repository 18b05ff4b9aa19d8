"""``--demo``: the shipped MCP server as one more supervised process, and what a user needs to try it."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Final

import orjson

from shadowcat.errors import StartError
from shadowcat.mcp.eras import VERSIONS, Era
from shadowcat.shm.shared import Lifeline
from shadowcat.supervisor.main import Demo

_LATEST: Final = {
    era: max(version for version in VERSIONS if VERSIONS[version] is era).decode() for era in Era
}
_NEEDED: Final = ("mcp", "uvicorn")
_BACKLOG: Final = 1024

_TEXT: Final = """
Shadowcat serves {url}, with a demo MCP server behind it. Try it:

  # revision {modern}: stateless, one request
  curl -sN {url} -H 'Content-Type: application/json' -H 'Accept: application/json, text/event-stream' \\
    -H 'MCP-Protocol-Version: {modern}' -H 'Mcp-Method: tools/call' -H 'Mcp-Name: echo' \\
    -d '{modern_call}'

  # revision {legacy}: a session
  SESSION=$(curl -si {url} -H 'Content-Type: application/json' \\
    -H 'Accept: application/json, text/event-stream' \\
    -d '{initialize}' \\
    | tr -d '\\r' | sed -n 's/^mcp-session-id: //Ip')
  curl -s {url} -H 'Content-Type: application/json' -H 'Accept: application/json, text/event-stream' \\
    -H "Mcp-Session-Id: $SESSION" -H 'MCP-Protocol-Version: {legacy}' \\
    -d '{initialized}'
  curl -sN {url} -H 'Content-Type: application/json' -H 'Accept: application/json, text/event-stream' \\
    -H "Mcp-Session-Id: $SESSION" -H 'MCP-Protocol-Version: {legacy}' \\
    -d '{legacy_call}'

  # for an MCP client
  {client}

"""


def open_demo() -> tuple[Demo, str]:
    """Open the demo upstream's socket on a free loopback port.

    Returns:
        The process to supervise, and the URL of its MCP endpoint.

    Raises:
        StartError: What it needs is not installed.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise StartError(
            f"--demo needs {' and '.join(missing)}, which is not installed: pip install 'shadowcat[mock]'"
        )
    listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
    port = listener.getsockname()[1]
    return Demo(
        listener, lambda lifeline: _serve(listener, lifeline), _explain
    ), f"http://127.0.0.1:{port}/mcp"


def instructions(address: str) -> str:
    """What to type to try the proxy at `address`, in both eras."""
    modern, legacy = _LATEST[Era.MODERN], _LATEST[Era.LEGACY]
    url = f"http://{address}/mcp"
    client = {"name": "curl", "version": "1"}
    call = {"name": "echo", "arguments": {"text": "hello"}}
    meta = {
        "io.modelcontextprotocol/protocolVersion": modern,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": client,
    }
    handshake = {"protocolVersion": legacy, "capabilities": {}, "clientInfo": client}
    return _TEXT.format(
        url=url,
        modern=modern,
        legacy=legacy,
        modern_call=_message("tools/call", call | {"_meta": meta}, 1),
        initialize=_message("initialize", handshake, 1),
        initialized=_message("notifications/initialized"),
        legacy_call=_message("tools/call", call, 2),
        client=orjson.dumps({"mcpServers": {"shadowcat": {"type": "http", "url": url}}}).decode(),
    )


def _message(method: str, params: Mapping[str, object] | None = None, number: int | None = None) -> str:
    message: dict[str, object] = {"jsonrpc": "2.0"}
    if number is not None:
        message["id"] = number
    message["method"] = method
    if params is not None:
        message["params"] = params
    return orjson.dumps(message).decode()


def _explain(addresses: Sequence[str]) -> None:
    sys.stderr.write(instructions(addresses[0]))
    sys.stderr.flush()


def _serve(listener: socket.socket, lifeline: Lifeline) -> int:
    """Run the mock server in the child."""
    from shadowcat.testing.mock_mcp.server import serve

    # A group of its own: Ctrl-C is for the supervisor, which ends this process after the workers.
    os.setpgid(0, 0)
    # The server's loop knows nothing of the lifeline.
    threading.Thread(target=_end_with_supervisor, args=(lifeline.fileno(),), daemon=True).start()
    return serve(listener, on_ready=lifeline.ready)


def _end_with_supervisor(lifeline: int) -> None:
    os.read(lifeline, 1)
    os._exit(1)
