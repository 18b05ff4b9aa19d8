"""nginx as a second opinion: what it understands of a message is what it writes to its own upstream."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from shadowcat.testing.script import Close, Receive, Request
from shadowcat.testing.scripted import ScriptedUpstream
from shadowcat.testing.wire import response

from .reference import RequestMessage, ResponseMessage, read_requests, read_response

# Unix sockets in a directory of its own: no port that somebody else could take in the meantime.
_CONFIG: Final = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off; default_type text/plain;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  client_header_buffer_size 64k; large_client_header_buffers 4 64k; client_max_body_size 0;
  proxy_buffer_size 64k; proxy_buffers 8 64k; proxy_busy_buffers_size 128k;
  underscores_in_headers on; ignore_invalid_headers off; proxy_http_version 1.1;
  proxy_set_header Host $http_host;
  server {{ listen unix:{folder}/requests; location / {{ proxy_pass http://unix:{folder}/recorder; }} }}
  server {{ listen unix:{folder}/answers; location / {{ proxy_pass http://unix:{folder}/player; }} }}
}}
"""
_END: Final = b"GET /end HTTP/1.1\r\nHost: end\r\nConnection: close\r\n\r\n"
_ASK: Final = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_WRITTEN_ANEW: Final = {b"host", b"connection", b"content-length"}
_PATIENCE: Final = 10.0

PATH: Final = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
ABSENT: Final = "nginx is not installed: the third opinion on forwarded messages is missing"


class Nginx:
    """A running nginx, what is behind it, and what it made of the bytes it got."""

    def __init__(self, folder: Path, recorder: ScriptedUpstream, player: _Player) -> None:
        self._folder = folder
        self._recorder = recorder
        self._player = player

    def read_requests(self, data: bytes) -> list[RequestMessage]:
        """The requests that nginx finds in what one connection carries; it must stand between two at the end.

        Host and Content-Length, which nginx writes anew, are at the end, in that order.
        """
        before = len(self._recorder.requests)
        answer = self._talk("requests", data + _END)
        raw = [got.head + got.body for got in self._recorder.requests[before:]]
        *messages, end = read_requests(b"".join(raw))
        assert (end.method, end.target) == (b"GET", b"/end"), (end, answer)
        return [order_fields(message) for message in messages]

    def read_response(self, data: bytes) -> ResponseMessage:
        """The answer that nginx finds in what an upstream sends before it closes."""
        self._player.answer = data
        return read_response(self._talk("answers", _ASK), ended=True)

    def _talk(self, name: str, data: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(_PATIENCE)
            client.connect(str(self._folder / name))
            client.sendall(data)
            return b"".join(iter(lambda: client.recv(65536), b""))


class _Player:
    """What an upstream of nginx answers next."""

    def __init__(self) -> None:
        self.answer = b""

    def play(self, _: Request) -> bytes:
        return self.answer


def order_fields(message: RequestMessage) -> RequestMessage:
    """The message with the fields that every hop writes itself at its end, without Connection."""
    fields = [field for field in message.fields if field[0] not in _WRITTEN_ANEW]
    own = [field for field in message.fields if field[0] in _WRITTEN_ANEW and field[0] != b"connection"]
    return message._replace(fields=fields + sorted(own))


@contextmanager
def run_nginx() -> Iterator[Nginx]:
    """nginx until the end of the block."""
    assert PATH is not None
    player = _Player()
    with (
        tempfile.TemporaryDirectory() as name,
        ScriptedUpstream(
            each=[Receive(), response(200, b""), Close()], unix_path=Path(name, "recorder")
        ) as recorder,
        ScriptedUpstream(each=[Receive(), player.play, Close()], unix_path=Path(name, "player")),
    ):
        folder = Path(name)
        (folder / "nginx.conf").write_text(_CONFIG.format(folder=folder))
        process = subprocess.Popen(
            [PATH, "-p", name, "-e", f"{name}/error.log", "-c", f"{name}/nginx.conf"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_for(process, folder)
            yield Nginx(folder, recorder, player)
        finally:
            process.terminate()
            process.wait(_PATIENCE)


def _wait_for(process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    for name in ("requests", "answers"):
        while True:
            with suppress(OSError), socket.socket(socket.AF_UNIX) as client:
                client.connect(str(folder / name))
                break
            log = folder / "error.log"
            assert process.poll() is None, log.read_text() if log.exists() else "nginx did not start"
            assert time.monotonic() < deadline, "nginx does not listen"
            time.sleep(0.01)
