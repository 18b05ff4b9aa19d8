"""An upstream as the data plane uses it: where it is, how it is addressed, what it is sent."""

from __future__ import annotations

import ssl

from shadowcat.config.model import Tls, Upstream
from shadowcat.config.urls import UpstreamAddress, parse_upstream, upstream_name
from shadowcat.errors import StartError


class Origin:
    """Everything about one upstream that no request changes."""

    __slots__ = ("address", "base_path", "credential_lines", "name", "replaced", "server_name", "ssl")

    def __init__(self, upstream: Upstream) -> None:
        """Raises StartError if the upstream's TLS files cannot be used."""
        self.name = upstream_name(upstream)
        self.address: UpstreamAddress = parse_upstream(upstream.url)
        self.base_path = self.address.base_path.encode()
        credential = upstream.credential.headers if upstream.credential else {}
        self.replaced = frozenset(name.lower().encode() for name in credential)
        self.credential_lines = b"".join(
            b"%b: %b\r\n" % (name.encode(), value.encode()) for name, value in credential.items()
        )
        self.ssl: ssl.SSLContext | None = None
        self.server_name: str | None = None
        """To send as SNI and to verify; None without TLS."""
        if self.address.scheme == "https":
            self.ssl = _client_context(self.name, upstream.tls)
            self.server_name = (upstream.tls and upstream.tls.server_name) or self.address.host

    def path_for(self, suffix: bytes) -> bytes:
        """The path to ask for, given what followed the route's own path."""
        return self.base_path.rstrip(b"/") + suffix if suffix else self.base_path


def _client_context(name: str, tls: Tls | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=tls.ca if tls else None)
        if tls and tls.cert:
            context.load_cert_chain(tls.cert, tls.key)
    except (OSError, ssl.SSLError) as error:
        raise StartError(f"upstream {name}: its TLS files cannot be used: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context
