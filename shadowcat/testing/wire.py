"""A strict, blocking reader of HTTP/1.1 messages for test doubles, and builders of message bytes.

Independent of `shadowcat.http1` on purpose: a double that shared the product's parser would share its
mistakes and hide them.
"""

from __future__ import annotations

import re
import socket
import struct
import time
from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

Headers = list[tuple[str, str]]
Framing = Literal["none", "length", "chunked", "close"]

_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_FIELD: Final = re.compile(rb"(" + _TOKEN + rb"):[ \t]*((?:[\x21-\x7e\x80-\xff](?:[\t \x21-\x7e\x80-\xff]*"
                           rb"[\x21-\x7e\x80-\xff])?)?)[ \t]*")  # fmt: skip
_STATUS_LINE: Final = re.compile(rb"HTTP/(1\.[01]) ([1-5][0-9]{2}) ([\t \x21-\x7e\x80-\xff]*)")
_REQUEST_LINE: Final = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/(1\.[01])")
_DIGITS: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})((?:;[\t \x21-\x7e]*)?)")
_MAX_LINE: Final = 1 << 20


class WireError(AssertionError):
    """The peer broke HTTP, or ended the connection at a point where it must not. `seen` is what arrived."""

    def __init__(self, message: str, seen: bytes = b"") -> None:
        super().__init__(f"{message}; last bytes: {seen[-200:]!r}" if seen else message)
        self.seen = seen


class PeerClosedError(WireError):
    """The peer ended the connection (FIN) inside a message, or before one that was due."""


class PeerResetError(WireError):
    """The peer aborted the connection (RST)."""


