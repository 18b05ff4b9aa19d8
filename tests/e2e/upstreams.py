"""The shipped SDK server as an upstream that dies and comes back at the same address."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from shadowcat.testing.mock_mcp.client import MockControl, MockProcess
from tests.e2e.harness import eventually


class Upstream:
    """A `shadowcat mock mcp` process. It forgets its sessions with every restart, as SDK servers do.

    It answers with JSON objects at /mcp, with streams at /mcp/sse.

    Args:
        name: What its tool `whoami` and the proxy's metrics call it.
        arguments: Further command line arguments, such as "--stateless".
    """

    def __init__(self, name: str, *arguments: str) -> None:
        self.name = name
        self._arguments = arguments
        # Bound for as long as this object lives, and never listening: nobody else gets the port meanwhile,
        # connecting is refused while the process is down, and with SO_REUSEADDR the process may bind it too.
        self._hold = socket.socket()
        self._hold.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._hold.bind(("127.0.0.1", 0))
        self._process: MockProcess | None = None
        self.port: int = self._hold.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/mcp"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
        self._hold.close()

    def start(self) -> None:
        """Start the process; it serves on return."""
        assert self._process is None
        self._process = MockProcess(
            f"--bind=127.0.0.1:{self.port}", f"--name={self.name}", "--json", *self._arguments
        )

    def kill(self) -> None:
        """End it with SIGKILL: from now on connecting is refused."""
        assert self._process is not None
        process, self._process = self._process, None
        process.kill()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def control(self) -> MockControl:
        assert self._process is not None
        return self._process.control

    def seen(self, **conditions: Any) -> list[dict[str, Any]]:
        """The requests that reached this process and have these values."""
        return [
            request
            for request in self.control.requests()
            if all(request[key] == value for key, value in conditions.items())
        ]

    def responses_seen(self) -> list[dict[str, Any]]:
        """The answers of clients to this server's own requests, as they came in."""
        messages = [json.loads(request["body"]) for request in self.seen(method="POST")]
        return [message for message in messages if "method" not in message]

    def wait_seen(self, what: str, timeout: float = 10.0, **conditions: Any) -> list[dict[str, Any]]:
        """Wait until such a request has reached this process."""
        return eventually(lambda: self.seen(**conditions), timeout, what)


def routes_to(*upstreams: Upstream, path: str = "/mcp", sse_path: str = "/sse") -> list[dict[str, Any]]:
    """Configuration: a route to where they answer with JSON objects, and one to where with streams."""
    return [
        {"path": route, "upstreams": [{"name": one.name, "url": one.url + tail} for one in upstreams]}
        for route, tail in ((path, ""), (sse_path, "/sse"))
    ]


@contextlib.contextmanager
def running(*upstreams: Upstream) -> Iterator[None]:
    """Run several at a time: each takes more than a second to import the SDK."""
    with ExitStack() as stack, ThreadPoolExecutor(len(upstreams)) as pool:
        list(pool.map(stack.enter_context, upstreams))
        yield


def header(request: dict[str, Any], name: str) -> str | None:
    """The first value of a field of a captured request."""
    return next((value for key, value in request["headers"] if key.lower() == name.lower()), None)
