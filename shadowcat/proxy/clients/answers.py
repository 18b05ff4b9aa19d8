"""The answers the proxy gives on its own account, as whole HTTP messages."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from shadowcat.errors import Refusal
from shadowcat.mcp.answers import error_body
from shadowcat.mcp.eras import Era

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_ALLOW: Final = b"Allow: GET, POST, DELETE, OPTIONS\r\n"


def answer(
    refusal: Refusal,
    era: Era,
    id_raw: bytes | None,
    *,
    detail: str = "",
    retry_after: int | None = None,
    upstream: str | None = None,
    fields: bytes = b"",
    close: bool,
    head: bool = False,
) -> bytes:
    """Write a refusal.

    Args:
        refusal: The row of the table.
        era: Decides what an absent id looks like.
        id_raw: The request's JSON-RPC id as received, if it is known.
        detail: What is special about this case, such as the upstream's name; may be empty.
        retry_after: Seconds after which the client may try again, where that is known better than the table
            says.
        upstream: The name of the upstream that this is about, which goes with `retry_after`.
        fields: Further header fields, each with its CRLF.
        close: Whether the connection ends with it.
        head: The request was HEAD: the answer has no content (RFC 9110 section 9.3.2).
    """
    message = f"{refusal.message}: {detail}" if detail else refusal.message
    data: dict[str, Any] | None = None
    extra = _ALLOW if refusal is Refusal.METHOD else b""
    if retry_after is None:
        retry_after = refusal.retry_after
    if retry_after is not None:
        extra = b"Retry-After: %d\r\n" % retry_after
        data = {"retryAfterSeconds": retry_after}
        if upstream is not None:
            data["upstream"] = upstream
    code = refusal.modern_code if era is Era.MODERN else refusal.code
    body = error_body(code, message, id_raw, era, data)
    return b"HTTP/1.1 %d %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b%b%b\r\n%b" % (
        refusal.status,
        HTTPStatus(refusal.status).phrase.encode(),
        len(body),
        extra,
        fields,
        b"Connection: close\r\n" if close else b"",
        b"" if head else body,
    )


def preflight(fields: bytes, *, close: bool) -> bytes:
    """Answer OPTIONS; `fields` are those of the CORS protocol, each with its CRLF."""
    return b"HTTP/1.1 204 No Content\r\n%b%b%b\r\n" % (
        _ALLOW,
        fields,
        b"Connection: close\r\n" if close else b"",
    )


def document(text: bytes, fields: bytes, *, close: bool) -> bytes:
    """Answer a GET with a JSON document; `fields` are further ones, each with its CRLF."""
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b%b\r\n%b" % (
        len(text),
        fields,
        b"Connection: close\r\n" if close else b"",
        text,
    )
