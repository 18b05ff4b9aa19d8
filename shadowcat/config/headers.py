"""Header fields that a configuration sets on requests to an upstream."""

from __future__ import annotations

import re
from typing import Final

FIELD_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # token, RFC 9110 section 5.6.2
_VALUE: Final = re.compile(r"[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?")  # RFC 9110 section 5.5, ASCII only

RESERVED: Final = {
    # The proxy's own: framing and connection (RFC 9112 sections 6 and 9, RFC 9110 section 7.6.1).
    **dict.fromkeys(
        (
            "connection",
            "content-length",
            "expect",
            "host",
            "http2-settings",
            "keep-alive",
            "proxy-connection",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
        ),
        "it belongs to the connection, which the proxy manages",
    ),
    "accept-encoding": "the proxy asks upstreams for plain bodies",
    # Different in each request; a fixed value would contradict the body.
    **dict.fromkeys(
        ("last-event-id", "mcp-method", "mcp-name", "mcp-protocol-version", "mcp-session-id"),
        "its value is each request's own",
    ),
}
"""Name in lower case -> why a configuration cannot set it."""


def check_header(name: str, value: str) -> None:
    """Accept a header field that can be sent as it stands.

    Raises:
        ValueError: It cannot; the message never repeats the value, which may be a secret.
    """
    if FIELD_NAME.fullmatch(name) is None:
        raise ValueError("not a header name: use ASCII letters, digits and hyphens")
    reason = RESERVED.get(name.lower())
    if reason is not None:
        raise ValueError(f"this header cannot be set: {reason}")
    if not value:
        raise ValueError("the value is empty: give it one, or remove the header")
    if _VALUE.fullmatch(value) is None:
        raise ValueError(
            "the value has a line break, a control or non-ASCII character, or white space at its start or end"
        )
