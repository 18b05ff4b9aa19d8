"""What a request head decides, once for all requests that repeat it.

Clients send the same header block again and again. A template holds everything that follows from those bytes
and from the configuration alone; what can change between two requests (the upstream, the varying values,
Content-Length, the client's address) are holes, filled when the request is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from shadowcat.errors import Refusal
from shadowcat.http1.request import RequestHead
from shadowcat.mcp.eras import Era
from shadowcat.proxy.origin import Origin
from shadowcat.proxy.route import Route

_WITH_LENGTH: Final = frozenset({b"POST", b"DELETE"})
"""Methods forwarded with a Content-Length even if the body is empty (RFC 9110 section 8.6)."""


class RequestTemplate:
    """A well-formed head: where it goes, or why it is refused."""

    __slots__ = (
        "_forwarded",
        "_holes",
        "_rendered",
        "_suffix",
        "chunked",
        "era",
        "expect_continue",
        "has_body",
        "host",
        "http11",
        "is_post",
        "keep_alive",
        "keeps_alive",
        "method",
        "refusal",
        "route",
    )

    def __init__(
        self,
        head: RequestHead,
        era: Era,
        route: Route | None,
        suffix: bytes,
        refusal: Refusal | None,
        holes: Sequence[bytes] = (),
    ) -> None:
        """Describe a head.

        Args:
            head: What the strict reading found.
            era: Of the request.
            route: Where it goes.
            suffix: What of the path follows the route's own, and the query.
            refusal: Why it goes nowhere; given wherever `route` is not.
            holes: Lower-case names of the varying fields, in their order; each occurs once in the head.
        """
        self.method = head.method
        self.era = era
        self.route = route
        self.refusal = refusal
        self.http11 = head.http11
        self.keep_alive = head.keep_alive
        self.keeps_alive = head.keep_alive and head.http11
        """Whether the connection goes on without a field that says so."""
        self.host = head.host
        self.is_post = head.method == b"POST"
        self.chunked = head.chunked
        self.has_body = head.has_length or head.chunked or head.method in _WITH_LENGTH
        self.expect_continue = head.expect_continue
        self._suffix = suffix
        self._forwarded = head.forwarded
        self._holes = tuple(holes)
        self._rendered: dict[Origin, tuple[bytes, tuple[int, ...] | None]] = {}

    def render(self, origin: Origin, client: bytes, body: bytes, values: tuple[bytes, ...]) -> bytes:
        """The whole request as `origin` gets it.

        Args:
            origin: The upstream chosen.
            client: The client's address, for X-Forwarded-For.
            body: The whole body, its coding taken off.
            values: Those of the varying fields, as many as there are holes.
        """
        rendered = self._rendered.get(origin)
        if rendered is None:
            rendered = self._rendered[origin] = self._open(origin)
        opening, used = rendered
        if used is not None:
            values = tuple([values[index] for index in used])
        if self.has_body:
            return opening % (*values, client, len(body), body)
        return opening % (*values, client)

    def _open(self, origin: Origin) -> tuple[bytes, tuple[int, ...] | None]:
        """The request as a format, and which values it takes; None for all of them."""
        path, mark, query = self._suffix.partition(b"?")
        fixed = [
            b"%b %b%b%b HTTP/1.1\r\n" % (self.method, origin.path_for(path), mark, query),
            b"Host: %b\r\n" % origin.address.authority,
        ]
        pieces = [_literal(piece) for piece in fixed]
        used = []
        for lower, name, value in self._forwarded:
            if lower in origin.replaced:
                continue
            if lower in self._holes:
                used.append(self._holes.index(lower))
                pieces.append(_literal(name) + b": %b\r\n")
            else:
                pieces.append(_literal(b"%b: %b\r\n" % (name, value)))
        pieces.append(_literal(origin.credential_lines))
        if self.host:
            pieces.append(_literal(b"X-Forwarded-Host: %b\r\n" % self.host))
        pieces.append(b"X-Forwarded-Proto: http\r\nAccept-Encoding: identity\r\nX-Forwarded-For: %b\r\n")
        pieces.append(b"Content-Length: %d\r\n\r\n%b" if self.has_body else b"\r\n")
        return b"".join(pieces), None if len(used) == len(self._holes) else tuple(used)


def _literal(text: bytes) -> bytes:
    """Text as it stands in a format."""
    return text.replace(b"%", b"%%")
