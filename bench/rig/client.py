"""A blocking client for what is not load: probing, opening sessions, holding idle connections."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from typing import NamedTuple

from bench.rig.processes import RigError

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_SESSION = re.compile(rb"\r\nmcp-session-id: *([!-~]+)", re.IGNORECASE)


class Answer(NamedTuple):
    """An HTTP answer with Content-Length."""

    status: int
    head: bytes
    body: bytes

    @property
    def size(self) -> int:
        """Bytes on the wire."""
        return len(self.head) + 4 + len(self.body)

    @property
    def session(self) -> str | None:
        """The session id it carries."""
        found = _SESSION.search(self.head)
        return found[1].decode("ascii") if found else None


def connect(port: int) -> socket.socket:
    """A connection to a server on this machine."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def exchange(connection: socket.socket, request: bytes) -> Answer:
    """Send a request and read its answer.

    Raises:
        RigError: The answer has no Content-Length, or the server went away.
    """
    connection.sendall(request)
    return _answer(connection)


def exchange_all(connections: Sequence[socket.socket], requests: Sequence[bytes]) -> list[Answer]:
    """Send one request on each connection, then read the answers: the server works on all at once.

    Raises:
        RigError: As `exchange`.
    """
    for connection, request in zip(connections, requests, strict=True):
        connection.sendall(request)
    return [_answer(connection) for connection in connections]


def _answer(connection: socket.socket) -> Answer:
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(connection, data)
    head, _, body = data.partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    if length is None:
        raise RigError(f"an answer without Content-Length: {head!r}")
    while len(body) < int(length[1]):
        body += _some(connection, body)
    return Answer(int(head.split(b" ", 2)[1]), head, body)


def open_stream(connection: socket.socket, request: bytes) -> None:
    """Send a request whose answer is a stream; returns when the head is there."""
    connection.sendall(request)
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(connection, data)
    if b" 200 " not in data.partition(b"\r\n")[0] or b"text/event-stream" not in data:
        raise RigError(f"no stream: {data[:200]!r}")


def _some(connection: socket.socket, so_far: bytes) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise RigError(f"the server closed the connection after {so_far[:200]!r}")
    return data
