"""A raw HTTP client double: sends exact bytes in exact pieces and reads answers strictly.

with RawClient(port) as client:
    client.send(head[:5], head[5:], body)
    answer = client.read_response()
    assert (answer.status, answer.framing, answer.body) == (200, "length", b"{}")
    client.expect_end()
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from shadowcat.testing.wire import (
    Framing,
    Headers,
    Message,
    PeerClosedError,
    PeerResetError,
    WireError,
    WireReader,
    abort,
    declared_framing,
    parse_fields,
    parse_status_line,
)


@dataclass(frozen=True, slots=True)
class Response:
    """A response as received; `interim` holds the heads of 1xx responses that came before it."""

    status: int
    reason: str
    version: str
    message: Message
    interim: tuple[bytes, ...]

    @property
    def headers(self) -> Headers:
        """Header fields in the order received."""
        return self.message.headers

    @property
    def head(self) -> bytes:
        """The head byte for byte, with its blank line."""
        return self.message.head

    @property
    def body(self) -> bytes:
        """The body without chunk framing."""
        return self.message.body

    @property
    def framing(self) -> Framing:
        """How the body was delimited."""
        return self.message.framing

    def header(self, name: str) -> str | None:
        """Return the one value of a field, or None; fails if the field is repeated."""
        return self.message.header(name)


class RawClient:
    """One connection to `host`:`port`, or to a Unix socket.

    Args:
        port: TCP port; ignored with `unix_path`.
        host: Address to connect to.
        timeout: Seconds one read or write may take.
        unix_path: Connect to this Unix socket instead.
        tls: Client context; `server_name` is the SNI sent.
        server_name: See `tls`.
        receive_buffer: SO_RCVBUF in bytes, set before connecting: a small one fills up early.
    """

    def __init__(
        self,
        port: int = 0,
        host: str = "127.0.0.1",
        *,
        timeout: float = 10.0,
        unix_path: Path | None = None,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        receive_buffer: int | None = None,
    ) -> None:
        family = socket.AF_UNIX if unix_path else socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.settimeout(timeout)
            sock.connect(str(unix_path) if unix_path else (host, port))
            if not unix_path:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock = tls.wrap_socket(sock, server_hostname=server_name) if tls else sock
        except BaseException:
            sock.close()
            raise
        self.reader = WireReader(self.sock, timeout)
        self._timeout = timeout

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def received(self) -> bytes:
        """Every byte read so far."""
        return bytes(self.reader.received)

    def send(self, *pieces: bytes, gap: float = 0.001) -> None:
        """Send each piece as a segment of its own.

        Args:
            pieces: Bytes; empty ones are skipped.
            gap: Seconds between two pieces. The kernel may join pieces that the peer has not read yet; the
                gap makes separate reads likely, and nothing may depend on it.
        """
        self.sock.settimeout(self._timeout)
        for number, piece in enumerate(filter(None, pieces)):
            if number:
                time.sleep(gap)
            try:
                self.sock.sendall(piece)
            except (ConnectionResetError, BrokenPipeError) as error:
                raise PeerResetError("the peer was gone while sending", self.received) from error

    def read_response(self, method: str = "POST", timeout: float | None = None) -> Response:
        """Read one whole response to a request of this method, with the interim ones before it.

        Raises:
            PeerClosedError, PeerResetError: It ended early. `seen` is what had arrived on this connection.
            WireError: It is not well-formed.
            TimeoutError: Not complete in time.
        """
        if timeout is not None:
            self.reader.timeout = timeout
        try:
            head, framing, length, interim = self._read_head(method)
            version, status, reason = parse_status_line(head)
            message = self.reader.message(head, (version, status, reason), framing, length)
            return Response(int(status), reason, version, message, interim)
        finally:
            self.reader.timeout = self._timeout

    def read_head(self, method: str = "POST") -> Response:
        """Read a response's head only; `read_chunk`, `read_exactly` or `read_end` then read its body."""
        head, framing, _, interim = self._read_head(method)
        version, status, reason = parse_status_line(head)
        message = Message((version, status, reason), parse_fields(head), head, framing, b"", b"", [], [])
        return Response(int(status), reason, version, message, interim)

    def read_chunk(self, timeout: float | None = None) -> bytes:
        """Read one chunk of a chunked body; b"" after the last chunk and its trailers."""
        data = self.reader.chunk(timeout)
        if not data:
            self.reader.trailers(timeout)
        return data

    def read_chunks(self) -> Iterator[bytes]:
        """Read the chunks of a body as they arrive, up to and including the last chunk."""
        while data := self.read_chunk():
            yield data

    def read_exactly(self, count: int) -> bytes:
        """Read `count` bytes."""
        return self.reader.exactly(count)

    def read_until(self, marker: bytes, timeout: float | None = None) -> bytes:
        """Read up to and including `marker`."""
        return self.reader.until(marker, timeout)

    def read_end(self, timeout: float | None = None) -> bytes:
        """Read everything until the peer closes in an orderly way (FIN); a reset raises PeerResetError."""
        return self.reader.to_end(timeout)

    def expect_end(self, timeout: float | None = None) -> None:
        """Wait for the peer to close in an orderly way, and fail if any byte comes before that."""
        rest = self.reader.to_end(timeout)
        if rest:
            raise WireError("bytes where only the end of the connection is allowed", rest)

    def expect_reset(self, timeout: float | None = None) -> bytes:
        """Wait for the peer to abort the connection (RST) and return the bytes that came before."""
        before = len(self.reader.received)
        try:
            self.reader.to_end(timeout)
        except PeerResetError:
            return bytes(self.reader.received[before:])
        raise WireError("the connection was closed in an orderly way, expected a reset", self.received)

    def expect_silence(self, seconds: float) -> None:
        """Fail if a byte, or the end of the connection, comes within this time."""
        try:
            more = self.reader.unread or self.reader.fill(time.monotonic() + seconds)
        except TimeoutError:
            return
        raise WireError("bytes arrived during a silence" if more else "the connection ended", self.received)

    def half_close(self) -> None:
        """Send FIN and go on reading."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Abort the connection (RST)."""
        abort(self.sock)

    def close(self) -> None:
        """Close the connection (FIN)."""
        self.sock.close()

    def _read_head(self, method: str) -> tuple[bytes, Framing, int, tuple[bytes, ...]]:
        interim: list[bytes] = []
        while True:
            head = self.reader.head()
            if head is None:
                raise PeerClosedError("the connection ended before a response")
            status = int(parse_status_line(head)[1])
            # 101 would hand the connection to another protocol: final for this reader.
            if status >= 200 or status == 101:
                break
            if declared_framing(head) != ("none", 0):
                raise WireError(f"interim response {status} declares a body", head)
            interim.append(head)
        framing, length = declared_framing(head)
        # RFC 9112 section 6.3: these have no body whatever their fields say, and the rest without framing
        # lasts until the connection closes.
        if method == "HEAD" or status in (101, 204, 304):
            if status == 204 and framing != "none":
                raise WireError("204 with Content-Length or Transfer-Encoding", head)
            framing, length = "none", 0
        elif framing == "none":
            framing = "close"
        return head, framing, length, tuple(interim)
