"""Reads and routes request heads, and remembers those that come again."""

from __future__ import annotations

from typing import Final

from shadowcat.config.model import Http
from shadowcat.errors import Refusal
from shadowcat.http1.memo import Cut, Cutter, Memo, Recall
from shadowcat.http1.request import HeadLimits, RequestHead, parse_request_head
from shadowcat.mcp.eras import Era, era_of
from shadowcat.policy.forwarded import Forwarded, TrustedProxies, describe
from shadowcat.policy.guard import Guard
from shadowcat.policy.inspect import has_foreign_charset
from shadowcat.proxy.clients.pages import Pages
from shadowcat.proxy.clients.template import RequestTemplate
from shadowcat.proxy.exchanges.kinds import Kinds
from shadowcat.proxy.route import RouteTable

_METHODS: Final = frozenset({b"GET", b"POST", b"DELETE", b"OPTIONS"})
_READING: Final = frozenset({b"GET", b"OPTIONS"})
_TOKEN: Final = b"authorization"
_VERSION: Final = b"mcp-protocol-version"
_SESSION: Final = b"mcp-session-id"
_MOST_HEADS: Final = 16_384
_MOST_BYTES: Final = 16 * 1024 * 1024

# Fields whose value differs in every request of an ordinary client.
_VARYING: Final = (
    b"traceparent",
    b"tracestate",
    b"x-request-id",
    b"x-amzn-trace-id",
    b"mcp-name",
    b"last-event-id",
)

RequestRecall = Recall[RequestTemplate]


class RequestHeads:
    """The one place where a head becomes a template.

    Connections that are judged alike share one: those of loopback listeners, or from trusted proxies, have
    their own, because what a head is allowed depends on where it comes from.
    """

    __slots__ = ("_believed", "_cutter", "_guard", "_kinds", "_limits", "_memo", "_pages", "_routes", "limit")

    def __init__(
        self,
        http: Http,
        routes: RouteTable,
        guard: Guard,
        kinds: Kinds,
        pages: Pages | None,
        believed: TrustedProxies | None,
    ) -> None:
        """`believed` are all trusted proxies, for connections from one of them; None for those of others."""
        self._pages = pages
        self._kinds = kinds
        self._cutter = Cutter(_VARYING)
        self._memo: Memo[RequestTemplate] = Memo(_MOST_HEADS, _MOST_BYTES)
        self.configure(http, routes, guard, believed)

    def configure(
        self, http: Http, routes: RouteTable, guard: Guard, believed: TrustedProxies | None
    ) -> None:
        """Go by these from now on, and forget all heads that were judged by others."""
        self._guard = guard
        self._believed = believed
        self._limits = HeadLimits(http.head_limit, http.target_limit, http.max_fields)
        self.limit = http.head_limit
        self._routes = routes
        self._memo.clear()

    def recall(self) -> RequestRecall:
        """The memory of a new connection."""
        return Recall(self.limit, self._memo)

    def read(
        self, head: bytes, recall: RequestRecall
    ) -> tuple[RequestTemplate | Refusal, tuple[bytes, ...], int]:
        """Read a whole head that is not the connection's last one.

        Returns:
            The template or the refusal, the varying values, and Content-Length.
        """
        cut = recall.cut(head, self._cutter) if recall.pays() else None
        if cut is not None:
            entry = self._memo.get(cut.literals)
            recall.count(hit=entry is not None)
            if entry is not None:
                recall.keep(entry, cut, head)
                return entry.verdict, cut.values, cut.length
        parsed = parse_request_head(head, self._limits)
        if isinstance(parsed, Refusal):
            return parsed, (), 0
        description, length = parsed
        holes = _holes(description, cut) if cut is not None else None
        if cut is None or holes is None:
            return self._route(description, []), (), length
        template = self._route(description, holes)
        # A chunked body is never known to be whole by its head, as the short way wants it.
        if template.refusal is None and not template.chunked:
            entry = cut.entry(template)
            if self._memo.admit(entry):
                recall.keep(entry, cut, head)
        return template, cut.values, length

    def renewed(self, template: RequestTemplate) -> RequestTemplate:
        """The same template, read a while ago, by what is configured now: its request has not begun.

        What a route asks of its requests is asked of this one, too. Where it wants tokens treated in another
        way than the head was read, the head would have to be read again: it is refused, to be sent again.
        """
        route = template.route
        if template.refusal is not None or route is None:
            return template
        found = self._routes.match(template.path)
        access = route.access
        forwards = access is not None and access.forwards
        judges = access is not None and not forwards and template.preflight is None
        if (
            found is None
            or found[0] is not route
            or judges != template.is_judged
            or (template.carries(_TOKEN) and not forwards)
        ):
            template.refusal = Refusal.ROUTE_CHANGED
        is_limited = route.is_limited_ahead and template.preflight is None
        template.halts = template.refusal is not None or judges or is_limited
        template.new_exchange = self._kinds.of(template)
        return template

    def rotate(self) -> None:
        """Forget what has not been used since the last call."""
        self._memo.rotate()

    def _route(self, head: RequestHead, holes: list[bytes]) -> RequestTemplate:
        versions = head.values(_VERSION)
        era = era_of(head.method, versions[0] if versions else None)
        found = self._routes.match(head.target.path)
        route, suffix = found if found is not None else (None, b"")
        refusal = None
        if found is None:
            refusal = Refusal.NO_ROUTE
        elif head.method not in _METHODS:
            refusal = Refusal.METHOD
        elif len(versions) > 1:
            refusal = Refusal.REPEATED_VERSION
        elif era is Era.LEGACY and len(head.values(_SESSION)) > 1:
            refusal = Refusal.SESSION_REPEATED
        elif has_foreign_charset(head.values(b"content-type")):
            refusal = Refusal.CHARSET
        forwarded = describe(head.named, head.host, believed=self._believed)
        if isinstance(forwarded, Refusal):
            refusal = forwarded
            forwarded = Forwarded(b"", head.host, b"http")
        refusal = self._guard.check(head.host, head.values(b"origin")) or refusal
        described = self._routes.described(head.target.path)
        if described is not None:
            route = None
            refusal = self._guard.check(head.host, head.values(b"origin"))
            if head.method not in _READING and refusal is None:
                refusal = Refusal.METHOD
        page = self._pages.kind_at(head.target.path) if self._pages is not None else None
        if page is not None and self._pages is not None:
            route, suffix = None, b""
            refusal = self._guard.check(head.host, head.values(b"origin")) or self._pages.refuse(page, head)
        if route is not None and route.access is not None and route.access.forwards:
            tokens = [(_TOKEN, b"Authorization", value) for value in head.values(_TOKEN)]
            head = head._replace(forwarded=(*head.forwarded, *tokens))
        suffix += head.target.query
        template = RequestTemplate(head, era, route, suffix, refusal, forwarded, holes)
        if described is not None:
            template.document = described.document(template.base)
        if page is not None and self._pages is not None:
            template.page = self._pages.request(page, head)
        template.new_exchange = self._kinds.of(template)
        return template


def _holes(head: RequestHead, cut: Cut) -> list[bytes] | None:
    """The names of the fields that were cut; None if the cut and the strict reading do not agree on them."""
    names = cut.names()
    present = [name for name, _, _ in head.forwarded]
    if head.has_length != (cut.length_at >= 0) or any(present.count(name) != 1 for name in names):
        return None
    return names
