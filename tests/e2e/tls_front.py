"""nginx in front of the proxy: it ends TLS, and says by X-Forwarded-* how it was called."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import tempfile
from pathlib import Path
from typing import Final, Self

import trustme

from tests.e2e.harness import eventually

PATH: Final = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
ABSENT: Final = "nginx is not installed: there is nothing to end TLS in front of the proxy"

_CONFIG: Final = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log {folder}/access.log; default_type text/plain;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {folder}/chain.pem; ssl_certificate_key {folder}/key.pem;
    location / {{
      proxy_pass {proxy}; proxy_http_version 1.1; proxy_buffering off;
      proxy_set_header Connection ""; proxy_set_header Host {host};
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Host $http_host; proxy_set_header X-Forwarded-Proto $scheme;
    }}
  }}
}}
"""
_PATIENCE: Final = 10.0


class TlsFront:
    """An https:// origin whose address is known before there is anything behind it.

    Args:
        authority: Who signs its certificate.
    """

    def __init__(self, authority: trustme.CA) -> None:
        self._authority = authority
        # Bound for as long as this object lives, and never listening: nobody else gets the port meanwhile.
        self._hold = socket.socket()
        self._hold.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._hold.bind(("127.0.0.1", 0))
        self.port: int = self._hold.getsockname()[1]
        self.origin = f"https://127.0.0.1:{self.port}"
        self._folder = tempfile.TemporaryDirectory(prefix="front-")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_PATIENCE)
        self._hold.close()
        self._folder.cleanup()

    def serve(self, proxy: str, host: str = "$http_host") -> None:
        """Pass everything on to the proxy at this URL, under this Host; it serves on return."""
        assert PATH is not None
        folder = Path(self._folder.name)
        certificate = self._authority.issue_cert("127.0.0.1")
        certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
        with (folder / "chain.pem").open("wb") as chain:
            for part in certificate.cert_chain_pems:
                chain.write(part.bytes())
        text = _CONFIG.format(folder=folder, port=self.port, proxy=proxy, host=host)
        (folder / "nginx.conf").write_text(text)
        self._process = process = subprocess.Popen(
            [PATH, "-p", str(folder), "-e", f"{folder}/error.log", "-c", f"{folder}/nginx.conf"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

        def listens() -> bool:
            log = folder / "error.log"
            assert process.poll() is None, log.read_text() if log.exists() else "nginx did not start"
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                return False
            return True

        eventually(listens, _PATIENCE, "nginx")


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """For clients that trust nobody but this authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context