class Message(NamedTuple):
    """One HTTP message as received. `raw_body` still has the chunk framing, `body` has not."""

    start: tuple[str, str, str]
    headers: Headers
    head: bytes
    framing: Framing
    body: bytes
    raw_body: bytes
    chunks: list[bytes]
    trailers: Headers

    def all(self, name: str) -> list[str]:
        """Return every value of a header field, in the order received."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def header(self, name: str) -> str | None:
        """Return the one value of a header field, or None.

        Raises:
            WireError: The field is there more than once.
        """
        values = self.all(name)
        if len(values) > 1:
            raise WireError(f"{name} was sent {len(values)} times: {values}")
        return values[0] if values else None


class WireReader:
    """Reads one socket with a deadline per call and keeps every byte it saw in `received`."""

    def __init__(self, sock: socket.socket, timeout: float) -> None:
        self.sock = sock
        self.timeout = timeout
        self.received = bytearray()
        self._position = 0

    @property
    def unread(self) -> bytes:
        """Bytes that have arrived and were not yet consumed."""
        return bytes(self.received[self._position :])

    def fill(self, deadline: float, limit: int = 65536) -> bool:
        """Wait for more bytes; False at the end of the stream.

        Raises:
            TimeoutError: The deadline (on `time.monotonic`) passed.
            PeerResetError: The peer aborted.
        """
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"nothing more arrived in time; unread so far: {self.unread[-200:]!r}")
        self.sock.settimeout(left)
        try:
            data = self.sock.recv(limit)
        except TimeoutError as error:
            raise TimeoutError(
                f"nothing more arrived in time; unread so far: {self.unread[-200:]!r}"
            ) from error
        except (ConnectionResetError, BrokenPipeError) as error:
            raise PeerResetError("the peer reset the connection", bytes(self.received)) from error
        self.received += data
        return bool(data)

    def exactly(self, count: int, timeout: float | None = None) -> bytes:
        """Consume `count` bytes.

        Raises:
            PeerClosedError: The stream ended before that.
        """
        deadline = self._deadline(timeout)
        while len(self.received) - self._position < count:
            if not self.fill(deadline):
                missing = count - (len(self.received) - self._position)
                raise PeerClosedError(
                    f"the connection ended {missing} bytes before the end of the body", bytes(self.received)
                )
        return self._take(count)

    def until(self, marker: bytes, timeout: float | None = None) -> bytes:
        """Consume everything up to and including `marker`.

        Raises:
            PeerClosedError: The stream ended before the marker.
        """
        deadline = self._deadline(timeout)
        searched = self._position
        while (at := self.received.find(marker, searched)) < 0:
            searched = max(self._position, len(self.received) - len(marker) + 1)
            if len(self.received) - self._position > _MAX_LINE:
                raise WireError(f"no {marker!r} within {_MAX_LINE} bytes", bytes(self.received))
            if not self.fill(deadline):
                raise PeerClosedError(f"the connection ended before {marker!r}", bytes(self.received))
        return self._take(at + len(marker) - self._position)

    def some(self, timeout: float | None = None) -> bytes:
        """Consume what is there, waiting for at least one byte; b"" at the end of the stream."""
        if len(self.received) == self._position:
            self.fill(self._deadline(timeout))
        return self._take(len(self.received) - self._position)

    def to_end(self, timeout: float | None = None) -> bytes:
        """Consume everything until the peer closes."""
        deadline = self._deadline(timeout)
        while self.fill(deadline):
            pass
        return self._take(len(self.received) - self._position)

    def head(self, timeout: float | None = None) -> bytes | None:
        """Consume one message head with its blank line; None when the stream ends before its first byte."""
        deadline = self._deadline(timeout)
        if len(self.received) == self._position and not self.fill(deadline):
            return None
        return self.until(b"\r\n\r\n", max(0.0, deadline - time.monotonic()))

    def chunk(self, timeout: float | None = None) -> bytes:
        """Consume one chunk with its framing and return its data; b"" is the last chunk (trailers remain)."""
        deadline = self._deadline(timeout)
        line = self.until(b"\r\n", max(0.0, deadline - time.monotonic()))
        found = _CHUNK_LINE.fullmatch(line[:-2])
        if not found:
            raise WireError(f"malformed chunk size line {line!r}")
        size = int(found[1], 16)
        if size == 0:
            return b""
        data = self.exactly(size + 2, max(0.0, deadline - time.monotonic()))
        if data[-2:] != b"\r\n":
            raise WireError(f"chunk of {size} bytes does not end in CRLF", data)
        return data[:-2]

    def trailers(self, timeout: float | None = None) -> Headers:
        """Consume the trailer section with its blank line."""
        deadline = self._deadline(timeout)
        lines: list[bytes] = []
        while (line := self.until(b"\r\n", max(0.0, deadline - time.monotonic()))) != b"\r\n":
            lines.append(line[:-2])
        return _fields(lines)

    def message(self, head: bytes, start: tuple[str, str, str], framing: Framing, length: int) -> Message:
        """Consume the body that belongs to a head and return the whole message."""
        mark = self._position
        chunks: list[bytes] = []
        trailers: Headers = []
        if framing == "chunked":
            while piece := self.chunk():
                chunks.append(piece)
            trailers = self.trailers()
            body = b"".join(chunks)
        elif framing == "length":
            body = self.exactly(length)
        else:
            body = self.to_end() if framing == "close" else b""
        raw = bytes(self.received[mark : self._position])
        return Message(start, parse_fields(head), head, framing, body, raw, chunks, trailers)

    def _take(self, count: int) -> bytes:
        data = bytes(self.received[self._position : self._position + count])
        self._position += count
        return data

    def _deadline(self, timeout: float | None) -> float:
        return time.monotonic() + (self.timeout if timeout is None else timeout)


def parse_fields(head: bytes) -> Headers:
    """Return the header fields of a head in order.

    Raises:
        WireError: A line that RFC 9112 section 5 does not allow (obs-fold and bare CR or LF included).
    """
    return _fields(head[:-4].split(b"\r\n")[1:])


def _fields(lines: Iterable[bytes]) -> Headers:
    fields: Headers = []
    for line in lines:
        found = _FIELD.fullmatch(line)
        if not found:
            raise WireError(f"malformed header line {line!r}")
        fields.append((found[1].decode("latin-1"), found[2].decode("latin-1")))
    return fields


def parse_status_line(head: bytes) -> tuple[str, str, str]:
    """Return (version, status, reason) of a response head."""
    found = _STATUS_LINE.fullmatch(head.partition(b"\r\n")[0])
    if not found:
        raise WireError("malformed status line", head[:200])
    return found[1].decode(), found[2].decode(), found[3].decode("latin-1")


def parse_request_line(head: bytes) -> tuple[str, str, str]:
    """Return (method, target, version) of a request head."""
    found = _REQUEST_LINE.fullmatch(head.partition(b"\r\n")[0])
    if not found:
        raise WireError("malformed request line", head[:200])
    return found[1].decode(), found[2].decode(), found[3].decode()


def declared_framing(head: bytes) -> tuple[Framing, int]:
    """Return what the header fields say about the body: ("none", 0), ("length", n) or ("chunked", 0).

    Raises:
        WireError: Both fields at once, repeated or malformed ones (RFC 9112 section 6).
    """
    fields = parse_fields(head)
    lengths = [value for name, value in fields if name.lower() == "content-length"]
    codings = [value for name, value in fields if name.lower() == "transfer-encoding"]
    if lengths and codings:
        raise WireError("both Content-Length and Transfer-Encoding", head)
    if codings:
        if [value.lower() for value in codings] != ["chunked"]:
            raise WireError(f"Transfer-Encoding is {codings}, expected exactly one 'chunked'", head)
        return "chunked", 0
    if not lengths:
        return "none", 0
    if len(lengths) > 1 or not _DIGITS.fullmatch(lengths[0]):
        raise WireError(f"bad Content-Length {lengths}", head)
    return "length", int(lengths[0])


def linger_zero(sock: socket.socket) -> None:
    """Make the close of a socket an RST: a zero linger time discards what is unsent and skips the FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def abort(sock: socket.socket) -> None:
    """Close a socket with RST."""
    linger_zero(sock)
    sock.close()


def request(
    method: str = "POST",
    target: str = "/mcp",
    body: bytes | None = None,
    headers: Iterable[tuple[str, str]] = (),
    host: str = "127.0.0.1",
) -> bytes:
    """Build a request with Host and, if there is a body, Content-Length and a JSON Content-Type."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
    given = list(headers)
    if body is not None:
        if not any(name.lower() == "content-type" for name, _ in given):
            lines.append("Content-Type: application/json")
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{name}: {value}" for name, value in given]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def response(
    status: int = 200,
    body: bytes = b"",
    headers: Iterable[tuple[str, str]] = (),
    content_type: str = "application/json",
) -> bytes:
    """Build a response with Content-Length and Content-Type."""
    lines = [f"HTTP/1.1 {status} Scripted", f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def response_head(status: int = 200, headers: Iterable[tuple[str, str]] = ()) -> bytes:
    """Build a response head with exactly the given fields."""
    lines = [f"HTTP/1.1 {status} Scripted"] + [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def chunks(*pieces: bytes, last: bool = True) -> bytes:
    """Frame pieces as chunks, by default with the last chunk."""
    framed = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return framed + (b"0\r\n\r\n" if last else b"")
