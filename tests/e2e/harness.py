"""The real supervisor as a subprocess, seen from outside only, and a plain upstream for it."""

from __future__ import annotations

import http.client
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import psutil

Result = TypeVar("Result")

COMMAND = Path(sys.executable).with_name("shadowcat-supervisor")
START_TIMEOUT = 60.0
STOP_TIMEOUT = 60.0
PATIENCE = 30.0
"""Seconds that are waited for what has no bound of its own: a busy machine needs some of them."""
SLACK = 6.0
"""Seconds that a machine which is busy, or stands still for a while, may add to what has a bound."""

# What the command does, with shorter waits. {prelude} lets a test break a part on purpose.
_WITH_TIMING = """
import json, os, sys
from pathlib import Path
from shadowcat.config.load import load_config
from shadowcat.supervisor.main import supervise
from shadowcat.supervisor.timing import Timing
{prelude}
config = load_config(Path(sys.argv[1]), os.environ, {{}})
sys.exit(supervise(config, timing=Timing(**json.loads(sys.argv[2]))))
"""


def eventually(condition: Callable[[], Result], timeout: float = PATIENCE, what: str = "condition") -> Result:
    """Poll until `condition` returns something true, and return that."""
    deadline = time.monotonic() + timeout
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < deadline, f"{what}: not within {timeout} s"
        time.sleep(0.01)


class Shadowcat:
    """A running `shadowcat-supervisor`.

    Use as a context manager: started and ready on entry, stopped on exit (and killed if it does not stop).
    Unless `config` says otherwise it has two workers, listens on a free loopback port, and has an admin
    listener on another one.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        arguments: tuple[str, ...] = (),
        timing: Mapping[str, float] | None = None,
        prelude: str = "",
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare.

        Args:
            config: Keys of the configuration file.
            arguments: Further options of the command.
            timing: Fields of shadowcat.supervisor.timing.Timing.
            prelude: Python code to run first, to break a part on purpose.
            environ: Further environment variables.
        """
        self._directory = tempfile.TemporaryDirectory(prefix="shadowcat-e2e-")
        directory = Path(self._directory.name)
        self._config = directory / "shadowcat.json"
        self._stderr = directory / "stderr"
        self.write(config)
        if timing is None and not prelude:
            self._command = [str(COMMAND), "--config", str(self._config), *arguments]
        else:
            code = _WITH_TIMING.format(prelude=prelude)
            self._command = [sys.executable, "-c", code, str(self._config), json.dumps(timing or {})]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SHADOWCAT_")}
        self._environ = inherited | dict(environ or {})
        self._process: subprocess.Popen[bytes] | None = None
        self.ready: dict[str, Any] = {}
        """The ready line."""
        self.admin_headers: dict[str, str] = {}
        """What the admin listener asks for, where the supervisor has made it."""

    # Life

    def __enter__(self) -> Shadowcat:
        try:
            self.launch()
            self.wait_ready()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        if process is not None:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(STOP_TIMEOUT)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            if process.stdout is not None:
                process.stdout.close()
            if kind is not None or not self.ready:
                sys.stderr.write(self.stderr)
        self._directory.cleanup()

    def launch(self) -> None:
        """Start without waiting."""
        with self._stderr.open("wb") as stderr:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=self._environ,
                # A group of its own: a signal meant for it cannot hit the tests.
                process_group=0,
            )

    def wait_ready(self) -> None:
        """Wait for the ready line."""
        stdout = self._popen.stdout
        assert stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            assert selector.select(START_TIMEOUT), f"no ready line within {START_TIMEOUT} s: {self.stderr}"
        line = stdout.readline()
        assert line, f"ended with {self._popen.wait(STOP_TIMEOUT)} before it was ready: {self.stderr}"
        self.ready = json.loads(line)
        if self.ready["admin_token_file"] is not None:
            token = Path(self.ready["admin_token_file"]).read_text().strip()
            self.admin_headers = {"Authorization": f"Bearer {token}"}

    def write(self, config: Mapping[str, Any] | str) -> None:
        """Write the configuration file: keys beside the usual ones, or its whole text."""
        if not isinstance(config, str):
            usual = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "workers": 2}
            config = json.dumps(usual | dict(config))
        self._config.write_text(config)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the supervisor."""
        self._popen.send_signal(number)

    def wait(self, timeout: float = STOP_TIMEOUT) -> int:
        """Wait for the end; the exit status."""
        return self._popen.wait(timeout)

    def stop(self) -> int:
        """Stop it as an operator would; the exit status."""
        self.signal(signal.SIGTERM)
        return self.wait()

    @property
    def _popen(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not launched"
        return self._process

    # What is visible

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def stderr(self) -> str:
        return self._stderr.read_text(errors="replace") if self._stderr.exists() else ""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the first public address."""
        host, _, port = self.ready["listen"][0].rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def url(self) -> str:
        return f"http://{self.ready['listen'][0]}"

    def children(self) -> dict[str, psutil.Process]:
        """The running children by the name in their title, such as "worker 0"."""
        children = {}
        for child in psutil.Process(self.pid).children():
            try:
                title = " ".join(child.cmdline()).strip()
            except psutil.Error:
                continue
            if title.startswith("shadowcat: ") and "supervisor" not in title:
                children[title.removeprefix("shadowcat: ")] = child
        return children

    def admin(self, path: str) -> tuple[int, bytes]:
        """GET from the admin listener: status and body."""
        host, _, port = self.ready["admin"].rpartition(":")
        return get((host, int(port)), path, **self.admin_headers)

    def status(self) -> dict[str, Any]:
        """What /api/status says."""
        status, body = self.admin("/api/status")
        assert status == 200
        return json.loads(body)


def get(address: tuple[str, int], path: str, timeout: float = PATIENCE, **headers: str) -> tuple[int, bytes]:
    """One GET over a fresh connection: status and body."""
    connection = http.client.HTTPConnection(*address, timeout=timeout)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def post(
    address: tuple[str, int], path: str, body: bytes, timeout: float = PATIENCE, **headers: str
) -> tuple[int, bytes]:
    """One POST over a fresh connection: status and body."""
    connection = http.client.HTTPConnection(*address, timeout=timeout)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


class EchoUpstream:
    """An HTTP server that answers each POST with its own body, `delay` seconds later."""

    def __init__(self, delay: float = 0.0) -> None:
        self.requests = 0

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(handler) -> None:  # noqa: N805
                body = handler.rfile.read(int(handler.headers["Content-Length"]))
                self.requests += 1
                if delay:
                    time.sleep(delay)
                handler.send_response(200)
                handler.send_header("Content-Type", "application/json")
                handler.send_header("Content-Length", str(len(body)))
                handler.end_headers()
                handler.wfile.write(body)

            def log_message(handler, *_: object) -> None:  # noqa: N805
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            # Threads of kept-alive connections end with the process; joining them would wait for the proxy.
            block_on_close = False
            request_queue_size = 256

            def handle_error(server, request: object, client_address: object) -> None:  # noqa: N805
                """A connection cut off by a killed worker is part of the test."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/mcp"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> EchoUpstream:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def config(self) -> dict[str, Any]:
        """A configuration with this upstream behind /mcp."""
        return {"routes": [{"path": "/mcp", "upstreams": [{"name": "echo", "url": self.url}]}]}
