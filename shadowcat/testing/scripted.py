"""A scripted upstream: an HTTP server double that plays exact bytes and records exactly what it received.

    gate = threading.Event()
    with ScriptedUpstream(
        [Receive(), response(200, b"{}"), Receive(), response_head(200, sse), Wait(gate), Reset()],
        [Receive(), lambda got: response(200, got.body)],
    ) as up:
        ...                                 # talk to up.port through the proxy
        up.wait_for_requests(3)
        assert [got.connection for got in up.requests] == [0, 0, 1]

Each positional script is one connection, in the order of acceptance; a connection without a script is
reset and counted, and leaving the `with` block fails on any script that could not be played.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from shadowcat.testing.script import (
    Close,
    Connection,
    Ending,
    HalfClose,
    Hang,
    Receive,
    ReceiveBytes,
    ReceiveEnd,
    ReceiveHead,
    Repeat,
    Request,
    Reset,
    Set,
    Step,
    Wait,
)
from shadowcat.testing.wire import (
    PeerClosedError,
    PeerResetError,
    WireReader,
    abort,
    declared_framing,
    parse_request_line,
)

_POLL: Final = 0.01
_NO_LIMIT: Final = 3600.0


class _StoppedError(Exception):
    """The double was stopped while a script waited."""


class _FinishedError(Exception):
    """The connection is over; the rest of the script does not apply."""

    def __init__(self, ended: Ending) -> None:
        super().__init__(ended)
        self.ended = ended


class ScriptedUpstream:
    """Listens on 127.0.0.1 (or a Unix socket path), one thread per connection.

    Args:
        scripts: One list of steps per connection, in the order of acceptance.
        each: Steps for every connection beyond `scripts`; without it such a connection is reset.
        timeout: Seconds any one step may take before the script counts as failed.
        unix_path: Listen on this Unix socket instead of TCP.
        tls: Server context; SNI and the client's certificate are recorded.
    """

    def __init__(
        self,
        *scripts: Sequence[Step],
        each: Sequence[Step] | None = None,
        timeout: float = 10.0,
        unix_path: Path | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.connections: list[Connection] = []
        self.requests: list[Request] = []
        self.failures: list[str] = []
        self._scripts = list(scripts)
        self._each = each
        self._timeout = timeout
        self._tls = tls
        self._names: dict[int, str] = {}
        if tls is not None:
            tls.sni_callback = self._note_name
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._sockets: set[socket.socket] = set()
        if unix_path is None:
            self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
            self.port: int = self._listener.getsockname()[1]
        else:
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._listener.bind(str(unix_path))
            self._listener.listen(1024)
            self.port = 0
        self._acceptor = threading.Thread(target=self._accept, name="scripted-upstream", daemon=True)

    def __enter__(self) -> Self:
        self._acceptor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if kind is None and self.failures:
            raise AssertionError("scripted upstream: " + "; ".join(self.failures))

    @property
    def url(self) -> str:
        """Base URL without a path."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """Refuse new connections, cut the open ones, and wait for all threads."""
        self._stopping.set()
        # shutdown(), unlike close(), wakes a thread that is blocked in accept() or recv().
        _shutdown(self._listener)
        if self._acceptor.is_alive():
            self._acceptor.join(self._timeout)
        self._listener.close()
        for sock in list(self._sockets):
            _shutdown(sock)
        for thread in self._threads:
            thread.join(self._timeout)

    def wait_for_requests(self, count: int, timeout: float | None = None) -> list[Request]:
        """Wait until at least `count` requests were recorded and return all of them."""
        self.wait_until(lambda: len(self.requests) >= count, f"{count} requests", timeout)
        return self.requests

    def wait_for_connections(self, count: int, timeout: float | None = None) -> list[Connection]:
        """Wait until at least `count` connections were accepted and return all of them."""
        self.wait_until(lambda: len(self.connections) >= count, f"{count} connections", timeout)
        return self.connections

    def wait_for_end(self, number: int, timeout: float | None = None) -> Ending:
        """Wait until connection `number` is over and return how it ended."""
        self.wait_until(
            lambda: len(self.connections) > number and self.connections[number].ended is not None,
            f"the end of connection {number}",
            timeout,
        )
        ended = self.connections[number].ended
        assert ended is not None
        return ended

    def wait_until(self, condition: Callable[[], bool], what: str, timeout: float | None = None) -> None:
        """Wait until a condition on what was recorded holds.

        Raises:
            TimeoutError: It did not within `timeout` seconds (default: the step timeout).
        """
        deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
        with self._changed:
            while not condition():
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"scripted upstream waited in vain for {what}: {len(self.connections)} connections, "
                        f"{len(self.requests)} requests, failures {self.failures}"
                    )
                # Single bytes received or sent are not announced, so look again now and then.
                self._changed.wait(_POLL)

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                sock, peer = self._listener.accept()
            except OSError:
                return
            if self._stopping.is_set():
                sock.close()
                return
            if sock.family == socket.AF_INET:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._changed:
                connection = Connection(len(self.connections), peer or None)
                self.connections.append(connection)
                self._changed.notify_all()
            script = self._script_for(connection.number)
            if script is None:
                abort(sock)
                self._end(connection, "reset")
                continue
            self._sockets.add(sock)
            thread = threading.Thread(target=self._serve, args=(sock, connection, script), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _script_for(self, number: int) -> Sequence[Step] | None:
        return self._scripts[number] if number < len(self._scripts) else self._each

    def _serve(self, sock: socket.socket, connection: Connection, script: Sequence[Step]) -> None:
        ended: Ending = "closed"
        try:
            if self._tls is not None:
                sock = self._handshake(sock, connection, self._tls)
            _Player(self, connection, sock).play([*script, ReceiveEnd()])
        except _FinishedError as finished:
            # stop() looks like the peer's FIN to the thread it wakes.
            ended = "closed" if self._stopping.is_set() else finished.ended
        except _StoppedError:
            pass
        except ssl.SSLError:
            ended = "handshake failed"
        except Exception as error:  # noqa: BLE001 - whatever breaks a script, its own functions included, fails the test
            if isinstance(error, PeerResetError | PeerClosedError):
                ended = "peer reset" if isinstance(error, PeerResetError) else "peer closed"
            self._fail(connection, error)
        finally:
            self._sockets.discard(sock)
            sock.close()
            self._end(connection, ended)

    def _handshake(self, plain: socket.socket, connection: Connection, tls: ssl.SSLContext) -> ssl.SSLSocket:
        self._sockets.discard(plain)
        plain.settimeout(self._timeout)
        sock = tls.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        self._sockets.add(sock)
        try:
            sock.do_handshake()
        except OSError:
            self._sockets.discard(sock)
            sock.close()
            raise
        connection.sni = self._names.pop(sock.fileno(), None)
        connection.client_certificate = dict(sock.getpeercert() or {}) or None
        return sock

    def _note_name(self, sock: ssl.SSLSocket | ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        # One context serves all connections, so the callback tells them apart by descriptor.
        if name is not None and isinstance(sock, ssl.SSLSocket):
            self._names[sock.fileno()] = name

    def _fail(self, connection: Connection, error: Exception) -> None:
        if not self._stopping.is_set():
            with self._changed:
                self.failures.append(f"connection {connection.number}: {type(error).__name__}: {error}")
                self._changed.notify_all()

    def _end(self, connection: Connection, ended: Ending) -> None:
        with self._changed:
            connection.ended = ended
            self._changed.notify_all()

    def record(self, connection: Connection, request: Request) -> None:
        """Add a request to the records (called by the connection's thread)."""
        with self._changed:
            connection.requests.append(request)
            self.requests.append(request)
            self._changed.notify_all()

    def pause(self, event: threading.Event | None) -> None:
        """Block the calling script until the event is set, the step times out, or the double stops."""
        deadline = time.monotonic() + self._timeout
        while not self._stopping.is_set():
            if event is not None and event.wait(_POLL):
                return
            if event is None:
                self._stopping.wait()
            elif time.monotonic() > deadline:
                raise TimeoutError("Wait: the event was not set in time")
        raise _StoppedError

    @property
    def timeout(self) -> float:
        """Seconds one step may take."""
        return self._timeout


class _Player:
    """Plays one script on one connection."""

    def __init__(self, upstream: ScriptedUpstream, connection: Connection, sock: socket.socket) -> None:
        self._upstream = upstream
        self._connection = connection
        self._sock = sock
        self._reader = WireReader(sock, upstream.timeout)
        connection.received = self._reader.received
        self._last: Request | None = None

    def play(self, steps: Sequence[Step]) -> None:
        """Play steps in order."""
        for step in steps:
            self._step(step)

    def _step(self, step: Step) -> None:
        match step:
            case bytes():
                self._send(step)
            case Receive() | ReceiveHead():
                if not self._receive(whole=isinstance(step, Receive)):
                    raise PeerClosedError("the peer closed where the script expects a request")
            case ReceiveBytes(count):
                self._reader.exactly(count)
            case ReceiveEnd():
                self._receive_end()
            case Wait(event):
                self._upstream.pause(event)
            case Set(event):
                event.set()
            case Close():
                self._close()
            case HalfClose():
                self._sock.shutdown(socket.SHUT_WR)
            case Reset():
                abort(self._sock)
                raise _FinishedError("reset")
            case Hang():
                self._upstream.pause(None)
            case Repeat(steps):
                self._repeat(steps)
            case _:
                assert self._last is not None, "a computed answer needs a request before it"
                self._send(step(self._last))

    def _repeat(self, steps: Sequence[Step]) -> None:
        first, *rest = steps
        assert isinstance(first, Receive | ReceiveHead), "Repeat starts with Receive or ReceiveHead"
        while True:
            try:
                # How long a pooled connection idles is the proxy's business: no deadline here.
                if not self._reader.unread and not self._reader.fill(time.monotonic() + _NO_LIMIT):
                    raise _FinishedError("peer closed")
                self._receive(whole=isinstance(first, Receive))
            except PeerResetError:
                if self._reader.unread:
                    raise
                raise _FinishedError("peer reset") from None
            self.play(rest)

    def _receive(self, whole: bool) -> bool:
        head = self._reader.head()
        if head is None:
            return False
        start = parse_request_line(head)
        framing, length = declared_framing(head) if whole else ("none", 0)
        message = self._reader.message(head, start, framing, length)
        self._last = Request(
            self._connection.number, len(self._connection.requests), start[0], start[1], start[2], message
        )
        self._upstream.record(self._connection, self._last)
        return True

    def _receive_end(self) -> None:
        # No deadline: how long a pooled connection stays open is the proxy's business, and stop() ends it.
        self._sock.settimeout(None)
        try:
            while data := self._sock.recv(65536):
                self._reader.received += data
        except OSError:
            raise _FinishedError("peer reset") from None
        raise _FinishedError("peer closed")

    def _send(self, data: bytes) -> None:
        self._sock.settimeout(self._upstream.timeout)
        rest = memoryview(data)
        try:
            while rest:
                count = self._sock.send(rest)
                self._connection.sent += count
                rest = rest[count:]
        except (ConnectionResetError, BrokenPipeError) as error:
            raise PeerResetError("the peer was gone while the script sent") from error

    def _close(self) -> None:
        # close() with unread bytes in the socket would send RST: take them out first. A peer that resets the
        # connection because of what it was sent may be faster than this.
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
        self._sock.setblocking(False)
        try:
            while data := self._sock.recv(65536):
                self._reader.received += data
        except OSError:
            pass
        raise _FinishedError("closed")


def _shutdown(sock: socket.socket) -> None:
    with suppress(OSError):  # already over
        sock.shutdown(socket.SHUT_RDWR)


@contextmanager
def refused_port() -> Iterator[int]:
    """Reserve a TCP port on which connecting is refused: bound, so nobody else gets it, but not listening.

    With SO_REUSEADDR a listener may have it, too: one whose address has to be known before it starts.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]
