"""Reads response heads, and remembers those that come again: the mirror image of `request_heads`."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from shadowcat.http1.memo import Cutter, Memo, Recall
from shadowcat.http1.render import as_format
from shadowcat.http1.response import Body, ResponseHead, body_of, parse_response_head
from shadowcat.policy.faults import STATUSES

HEAD_LIMIT: Final = 64 * 1024
_MOST_HEADS: Final = 4096
_MOST_BYTES: Final = 4 * 1024 * 1024
_SESSION: Final = b"mcp-session-id"
_CHALLENGES: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.PROXY_AUTHENTICATION_REQUIRED)
_TELLING: Final = frozenset({HTTPStatus.NOT_FOUND, *STATUSES})
_VARYING: Final = (b"date", _SESSION, b"x-request-id")


class ResponseTemplate:
    """What a response head decides, whichever client gets it."""

    __slots__ = (
        "_format",
        "_opening",
        "_session_hole",
        "_session_id",
        "challenges",
        "chunked",
        "encoded",
        "event_stream",
        "has_length",
        "interim",
        "keep_alive",
        "keep_alive_timeout",
        "names_session",
        "ordinary",
        "status",
    )

    def __init__(self, head: ResponseHead, holes: list[bytes]) -> None:
        """`holes` are the lower-case names of the varying fields, each of which occurs once in the head."""
        self.status = head.status
        self.interim = head.status < 200
        self.keep_alive = head.keep_alive
        self.keep_alive_timeout = head.keep_alive_timeout
        self.chunked = head.chunked
        self.has_length = head.has_length
        self.event_stream = head.event_stream
        self.encoded = any(
            name == b"content-encoding" and value.lower() != b"identity" for name, value in head.fields
        )
        """Whether the content cannot be read as it is, though plain content was asked for."""
        ids = [value for lower, _, value in head.returned if lower == _SESSION]
        self.names_session = bool(ids)
        """Whether the upstream names its session: a client of that session is told the proxy's id instead."""
        self._session_hole = holes.index(_SESSION) if _SESSION in holes else -1
        self._session_id = ids[0] if len(ids) == 1 else None
        pieces = [as_format(head.status_line)]
        for lower, name, value in head.returned:
            if lower == _SESSION:
                # The server's id stays behind. A precision of 0 takes the value and writes nothing of it.
                pieces.append(b"%.0b" if lower in holes else b"")
            elif lower in holes:
                pieces.append(as_format(name) + b": %b\r\n")
            else:
                pieces.append(as_format(b"%b: %b\r\n" % (name, value)))
        if ids:
            pieces.append(b"%b")
        self._format = b"".join(pieces)
        self._opening = self._format + b"Content-Length: %d\r\n\r\n"
        self.challenges = head.status in _CHALLENGES or (
            head.status == HTTPStatus.FORBIDDEN
            and any(name == b"www-authenticate" and b"bearer" in value.lower() for name, value in head.fields)
        )
        """Whether the upstream asks whoever it thinks has asked to authenticate (RFC 9110 section 11.6)."""
        self.ordinary = (
            not self.interim
            and not self.challenges
            and head.keep_alive
            and head.keep_alive_timeout is None
            and head.status not in _TELLING
            and body_of(b"", head.status, chunked=head.chunked, has_length=head.has_length) is Body.LENGTH
        )
        """Nothing is left to decide: the connection stays, the body has a length, no session may be lost, and
        the upstream has not failed."""

    def body(self, method: bytes) -> Body:
        """How the body of this answer to `method` ends."""
        return body_of(method, self.status, chunked=self.chunked, has_length=self.has_length)

    def session_id(self, values: tuple[bytes, ...]) -> bytes | None:
        """The upstream's session id; None if there is none, or more than one. `values`: the varying ones."""
        return values[self._session_hole] if self._session_hole >= 0 else self._session_id

    def render(self, values: tuple[bytes, ...], session_line: bytes) -> bytes:
        """Status line and end-to-end fields, each with its CRLF, as an HTTP/1.1 client gets them.

        Args:
            values: Those of the varying fields.
            session_line: What takes the place of the upstream's session id, if it sent one: the field with
                the proxy's own, or nothing.
        """
        return self._format % ((*values, session_line) if self.names_session else values)

    def render_opening(self, values: tuple[bytes, ...], session_line: bytes, length: int) -> bytes:
        """The whole head of an answer of `length` bytes, for a client that keeps its connection."""
        if self.names_session:
            return self._opening % (*values, session_line, length)
        return self._opening % (*values, length)


ResponseRecall = Recall[ResponseTemplate]


class ResponseHeads:
    """The one place where a response head becomes a template."""

    __slots__ = ("_cutter", "_memo")

    def __init__(self) -> None:
        self._cutter = Cutter(_VARYING)
        self._memo: Memo[ResponseTemplate] = Memo(_MOST_HEADS, _MOST_BYTES)

    def recall(self) -> ResponseRecall:
        """The memory of a new connection."""
        return Recall(HEAD_LIMIT, self._memo)

    def read(self, head: bytes, recall: ResponseRecall) -> tuple[ResponseTemplate, tuple[bytes, ...], int]:
        """Read a whole head that is not the connection's last one.

        Returns:
            The template, the varying values, and Content-Length (0 without one).

        Raises:
            BadResponseError: The head is malformed, or frames its body in an ambiguous way.
        """
        cut = recall.cut(head, self._cutter)
        if cut is not None:
            entry = self._memo.get(cut.literals)
            if entry is not None:
                recall.keep(entry, cut, head)
                return entry.verdict, cut.values, cut.length
        description, length = parse_response_head(head)
        names = cut.names() if cut is not None else []
        present = [name for name, _, _ in description.returned]
        if (
            cut is None
            or description.has_length != (cut.length_at >= 0)
            or any(present.count(name) != 1 for name in names)
        ):
            return ResponseTemplate(description, []), (), length
        template = ResponseTemplate(description, names)
        entry = cut.entry(template)
        if self._memo.admit(entry):
            recall.keep(entry, cut, head)
        return template, cut.values, length

    def rotate(self) -> None:
        """Forget what has not been used since the last call."""
        self._memo.rotate()
