"""What a request head decides, once for all requests that repeat it.

Clients send the same header block again and again. A template holds everything that follows from those bytes
and from the configuration alone; what can change between two requests (the upstream, the varying values,
Content-Length, the client's address) are holes, filled when the request is written.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from shadowcat.auth.principal import ANONYMOUS
from shadowcat.auth.tokens import Fault, bearer
from shadowcat.errors import Refusal
from shadowcat.http1 import cors
from shadowcat.http1.render import as_format
from shadowcat.http1.request import RequestHead
from shadowcat.mcp.envelope import Envelope
from shadowcat.mcp.eras import Era
from shadowcat.mcp.mirrored import ENCODED, Mirrored
from shadowcat.policy.forwarded import Forwarded
from shadowcat.proxy.route import Route
from shadowcat.proxy.upstreams.origin import Origin

if TYPE_CHECKING:
    from shadowcat.proxy.clients.admission import Admitted
    from shadowcat.proxy.clients.pages import PageRequest
    from shadowcat.proxy.exchanges.exchange import Exchange
    from shadowcat.shm.sessions.table import Session

_WITH_LENGTH: Final = frozenset({b"POST", b"DELETE"})
"""Methods forwarded with a Content-Length even if the body is empty (RFC 9110 section 8.6)."""
_NAME: Final = b"mcp-name"
_SESSION: Final = b"mcp-session-id"
_VERSION: Final = b"mcp-protocol-version"
_TRACEPARENT: Final = b"traceparent"
_TRACESTATE: Final = b"tracestate"
_LAST_EVENT_ID: Final = b"last-event-id"
_NOTHING_MIRRORED: Final = Mirrored()
_UNPLAIN: Final = object()
"""Equals no name that an envelope may have."""
_MOST_RENDERED: Final = 1024
"""Origins; what is beyond is rendered anew."""


def _plain(values: Sequence[bytes]) -> str | None:
    """The text of a field that occurs once."""
    return values[0].decode("latin-1") if len(values) == 1 else None


def _plain_name(values: Sequence[bytes]) -> object:
    """The name that `Mcp-Name` says plainly: None without one, `_UNPLAIN` if it takes a closer look."""
    if not values:
        return None
    if len(values) > 1 or values[0].startswith(ENCODED):
        return _UNPLAIN
    try:
        return values[0].decode()
    except UnicodeDecodeError:
        return _UNPLAIN


class RequestTemplate:
    """A well-formed head: where it goes, or why it is refused."""

    __slots__ = (
        "_forwarded",
        "_holes",
        "_lines",
        "_mirrored",
        "_name_hole",
        "_named",
        "_opening",
        "_plain_method",
        "_plain_name",
        "_plain_version",
        "_rendered",
        "_resumeless",
        "_retraced",
        "_written",
        "admitted",
        "audit_note",
        "chain",
        "chunked",
        "cors",
        "document",
        "era",
        "expect_continue",
        "halts",
        "has_body",
        "http11",
        "is_judged",
        "is_modern",
        "is_post",
        "keep_alive",
        "keeps_alive",
        "login",
        "may_open",
        "method",
        "new_exchange",
        "note",
        "page",
        "path",
        "preflight",
        "refusal",
        "route",
        "session",
        "session_id",
        "suffix",
        "token",
        "version",
    )

    new_exchange: type[Exchange]
    """The kind of exchange that such a request needs; set by whoever makes templates for a plane."""

    def __init__(
        self,
        head: RequestHead,
        era: Era,
        route: Route | None,
        suffix: bytes,
        refusal: Refusal | None,
        forwarded: Forwarded,
        holes: Sequence[bytes],
    ) -> None:
        """Describe a head.

        Args:
            head: What the strict reading found.
            era: Of the request.
            route: Where it goes.
            suffix: What of the path follows the route's own, and the query.
            refusal: Why it goes nowhere; given wherever `route` is not.
            forwarded: What the upstream is told of the request's way.
            holes: Lower-case names of the varying fields, in their order; each occurs once in the head.
        """
        self.method = head.method
        self.path = head.target.path
        self.era = era
        self.route = route
        self.suffix = suffix
        self.refusal = refusal
        self.http11 = head.http11
        self.keep_alive = head.keep_alive
        self.is_post = head.method == b"POST"
        self.is_modern = era is Era.MODERN
        self.chunked = head.chunked
        self.has_body = head.has_length or head.chunked or head.method in _WITH_LENGTH
        self.expect_continue = head.expect_continue
        origins = head.values(b"origin")
        is_foreign = refusal is Refusal.WRONG_HOST or refusal is Refusal.WRONG_ORIGIN
        self.cors = cors.answer_fields(origins[0]) if origins and not is_foreign else b""
        """Fields that go into every answer, for a page of another origin to read it; empty without Origin."""
        self.preflight: bytes | None = None
        """Fields of the answer to OPTIONS, which the proxy gives; None for other methods."""
        if head.method == b"OPTIONS":
            self.preflight = cors.preflight_fields(head.values(b"access-control-request-headers"))
        self.keeps_alive = head.keep_alive and head.http11 and not self.cors
        """Whether an answer can be passed on without a field of the proxy's own."""
        self.document: bytes | None = None
        """The answer to a GET of the proxy's own metadata."""
        self.page: PageRequest | None = None
        """Which of the proxy's own pages is called, and with what."""
        access = route.access if route is not None else None
        is_judged = self.is_judged = access is not None and not access.forwards and self.preflight is None
        """Whether its token is judged."""
        self.token: bytes | Fault = Fault.MISSING
        """The bearer token as received, where it is to be judged."""
        if is_judged:
            self.token = bearer(head.values(b"authorization"), head.target.query)
        self.login: bytes | None = None
        """The cookie of a login, where it counts; the token is that which it stands for, once it is known."""
        if is_judged and access is not None and access.login is not None and self.token is Fault.MISSING:
            self.login = access.login.cookie_of(head)
        self.admitted: Admitted | None = None
        """What was last found out about the token, to be checked anew. What it says of the principal holds
        for every request that was let through with this head."""
        is_limited = route is not None and route.is_limited_ahead and self.preflight is None
        self.halts = refusal is not None or route is None or is_judged or is_limited
        """Whether such a request does not simply begin: it is refused, answered, counted, or judged."""
        self._lines = head.forwarded
        self._forwarded = forwarded
        self.chain = forwarded.chain
        """X-Forwarded-For as received from a trusted proxy; empty otherwise."""
        self._holes = tuple(holes)
        self._mirrored = _NOTHING_MIRRORED
        self._name_hole = -1
        if era is Era.MODERN:
            self._mirrored = Mirrored(head.values(_VERSION), head.values(b"mcp-method"), head.values(_NAME))
            self._name_hole = self._holes.index(_NAME) if _NAME in self._holes else -1
        self._plain_version = _plain(self._mirrored.version)
        self._plain_method = _plain(self._mirrored.method)
        self._plain_name = _plain_name(self._mirrored.name)
        self._named: tuple[bytes, ...] | None = None
        """The varying values of which that is the name, where the name is one of them."""
        self._rendered: dict[Origin, tuple[bytes, tuple[int, ...] | None]] = {}
        self._opening = b""
        """The head written last, and what for: clients repeat even the length of their bodies."""
        self._written: tuple[object, ...] | None = None
        self._retraced: dict[bool, RequestTemplate] | None = None
        self._resumeless: RequestTemplate | None = None
        self.note: object = None
        """What an observer found out about the head, to have it when the head comes again."""
        self.audit_note: object = None
        """The same of the audit."""
        versions = head.values(_VERSION)
        self.version = versions[0] if versions else None
        """MCP-Protocol-Version as received."""
        ids = head.values(_SESSION) if era is Era.LEGACY else ()
        self.session_id = ids[0] if ids else None
        """Mcp-Session-Id as received; None without one, and in the modern era, which has no sessions."""
        self.may_open = self.is_post and era is Era.LEGACY and not ids
        """Whether the message may be the first one of a session."""
        self.session: Session | None = None
        """The session that was last found by this id and may be used by such requests, to be checked anew."""

    @property
    def cancelled_by_disconnect(self) -> bool:
        """Whether a client that leaves means its request to end.

        In the modern era closing the stream is how to cancel; a GET stream without a reader only makes the
        next one fail with 409. A legacy POST goes on.
        """
        return self.is_modern or not self.is_post

    @property
    def base(self) -> str:
        """Scheme and host as the client knows them."""
        return self._forwarded.base

    @property
    def principal(self) -> str:
        """On whose behalf the request is made, once it was let through."""
        return ANONYMOUS if self.admitted is None else self.admitted.principal

    def admit(self, admitted: Admitted) -> None:
        """The token was found good."""
        if admitted is self.admitted:
            return
        if self.admitted is not None and self.admitted.principal != admitted.principal:
            # An issuer has changed its mind about whose token it is: nothing of the other one's stays.
            self.session = None
        self._retraced = self._resumeless = None  # Copies, with what was known of the token before.
        self.admitted = admitted

    @property
    def plain_method(self) -> str | None:
        """The method that the head names; None if that is not told, or not plainly."""
        return self._plain_method

    @property
    def host(self) -> bytes:
        """The Host the client asked for, seen through trusted proxies."""
        return self._forwarded.host

    def field(self, name: bytes, values: tuple[bytes, ...]) -> bytes | None:
        """The value of an end-to-end field, by its lower-case name; None if it is absent or not known.

        `values` are those of the varying fields.
        """
        for lower, _, value in self._lines:
            if lower == name:
                if name not in self._holes:
                    return value
                index = self._holes.index(name)
                return values[index] if index < len(values) else None
        return None

    def carries(self, name: bytes) -> bool:
        """Whether there is an end-to-end field of this lower-case name."""
        return any(lower == name for lower, _, _ in self._lines)

    def end_to_end(self, values: tuple[bytes, ...], client: bytes) -> list[tuple[bytes, bytes]]:
        """The names and values of the fields that any upstream gets, without those of MCP sessions.

        Args:
            values: Those of the varying fields.
            client: The address at the other end of the client's connection.
        """
        fields = [
            (name, values[self._holes.index(lower)] if lower in self._holes else value)
            for lower, name, value in self._lines
        ]
        chain, host, proto = self._forwarded
        if host:
            fields.append((b"X-Forwarded-Host", host))
        fields.append((b"X-Forwarded-Proto", proto))
        fields.append((b"X-Forwarded-For", b"%b, %b" % (chain, client) if chain else client))
        return fields

    def without_resumption(self) -> RequestTemplate:
        """The same request, but of a client that has seen no event yet."""
        if self._resumeless is None:
            found = self._resumeless = copy.copy(self)
            found.drop_fields({_LAST_EVENT_ID})
        return self._resumeless

    def retraced(
        self, values: tuple[bytes, ...], traceparent: bytes, *, fresh: bool
    ) -> tuple[RequestTemplate, tuple[bytes, ...]]:
        """The same request as the child of another span.

        Args:
            values: Those of the varying fields.
            traceparent: What the upstream gets to see (W3C Trace Context section 3.2).
            fresh: It begins a trace: a tracestate, which belongs to another, goes (section 3.3.1).

        Returns:
            The template and the values to render.
        """
        if not fresh and _TRACEPARENT in self._holes:
            index = self._holes.index(_TRACEPARENT)
            return self, (*values[:index], traceparent, *values[index + 1 :])
        if self._retraced is None:
            self._retraced = {}
        found = self._retraced.get(fresh)
        if found is None:
            found = self._retraced[fresh] = copy.copy(self)
            found.expect_traceparent(fresh=fresh)
        return found, (*values, traceparent)

    def expect_traceparent(self, *, fresh: bool) -> None:
        """Have a hole for traceparent behind all others, and no other such field; for a copy."""
        self.drop_fields({_TRACEPARENT, _TRACESTATE} if fresh else {_TRACEPARENT})
        self._lines = (*self._lines, (_TRACEPARENT, _TRACEPARENT, b""))
        self._holes = (*self._holes, _TRACEPARENT)

    def drop_fields(self, names: set[bytes]) -> None:
        """Have no such fields; for a copy."""
        self._lines = tuple(line for line in self._lines if line[0] not in names)
        # A dropped field's hole keeps its place among the values, without a line that takes it.
        self._holes = tuple(b"" if name in names else name for name in self._holes)
        self._rendered = {}
        self._written = None
        self._retraced = self._resumeless = None
        self.note = self.audit_note = None

    def mirrored(self, values: tuple[bytes, ...]) -> Mirrored:
        """The headers that repeat the body; `values` are those of the varying fields."""
        if self._name_hole < 0:
            return self._mirrored
        version, method, _ = self._mirrored
        return Mirrored(version, method, (values[self._name_hole],))

    def agrees(self, envelope: Envelope, values: tuple[bytes, ...]) -> bool:
        """Whether the mirrored headers say plainly, and each once, what the body says.

        False is no verdict: what is missing, encoded or different is for `policy.inspect` to judge.
        """
        method = envelope.method
        if method != self._plain_method:
            return False
        params = envelope.params
        if params is not None and params.meta is not None and method == "tools/call":
            # What the properties find for most requests, without calling them.
            version = params.meta.version
            name = params.name
        else:
            version = envelope.version
            name = envelope.name
        if values is not self._named and self._name_hole >= 0:
            # Once per head as it is: who repeats it has the same tuple.
            self._plain_name = _plain_name((values[self._name_hole],))
            self._named = values
        return version == self._plain_version and name == self._plain_name

    def render(self, origin: Origin, client: bytes, body: bytes, values: tuple[bytes, ...]) -> bytes:
        """The whole request as `origin` gets it.

        Args:
            origin: The upstream chosen.
            client: The address at the other end of the client's connection, for X-Forwarded-For.
            body: The whole body, its coding taken off.
            values: Those of the varying fields, as many as there are holes.
        """
        written = (origin, client, len(body), values)
        if written != self._written:
            self._opening = self._fill(origin, values, (client, len(body)))
            self._written = written
        return self._opening + body

    def render_pinned(
        self, origin: Origin, client: bytes, body: bytes, values: tuple[bytes, ...], session_id: bytes
    ) -> bytes:
        """The whole request of a session, which `origin` knows by `session_id`; see `render`."""
        written = (origin, client, len(body), values, session_id)
        if written != self._written:
            self._opening = self._fill(origin, values, (session_id, client, len(body)))
            self._written = written
        return self._opening + body

    def _fill(self, origin: Origin, values: tuple[bytes, ...], last: tuple[object, ...]) -> bytes:
        """The request's head as `origin` gets it; `last` fills the holes behind the varying fields."""
        rendered = self._rendered.get(origin)
        if rendered is None:
            if len(self._rendered) >= _MOST_RENDERED:
                self._rendered.clear()  # An upstream with a new token is a new origin.
            rendered = self._rendered[origin] = self._open(origin)
        opening, used = rendered
        if used is not None:
            values = tuple([values[index] for index in used])
        return opening % ((*values, *last) if self.has_body else (*values, *last[:-1]))

    def _open(self, origin: Origin) -> tuple[bytes, tuple[int, ...] | None]:
        """The request as a format, and which values it takes; None for all of them."""
        path, mark, query = self.suffix.partition(b"?")
        pieces = [
            as_format(b"%b %b%b%b HTTP/1.1\r\n" % (self.method, origin.path_for(path), mark, query)),
            as_format(b"Host: %b\r\n" % origin.address.authority),
        ]
        used = []
        for lower, name, value in self._lines:
            if lower in origin.replaced:
                continue
            if lower in self._holes:
                used.append(self._holes.index(lower))
                pieces.append(as_format(name) + b": %b\r\n")
            else:
                pieces.append(as_format(b"%b: %b\r\n" % (name, value)))
        pieces.append(as_format(origin.credential_lines))
        chain, host, proto = self._forwarded
        if host:
            pieces.append(as_format(b"X-Forwarded-Host: %b\r\n" % host))
        pieces.append(as_format(b"X-Forwarded-Proto: %b\r\n" % proto))
        pieces.append(b"Accept-Encoding: identity\r\n")
        if self.session_id is not None:
            pieces.append(b"Mcp-Session-Id: %b\r\n")
        pieces.append(b"X-Forwarded-For: %b%%b\r\n" % (as_format(chain) + b", " if chain else b""))
        pieces.append(b"Content-Length: %d\r\n\r\n" if self.has_body else b"\r\n")
        return b"".join(pieces), None if len(used) == len(self._holes) else tuple(used)
