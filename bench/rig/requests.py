"""The requests of the rows: heads and bodies with holes for what is unique in each request."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Sequence
from typing import Final

from shadowcat.mcp.eras import Era
from shadowcat.testing.load.messages import NEWEST

ID: Final = "@I" * 5
"""Hole for the JSON-RPC id: ten digits."""
TRACE: Final = "@T" * 16
"""Hole for the trace id: 32 hexadecimal digits."""
BLOCK_END: Final = "%%\n"
LEGACY_BODY: Final = 150
"""Bytes of a legacy call's body. A modern one is longer by the `_meta` that the protocol demands."""
INITIALIZED: Final = '{"jsonrpc":"2.0","method":"notifications/initialized"}'

ISSUER: Final = "https://idp.example"
AUDIENCE: Final = "https://mcp.example/mcp"
SECRET: Final = "known to the rig and to nobody else, since it signs nothing"
SCOPE: Final = "mcp:read"
_ISSUED: Final = 1_700_000_000
_EXPIRES: Final = 4_000_000_000

_FIELDS: Final = (
    "User-Agent: rig/1\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"
)


def modern(port: int, tool: str = "echo", *, trace: bool = False, token: str = "") -> str:
    """A call of the stateless era."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": NEWEST[Era.MODERN],
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    fields = f"MCP-Protocol-Version: {NEWEST[Era.MODERN]}\r\nMcp-Method: tools/call\r\nMcp-Name: {tool}\r\n"
    if trace:
        fields += f"traceparent: 00-{TRACE}-00f067aa0ba902b7-01\r\n"
    if token:
        fields += f"Authorization: Bearer {token}\r\n"
    return _request(port, fields, {"name": tool, "arguments": {"text": "lazy dog"}, "_meta": meta})


def legacy(port: int, session: str, token: str) -> str:
    """A call of the era of sessions: within one, or, if `session` is empty, to a server that has none."""
    fields = _legacy_fields(session, token)
    empty = len(_body({"name": "echo", "arguments": {"text": ""}}))
    params = {"name": "echo", "arguments": {"text": "x" * (LEGACY_BODY - empty)}}
    return _request(port, fields, params)


def initialize(port: int, token: str) -> bytes:
    """The first request of a session."""
    params = {
        "protocolVersion": NEWEST[Era.LEGACY],
        "capabilities": {},
        "clientInfo": {"name": "rig", "version": "1"},
    }
    body = json.dumps({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})
    fields = f"Authorization: Bearer {token}\r\n" if token else ""
    return (_head(port, fields, len(body)) + body).encode()


def initialized(port: int, session: str, token: str) -> bytes:
    """The notification after it."""
    return (_head(port, _legacy_fields(session, token), len(INITIALIZED)) + INITIALIZED).encode()


def token(number: int) -> str:
    """A user's token, from the issuer of `shadowcat-full.yaml`; to the other targets just a field."""
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": f"user-{number}",
        "client_id": "rig",
        "scope": SCOPE,
        "iat": _ISSUED,
        "exp": _EXPIRES,
        "jti": hashlib.sha256(b"%d" % number).hexdigest(),
    }
    parts = ({"alg": "HS256", "typ": "at+jwt"}, claims)
    text = b".".join(_base64(json.dumps(part, separators=(",", ":")).encode()) for part in parts)
    signature = _base64(hmac.digest(SECRET.encode(), text, "sha256"))
    return (text + b"." + signature).decode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def blocks(requests: Sequence[str]) -> bytes:
    """The form in which wrk's script reads them."""
    return "".join(request + BLOCK_END for request in requests).encode()


def filled(request: str) -> bytes:
    """One request as it goes over the wire."""
    return request.replace(ID, "1000000000").replace(TRACE, "4bf92f3577b34da6a3ce929d0e0e4736").encode()


def _legacy_fields(session: str, token: str) -> str:
    fields = f"MCP-Protocol-Version: {NEWEST[Era.LEGACY]}\r\n"
    if session:
        fields += f"Mcp-Session-Id: {session}\r\n"
    if token:
        fields += f"Authorization: Bearer {token}\r\n"
    return fields


def _request(port: int, fields: str, params: object) -> str:
    body = _body(params)
    return _head(port, fields, len(body)) + body


def _head(port: int, fields: str, length: int) -> str:
    return (
        f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{_FIELDS}{fields}Content-Length: {length}\r\n\r\n"
    )


def _body(params: object) -> str:
    message = {"jsonrpc": "2.0", "id": 0, "method": "tools/call", "params": params}
    return json.dumps(message, separators=(",", ":")).replace('"id":0', f'"id":{ID}', 1)
