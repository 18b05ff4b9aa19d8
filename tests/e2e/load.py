"""Requests over fresh connections, from several threads, with the outcome of each."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter

from tests.e2e.harness import PATIENCE, Shadowcat, post

BODY = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'


def call(cat: Shadowcat, timeout: float = PATIENCE) -> bool:
    """One call over a fresh connection."""
    return post(cat.address, "/mcp", BODY, timeout) == (200, BODY)


class Load:
    """Fresh connections, one request each, from several threads, until stopped or refused."""

    def __init__(self, cat: Shadowcat, threads: int = 8) -> None:
        self._address = cat.address
        self._end = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]
        self.outcomes: Counter[str] = Counter()
        self.slowest = 0.0

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._end.is_set():
            began = time.monotonic()
            outcome = self._once()
            with self._lock:
                self.outcomes[outcome] += 1
                self.slowest = max(self.slowest, time.monotonic() - began)
            if outcome in ("refused", "no handshake"):
                return

    def _once(self) -> str:
        try:
            connection = socket.create_connection(self._address, timeout=PATIENCE)
        except ConnectionRefusedError:
            return "refused"
        except TimeoutError:
            return "no handshake"
        with connection:
            head = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(BODY)
            received = b""
            try:
                connection.sendall(head + BODY)
                while not received.endswith(BODY):
                    data = connection.recv(65536)
                    if not data:
                        return "cut off"
                    received += data
            except TimeoutError:
                return "no answer"
            except OSError:
                return "reset"
        return "answered" if received.startswith(b"HTTP/1.1 200 ") else "wrong answer"
