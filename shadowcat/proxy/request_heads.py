"""Reads and routes request heads, and remembers those that come again."""

from __future__ import annotations

from typing import Final

from shadowcat.config.model import Http
from shadowcat.errors import Refusal
from shadowcat.http1.memo import Cut, Cutter, Entry, Memo, match
from shadowcat.http1.request import HeadLimits, RequestHead, parse_request_head
from shadowcat.mcp.eras import era_of
from shadowcat.proxy.route import RouteTable
from shadowcat.proxy.template import RequestTemplate

_METHODS: Final = frozenset({b"GET", b"POST", b"DELETE", b"OPTIONS"})
_MOST_HEADS: Final = 16_384
_MOST_BYTES: Final = 16 * 1024 * 1024
_TRIAL: Final = 32
"""Heads after which a connection that seldom repeats itself is no longer compared."""

# Fields whose value differs in every request of an ordinary client, in the two spellings that clients use.
_VARYING: Final = tuple(
    spelling
    for name in (
        b"traceparent",
        b"tracestate",
        b"x-request-id",
        b"x-amzn-trace-id",
        b"mcp-name",
        b"last-event-id",
    )
    for spelling in (name, name.title())
)

RequestEntry = Entry[RequestTemplate]


class HeadTrack:
    """What one connection remembers of its heads."""

    __slots__ = ("hits", "last", "tries")

    def __init__(self) -> None:
        self.last: RequestEntry | None = None
        self.tries = 0
        self.hits = 0


class RequestHeads:
    """The one place where a head becomes a template."""

    __slots__ = ("_cutter", "_limits", "_memo", "_routes", "limit")

    def __init__(self, http: Http, routes: RouteTable) -> None:
        self._limits = HeadLimits(http.head_limit, http.target_limit, http.max_fields)
        self.limit = http.head_limit
        self._routes = routes
        self._cutter = Cutter(_VARYING)
        self._memo: Memo[RequestTemplate] = Memo(_MOST_HEADS, _MOST_BYTES)

    def repeat(
        self, data: bytes, track: HeadTrack
    ) -> tuple[RequestTemplate, tuple[bytes, ...], int, int] | None:
        """Recognise the connection's last head at the beginning of `data`.

        Returns:
            The template, the varying values, Content-Length, and where the head ends; None if it is another.
        """
        last = track.last
        if last is None:
            return None
        found = match(data, last, self.limit)
        if found is None:
            return None
        track.hits += 1
        track.tries += 1
        values, length, end = found
        return last.verdict, values, length, end

    def read(self, head: bytes, track: HeadTrack) -> tuple[RequestTemplate | Refusal, tuple[bytes, ...], int]:
        """Read a whole head that is not the connection's last one.

        Returns:
            The template or the refusal, the varying values, and Content-Length.
        """
        track.tries += 1
        cut = None
        if track.tries < _TRIAL or track.hits * 2 >= track.tries:
            cut = self._cutter.cut(head)
        if cut is not None:
            entry = self._memo.get(cut.literals)
            if entry is not None:
                track.hits += 1
                track.last = entry
                found = match(head, entry, self.limit)
                if found is not None:
                    return entry.verdict, found[0], found[1]
        else:
            track.last = None
        parsed = parse_request_head(head, self._limits)
        if isinstance(parsed, Refusal):
            return parsed, (), 0
        description, length = parsed
        holes = _holes(description, cut) if cut is not None else None
        if cut is None or holes is None:
            return self._route(description, []), (), length
        template = self._route(description, holes)
        if template.refusal is None:
            track.last = self._memo.admit(Entry(cut.literals, cut.length_at, template))
        return template, cut.values, length

    def rotate(self) -> None:
        """Forget what has not been used since the last call."""
        self._memo.rotate()

    def _route(self, head: RequestHead, holes: list[bytes]) -> RequestTemplate:
        versions = head.values(b"mcp-protocol-version")
        era = era_of(head.method, versions[0] if versions else None)
        found = self._routes.match(head.target.path)
        if found is None:
            return RequestTemplate(head, era, None, b"", Refusal.NO_ROUTE, holes)
        route, suffix = found
        refusal = None if head.method in _METHODS else Refusal.METHOD
        return RequestTemplate(head, era, route, suffix + head.target.query, refusal, holes)


def _holes(head: RequestHead, cut: Cut) -> list[bytes] | None:
    """The names of the fields that were cut; None if the cut and the strict reading do not agree on them."""
    names = cut.names()
    present = [name for name, _ in head.fields]
    if head.has_length != (cut.length_at >= 0) or any(present.count(name) != 1 for name in names):
        return None
    return names
