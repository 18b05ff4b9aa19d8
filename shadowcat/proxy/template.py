"""What a request head decides, once for all requests that repeat it.

Clients send the same header block again and again. A template holds everything that follows from those bytes
and from the configuration alone; what can change between two requests (the upstream, Content-Length, the
client's address) are holes, filled when the request is written.
"""

from __future__ import annotations

from typing import Final

from shadowcat.errors import Refusal
from shadowcat.http1.request import RequestHead
from shadowcat.mcp.eras import Era
from shadowcat.proxy.origin import Origin
from shadowcat.proxy.route import Route

BODY_METHODS: Final = frozenset({b"POST", b"DELETE"})
"""Methods forwarded with a Content-Length even if the body is empty (RFC 9110 section 8.6)."""


class RequestTemplate:
    """A well-formed head: where it goes, or why it is refused."""

    __slots__ = (
        "_rendered",
        "era",
        "expect_continue",
        "has_body",
        "head",
        "http11",
        "is_post",
        "keep_alive",
        "refusal",
        "route",
        "suffix",
    )

    def __init__(
        self, head: RequestHead, era: Era, route: Route | None, suffix: bytes, refusal: Refusal | None
    ) -> None:
        """There is a `refusal` wherever there is no `route`."""
        self.head = head
        self.era = era
        self.route = route
        self.refusal = refusal
        self.suffix = suffix
        """What of the path follows the route's own, and the query."""
        self.http11 = head.http11
        self.keep_alive = head.keep_alive
        self.is_post = head.method == b"POST"
        self.has_body = head.has_length or head.chunked or head.method in BODY_METHODS
        self.expect_continue = head.expect_continue
        self._rendered: dict[Origin, bytes] = {}

    def render(self, origin: Origin, client: bytes, body: bytes) -> bytes:
        """The whole request as `origin` gets it.

        Args:
            origin: The upstream chosen.
            client: The client's address, for X-Forwarded-For.
            body: The whole body, its coding taken off.
        """
        opening = self._rendered.get(origin)
        if opening is None:
            opening = self._rendered[origin] = self._open(origin)
        if self.has_body:
            return b"%b%b\r\nContent-Length: %d\r\n\r\n%b" % (opening, client, len(body), body)
        return b"%b%b\r\n\r\n" % (opening, client)

    def _open(self, origin: Origin) -> bytes:
        """Everything up to the first hole."""
        head = self.head
        path, mark, query = self.suffix.partition(b"?")
        pieces = [
            b"%b %b%b%b HTTP/1.1\r\n" % (head.method, origin.path_for(path), mark, query),
            b"Host: %b\r\n" % origin.address.authority,
        ]
        pieces += [
            b"%b: %b\r\n" % (name, value)
            for lower, name, value in head.forwarded
            if lower not in origin.replaced
        ]
        pieces.append(origin.credential_lines)
        if head.host:
            pieces.append(b"X-Forwarded-Host: %b\r\n" % head.host)
        pieces.append(b"X-Forwarded-Proto: http\r\nAccept-Encoding: identity\r\nX-Forwarded-For: ")
        return b"".join(pieces)
