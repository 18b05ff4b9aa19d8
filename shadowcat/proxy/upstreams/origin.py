"""An upstream as the data plane uses it: where it is, how it is addressed, what it is sent."""

from __future__ import annotations

import copy
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from shadowcat.config.credentials import fields_of
from shadowcat.config.model import Assertion, Credential, Tls, Upstream
from shadowcat.config.urls import UpstreamAddress, parse_upstream, upstream_name
from shadowcat.errors import StartError

if TYPE_CHECKING:
    from shadowcat.auth.assertions import Signer


class Origin:
    """Everything about one upstream that no request changes."""

    __slots__ = (
        "address",
        "base_path",
        "credential_lines",
        "is_personal",
        "name",
        "replaced",
        "server_name",
        "signer",
        "ssl",
    )

    def __init__(self, upstream: Upstream) -> None:
        """Raises StartError if the upstream's TLS files, or its key, cannot be used."""
        self.name = upstream_name(upstream)
        self.address: UpstreamAddress = parse_upstream(upstream.url)
        self.base_path = self.address.base_path.encode()
        credential = upstream.credential or Credential()
        self.replaced = frozenset(name.lower().encode() for name in fields_of(credential))
        """Fields of a client's that are left out."""
        self.credential_lines = b"".join(
            b"%b: %b\r\n" % (name.encode(), value.encode()) for name, value in credential.headers.items()
        )
        self.is_personal = (credential.token_exchange or credential.assertion) is not None
        """Whether the upstream is told who the client is."""
        self.signer = None if credential.assertion is None else _signer(self.name, credential.assertion)
        """Mints what the upstream is told about clients; None where it is told nothing, or by a token."""
        self.ssl: ssl.SSLContext | None = None
        self.server_name: str | None = None
        """To send as SNI and to verify; None without TLS."""
        if self.address.scheme == "https":
            self.ssl = _client_context(self.name, upstream.tls)
            self.server_name = (upstream.tls and upstream.tls.server_name) or self.address.host

    def bearing(self, line: bytes) -> Origin:
        """The same upstream with another credential: one more header field, with its CRLF."""
        other = copy.copy(self)
        other.credential_lines += line
        return other

    def path_for(self, suffix: bytes) -> bytes:
        """The path to ask for, given what followed the route's own path."""
        return self.base_path.rstrip(b"/") + suffix if suffix else self.base_path


def _signer(name: str, section: Assertion) -> Signer:
    from shadowcat.auth.assertions import Signer  # Imports PyJWT: see auth/signatures.py.

    try:
        return Signer(section, None if section.key is None else Path(section.key).read_bytes())
    except (OSError, ValueError) as error:
        raise StartError(f"upstream {name}: its assertion.key cannot be used: {error}") from error


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
