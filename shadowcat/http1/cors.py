"""Cross-origin requests of browser clients (Fetch standard, "CORS protocol").

The proxy answers preflights and marks answers itself; what an upstream says about origins is dropped, since
it knows neither the public address nor the proxy's list of origins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from shadowcat.http1.fields import TOKEN

_ALLOWED_FIELDS: Final = (
    b"content-type, authorization, accept, last-event-id, "
    b"mcp-session-id, mcp-protocol-version, mcp-method, mcp-name"
)
_PARAMETER: Final = b"mcp-param-"
_MOST_PARAMETERS: Final = 32
_MAX_AGE: Final = 7200
"""Seconds that a browser may remember a preflight; Chromium's own upper bound."""


def answer_fields(origin: bytes) -> bytes:
    """The fields that let a page of `origin` read an answer, each with its CRLF."""
    return (
        b"Access-Control-Allow-Origin: %b\r\n"
        b"Access-Control-Expose-Headers: Mcp-Session-Id, WWW-Authenticate\r\n"
        b"Vary: Origin\r\n"
    ) % origin


def preflight_fields(requested: Sequence[bytes]) -> bytes:
    """The further fields of a preflight's answer, each with its CRLF.

    Args:
        requested: The values of Access-Control-Request-Headers. Names of the form Mcp-Param-* are not known
            beforehand, so they are allowed by being asked for.
    """
    names = [name.strip(b" \t").lower() for value in requested for name in value.split(b",")]
    extra = [name for name in names if name.startswith(_PARAMETER) and TOKEN.fullmatch(name)]
    return (
        b"Access-Control-Allow-Methods: GET, POST, DELETE\r\n"
        b"Access-Control-Allow-Headers: %b\r\n"
        b"Access-Control-Max-Age: %d\r\n"
    ) % (b", ".join([_ALLOWED_FIELDS, *extra[:_MOST_PARAMETERS]]), _MAX_AGE)
