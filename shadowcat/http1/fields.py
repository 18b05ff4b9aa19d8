"""Header field names that the proxy treats specially, each set with the reason it exists."""

from __future__ import annotations

import re
from typing import Final

TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""RFC 9110 section 5.6.2."""

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Meant for one connection, so never forwarded (RFC 9110 section 7.6.1). `Upgrade` may be ignored by any
server (section 7.8): the request is then served as plain HTTP/1.1, with its body."""

CLIENT_ONLY: Final = frozenset({b"authorization", b"cookie"})
"""A client's credentials are for the proxy alone (MCP security best practices, "token passthrough")."""

REPLACED: Final = frozenset(
    {
        b"accept-encoding",
        b"content-length",
        b"expect",
        b"forwarded",
        b"host",
        b"mcp-session-id",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-proto",
        b"x-real-ip",
    }
)
"""The proxy writes its own value, or answers itself."""

NOT_FORWARDED: Final = HOP_BY_HOP | CLIENT_ONLY | REPLACED

CORS: Final = frozenset(
    {
        b"access-control-allow-credentials",
        b"access-control-allow-headers",
        b"access-control-allow-methods",
        b"access-control-allow-origin",
        b"access-control-expose-headers",
        b"access-control-max-age",
    }
)

NOT_RETURNED: Final = HOP_BY_HOP | CORS | {b"content-length", b"set-cookie"}
"""Response fields that stay behind: a cookie of one upstream has no meaning behind a balancer, and who may
read an answer is for the proxy to say."""

_END_TO_END: Final = frozenset(
    {
        b"accept",
        b"authorization",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"cookie",
        b"host",
        b"last-event-id",
    }
)

_KNOWN: Final = NOT_FORWARDED | _END_TO_END


def may_be_dropped(name: bytes) -> bool:
    """Whether `Connection: name` may remove the field.

    A peer that lists an end-to-end field there wants two servers to see two different requests.
    """
    return name not in _END_TO_END and not name.startswith(b"mcp-")


def is_disguised(name: bytes) -> bool:
    """Whether a name with `_` becomes a field of meaning once a CGI-style server maps `_` to `-`."""
    twin = name.replace(b"_", b"-")
    return twin != name and (twin in _KNOWN or twin.startswith(b"mcp-"))


def is_forbidden_trailer(name: bytes) -> bool:
    """Whether a trailer names a field that decides framing, routing or identity (RFC 9110 section 6.5.1)."""
    return name in _KNOWN or name.startswith(b"mcp-") or is_disguised(name)
