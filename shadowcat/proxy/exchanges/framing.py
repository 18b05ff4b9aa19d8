"""How an answer's body is delimited for the client, whatever it was for the proxy (RFC 9112 section 6.3)."""

from __future__ import annotations

from typing import Final, NamedTuple

from shadowcat.http1.response import Body
from shadowcat.proxy.upstreams.response_heads import ResponseTemplate

# An Enum member costs three look-ups.
_LENGTH: Final = Body.LENGTH
_NONE: Final = Body.NONE


class Framing(NamedTuple):
    """The decision for one answer."""

    fields: bytes
    """Header fields, each with its CRLF."""
    chunked: bool
    endless: bool
    """Only the end of the connection tells the client that it has the whole answer."""


# To make one costs as much as an eighth of a relayed event.
_EMPTY: Final = Framing(b"", chunked=False, endless=False)
_CHUNKED: Final = Framing(b"Transfer-Encoding: chunked\r\n", chunked=True, endless=False)
_ENDLESS: Final = Framing(b"", chunked=False, endless=True)


def framing_for(head: ResponseTemplate, body: Body, length: int, http11: bool) -> Framing:
    """Frame an answer.

    Args:
        head: What its head says.
        body: How its body ended for the proxy.
        length: Its Content-Length, in bytes.
        http11: Whether the client understands chunks.
    """
    if body is _LENGTH or (head.has_length and head.status != 204):
        return Framing(b"Content-Length: %d\r\n" % length, chunked=False, endless=False)
    if body is _NONE:
        return _EMPTY
    return _CHUNKED if http11 else _ENDLESS
