"""Exchanges of routes that hide tools: what their clients get of lists of tools is changed on its way.

    tools/list, a batch, a GET stream     an answer in one piece is held until it is complete; of a stream,
                                          each event until it is complete
    everything else                       as on every route: of a request only its method is looked at

What cannot be read, or is too long, is not passed on: 502, or the answer is cut off where it has begun.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar, Final, cast

from shadowcat.errors import Refusal
from shadowcat.http1.response import Body
from shadowcat.mcp.list_events import MAX_EVENT, ListEvents
from shadowcat.mcp.methods import TOOLS_LIST
from shadowcat.mcp.tool_lists import ListError, filter_message
from shadowcat.proxy.exchanges.batch_exchange import BatchExchange
from shadowcat.proxy.exchanges.delete_exchange import DeleteExchange
from shadowcat.proxy.exchanges.exchange import Exchange
from shadowcat.proxy.exchanges.initialize import InitializeExchange
from shadowcat.proxy.exchanges.stream_exchange import StreamExchange
from shadowcat.proxy.upstreams.response_heads import ResponseTemplate

_NO_CONTENT: Final = b"Content-Length: 0\r\n"


class _Held:
    """An answer in one piece, none of which the client has got."""

    __slots__ = ("_after", "_before", "_change", "_content", "_size")

    def __init__(self, before: bytes, after: bytes, change: Callable[[bytes], bytes]) -> None:
        """`before` and `after`: the parts of the head between which the length of the content goes."""
        self._before = before
        self._after = after
        self._change = change
        self._content: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> bytes:
        """Take more of the content; nothing passes yet."""
        self._size += len(data)
        if self._size > MAX_EVENT:
            raise ListError(f"the answer is longer than {MAX_EVENT} bytes")
        self._content.append(data)
        return b""

    def end(self) -> bytes:
        """The whole answer."""
        content = self._change(b"".join(self._content))
        return b"%bContent-Length: %d\r\n%b%b" % (self._before, len(content), self._after, content)


class _Listing(Exchange):
    """One whose answer may hold lists of tools."""

    __slots__ = ()

    _passage: _Held | ListEvents | None

    def start(self) -> None:
        """Go."""
        self._lead_through(None)
        super().start()

    def _lead_through(self, passage: _Held | ListEvents | None) -> None:
        self._passage = passage  # type: ignore[misc]  # The classes that are made of this one have it.

    @property
    def takes_chunks(self) -> bool:
        """Never: the content is needed without them."""
        return False

    def answers_whole(self, status: int) -> bool:
        """Never: the content has to be read."""
        return False

    def open(
        self, head: ResponseTemplate, values: tuple[bytes, ...], body: Body, length: int
    ) -> bytes | None:
        """The answer's head has arrived."""
        if body is Body.NONE or self._client is None:
            return super().open(head, values, body, length)
        connection = self._connection
        assert connection is not None
        if head.encoded:
            connection.abandon()
            self._refuse(Refusal.BAD_RESPONSE, "compressed, which was not asked for")
            return None
        change = partial(filter_message, shows=self._shows, is_private=self.template.is_modern)
        if head.event_stream and body is not Body.LENGTH:
            opening = super().open(head, values, body, length)
            if opening is None:
                return None
            self._lead_through(ListEvents(change))
            super().write(opening)
            return b""
        request = self.body, self.envelope
        opening = super().open(head, values, Body.LENGTH, 0)
        if opening is None:
            return None
        # Until the answer is good there may have to be another one, with the request's id.
        self.body, self.envelope = request
        before = head.render(values, self.session_line)
        assert opening.startswith(before + _NO_CONTENT)
        if head.event_stream:
            change = partial(_change_events, change)
        self._lead_through(_Held(before, opening[len(before) + len(_NO_CONTENT) :], change))
        return b""

    def _shows(self, name: str) -> bool:
        return not self._route.tools.hides(name)

    def frame(self, data: bytes) -> bytes:
        """Content of an answer that ends with its connection: `write` frames what is left of it."""
        return data if self._passage is not None else super().frame(data)

    def last_piece(self) -> bytes:
        """What ends an answer that ended with its connection: see `end`."""
        return b"" if self._passage is not None else super().last_piece()

    def write(self, data: bytes) -> None:
        """Hand on what may pass."""
        passage = self._passage
        if passage is None:
            super().write(data)
            return
        try:
            passed = passage.feed(data)
        except ListError as error:
            assert self._connection is not None
            self._connection.abandon()
            self._fail(Refusal.BAD_RESPONSE, str(error))
            return
        if passed:
            super().write(super().frame(passed))

    def end(self, rest: bytes) -> None:
        """Hand on the last part of the answer."""
        passage = self._passage
        if passage is None:
            super().end(rest)
            return
        try:
            passed = passage.feed(rest) + passage.end()
        except ListError as error:
            self._fail(Refusal.BAD_RESPONSE, str(error))
            return
        super().end(super().frame(passed) + super().last_piece())

    def cut_off(self) -> None:
        """The answer broke off. A client that has nothing of it can have a better one."""
        is_late = self.plane.clock() >= self.started + self.waits.answer
        self._fail(Refusal.REQUEST_TIMEOUT if is_late else Refusal.RESET, self.upstream or "")

    def _fail(self, refusal: Refusal, detail: str) -> None:
        """End it, the upstream's part being over."""
        if isinstance(self._passage, _Held) and self._client is not None:
            self._refuse(refusal, detail)
        else:
            super().cut_off()

    def client_left(self) -> None:
        """The client closed or lost its connection: nothing is held any more."""
        self._lead_through(None)
        super().client_left()


class _MayList(Exchange):
    """One of which it is known only with its message whether it asks for a list."""

    __slots__ = ()

    _listing: ClassVar[type[Exchange]]
    """The same kind of exchange, where it does."""

    def start(self) -> None:
        """See what it asks for, and go."""
        envelope = self.envelope
        # A GET may go on with any stream, that of a list too.
        if envelope is None or envelope.method == TOOLS_LIST:
            # Rather than ask again at each step: other requests pay for this comparison and no more.
            self.__class__ = self._listing  # type: ignore[assignment]
            self.start()
        else:
            super().start()


def _change_events(change: Callable[[bytes], bytes], content: bytes) -> bytes:
    """A stream of events that came in one piece."""
    events = ListEvents(change)
    return events.feed(content) + events.end()


_KINDS: Final[dict[type[Exchange], type[Exchange]]] = {}


def filtered(kind: type[Exchange]) -> type[Exchange]:
    """The same kind of exchange, for such a route. It goes over all other layers."""
    found = _KINDS.get(kind)
    if found is None:
        found = _KINDS[kind] = _make(kind)
    return found


def _make(kind: type[Exchange]) -> type[Exchange]:
    if issubclass(kind, (InitializeExchange, DeleteExchange)):
        return kind
    # With room for what both need: an object can only become one of a class that is laid out alike.
    room = type(f"Roomy{kind.__name__}", (kind,), {"__slots__": ("_passage",)})
    listing = type(f"Listing{kind.__name__}", (_Listing, room), {"__slots__": ()})
    if issubclass(kind, (StreamExchange, BatchExchange)):
        return cast("type[Exchange]", listing)
    members = {"__slots__": (), "_listing": listing}
    return cast("type[Exchange]", type(f"MayList{kind.__name__}", (_MayList, room), members))
