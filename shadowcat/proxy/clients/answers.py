"""The answers the proxy gives on its own account, as whole HTTP messages."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

from shadowcat.errors import Refusal
from shadowcat.mcp.answers import error_body
from shadowcat.mcp.eras import Era
from shadowcat.proxy.clients.denial import Denial

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_PLAIN: Final = (
    b"Content-Type: text/plain; charset=utf-8\r\n"
    b"X-Content-Type-Options: nosniff\r\n"
    b"Content-Security-Policy: default-src 'none'; frame-ancestors 'none'\r\n"
    b"Referrer-Policy: no-referrer\r\n"
    b"Cache-Control: no-store\r\n"
)
"""There are codes and states in the addresses of such pages, which are nobody else's business."""
_ALLOW: Final = b"Allow: GET, POST, DELETE, OPTIONS\r\n"


def answer(
    denial: Denial,
    era: Era,
    id_raw: bytes | None,
    *,
    upstream: str | None = None,
    fields: bytes = b"",
    close: bool,
    head: bool = False,
) -> bytes:
    """Write a refusal.

    Args:
        denial: Why.
        era: Decides what an absent id looks like.
        id_raw: The request's JSON-RPC id as received, if it is known.
        upstream: The name of the upstream that this is about, where there is a time to try again.
        fields: Further header fields, each with its CRLF.
        close: Whether the connection ends with it.
        head: The request was HEAD: the answer has no content (RFC 9110 section 9.3.2).
    """
    refusal = denial.refusal
    message = f"{refusal.message}: {denial.detail}" if denial.detail else refusal.message
    data: dict[str, Any] = dict(denial.data or ())
    extra = _ALLOW if refusal is Refusal.METHOD else b""
    retry_after = refusal.retry_after if denial.retry_after is None else denial.retry_after
    if retry_after is not None:
        extra = b"Retry-After: %d\r\n" % retry_after
        data["retryAfterSeconds"] = retry_after
        if upstream is not None:
            data["upstream"] = upstream
    code = refusal.modern_code if era is Era.MODERN else refusal.code
    body = denial.content or error_body(code, message, id_raw, era, data or None)
    return b"HTTP/1.1 %d %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b%b%b\r\n%b" % (
        refusal.status,
        HTTPStatus(refusal.status).phrase.encode(),
        len(body),
        extra,
        denial.fields + fields,
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


def page(status: int, own: Sequence[tuple[str, str]], text: str, fields: bytes, *, close: bool) -> bytes:
    """Answer a browser in plain text.

    Args:
        status: The HTTP status.
        own: Names and values of the fields of this page.
        text: What is shown, whatever comes of it: no browser is to take it for HTML.
        fields: Further header fields, each with its CRLF.
        close: Whether the connection ends with it.
    """
    content = text.encode()
    lines = b"".join([f"{name}: {value}\r\n".encode("latin-1") for name, value in own])
    return b"HTTP/1.1 %d %b\r\nContent-Length: %d\r\n%b%b%b%b\r\n%b" % (
        status,
        HTTPStatus(status).phrase.encode(),
        len(content),
        _PLAIN,
        lines,
        fields,
        b"Connection: close\r\n" if close else b"",
        content,
    )


def document(text: bytes, fields: bytes, *, close: bool) -> bytes:
    """Answer a GET with a JSON document; `fields` are further ones, each with its CRLF."""
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b%b\r\n%b" % (
        len(text),
        fields,
        b"Connection: close\r\n" if close else b"",
        text,
    )
