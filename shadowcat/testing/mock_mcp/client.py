"""A mock server in a process of its own, and the client of its control page."""

from __future__ import annotations

import http.client
import json
import signal
import ssl
import subprocess
import sys
from types import TracebackType
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit


class MockControl:
    """Talks to a control page (`http://127.0.0.1:PORT/_control`); see `control` for what it offers.

    Args:
        url: The page.
        timeout: Seconds to wait for an answer.
        certificate: For https: PEM file with the certificate to trust.
    """

    def __init__(self, url: str, timeout: float = 10.0, certificate: str | None = None) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._base = parts.path
        self._timeout = timeout
        self._tls = ssl.create_default_context(cafile=certificate) if parts.scheme == "https" else None

    def requests(self, count: int = 0, timeout: float = 10.0) -> list[dict[str, Any]]:
        """Return the records, waiting until at least `count` are there or `timeout` seconds passed."""
        found: list[dict[str, Any]] = self._call("GET", f"/requests?count={count}&timeout={timeout}")[
            "requests"
        ]
        return found

    def clear(self) -> None:
        """Forget the records."""
        self._call("DELETE", "/requests")

    def add_fault(self, fault: str, **fields: Any) -> None:
        """Put a fault rule in force; the fields are those of `faults.Fault`."""
        self._call("POST", "/faults", {"fault": fault, **fields})

    def faults(self) -> list[dict[str, Any]]:
        """Return the rules in force with their counts."""
        rules: list[dict[str, Any]] = self._call("GET", "/faults")["faults"]
        return rules

    def clear_faults(self) -> None:
        """Drop all rules."""
        self._call("DELETE", "/faults")

    def state(self) -> dict[str, Any]:
        """Return name, pid and counters."""
        return self._call("GET", "/state")

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        seconds = self._timeout + 5
        connection = (
            http.client.HTTPConnection(*self._address, timeout=seconds)
            if self._tls is None
            else http.client.HTTPSConnection(*self._address, timeout=seconds, context=self._tls)
        )
        try:
            connection.request(method, self._base + path, json.dumps(body) if body is not None else None)
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        finally:
            connection.close()
        if response.status != 200:
            raise ValueError(f"{method} {path}: {response.status} {answer}")
        return answer


class MockProcess:
    """`shadowcat mock mcp` as a child process; it ends with this object, and with this process.

    Args:
        arguments: Further command line arguments, such as "--json" or "--name=a".
    """

    kind: ClassVar[str] = "mcp"

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "shadowcat.cli.mock", self.kind, "--control", "--until-eof"]
        command += arguments
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.stop()
            raise RuntimeError(f"the mock server did not start: exit status {self._process.returncode}")
        ready = json.loads(line)
        self.url: str = ready["url"]
        self.pid: int = self._process.pid
        self.port: int = urlsplit(self.url).port or 0
        self.control_url: str = ready["control"]
        self.control = MockControl(self.control_url)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> int:
        """End it gracefully and return its exit status."""
        self._process.terminate()
        return self._reap()

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._process.kill()
        self._reap()

    def pause(self) -> None:
        """Stop it with SIGSTOP: connections are accepted by the kernel and nothing answers."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `pause`."""
        self._process.send_signal(signal.SIGCONT)

    def _reap(self) -> int:
        try:
            status = self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        return status
