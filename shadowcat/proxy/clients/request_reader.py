"""Turns the bytes of one client connection into requests, one at a time. No I/O and no clock."""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

from shadowcat.config.model import Http
from shadowcat.errors import Refusal
from shadowcat.http1.chunks import ChunkError, ChunkReader
from shadowcat.proxy.clients.denial import Denial
from shadowcat.proxy.clients.patience import body_deadline
from shadowcat.proxy.clients.request_heads import RequestHeads
from shadowcat.proxy.clients.template import RequestTemplate
from shadowcat.proxy.overload.stock import SMALL, Stock

_LONGEST_METHOD_AND_VERSION: Final = 32
_MOST_PIECES: Final = 1024
"""Pieces of a body before they are put together: each takes 40 bytes beside its content, which may be one."""
_STEP: Final = 16 * 1024
"""Bytes of a chunked body that are read before it is asked whether the rest is worth it: each chunk takes
1 µs, and a read of 256 KiB may have 43,000."""
_FREE_FRAMING: Final = 16 * 1024
_CONTENT_PER_FRAMING: Final = 4
"""Chunks, of whatever size, may have so many bytes of framing; beyond it, one for so many bytes of content: a
body of 4 MiB in chunks of one byte would take as many seconds."""


class Stage(Enum):
    """How much of the next request is here.

    IDLE -first byte-> HEAD -whole head-> BODY -whole body-> IDLE; what is there at once skips stages.
    """

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"


_IDLE: Final = Stage.IDLE
_HEAD: Final = Stage.HEAD
_BODY: Final = Stage.BODY


class Request(NamedTuple):
    """A request that is here as a whole."""

    template: RequestTemplate
    values: tuple[bytes, ...]
    """Those of the head's varying fields."""
    body: bytes
    """The content, its transfer coding taken off."""


class Broken(NamedTuple):
    """The rest of the connection cannot or need not be read."""

    denial: Denial
    template: RequestTemplate | None
    """The request's head, if that much was good."""
    values: tuple[bytes, ...]
    """Those of the head's varying fields."""


class RequestReader:
    """Reads requests in order, and strictly. After a Broken there is nothing more to read."""

    __slots__ = (
        "_body",
        "_chunks",
        "_framing",
        "_heads",
        "_http",
        "_left",
        "_size",
        "_stock",
        "_template",
        "_values",
        "buffer",
        "held",
        "recall",
        "stage",
    )

    def __init__(self, heads: RequestHeads, http: Http, stock: Stock) -> None:
        self._heads = heads
        self._stock = stock
        self.held = 0
        """Bytes that `stock` has made room for, since it was last asked to take them back."""
        self._http = http
        self.recall = heads.recall()
        """The last head; between requests, with nothing in the buffer, the caller may match it by itself."""
        self.buffer = b""
        """What has arrived and has not been read."""
        self.stage = _IDLE
        self._template: RequestTemplate | None = None
        self._values: tuple[bytes, ...] = ()
        self._body: list[bytes] = []
        self._size = 0
        self._framing = 0
        """Bytes of a chunked body that are no content."""
        self._left = 0
        self._chunks: ChunkReader | None = None

    def next(self) -> Request | Broken | None:
        """Read on in the buffer; None if more bytes are needed."""
        if self.stage is _BODY:
            return self._read_body()
        broken = self._read_head()
        if broken is not None or self._template is None:
            return broken
        return self._read_body()

    @property
    def template(self) -> RequestTemplate | None:
        """The head of the request whose body is being read."""
        return self._template

    @property
    def wants_continue(self) -> bool:
        """Whether the client holds its body back until it is told to go on (RFC 9110 section 10.1.1)."""
        template = self._template
        return self.stage is _BODY and template is not None and template.expect_continue and not self._size

    def broken(self, denial: Denial) -> Broken:
        """Give up on the request that is being read."""
        return Broken(denial, self._template, self._values if self._template is not None else ())

    def due(self, since: float) -> float:
        """Until when the rest of what is being read is waited for; it is looked at again then.

        Absolute from the part's first byte: a byte now and then must not buy more time.

        Args:
            since: When the head, or the body behind it, began.
        """
        http = self._http
        if self.stage is not _BODY:
            return since + http.head_timeout
        return body_deadline(since, self._size, http.body_timeout, http.body_min_rate)

    def late(self) -> Broken:
        """Give up on what did not come in time."""
        return self.broken(Denial(Refusal.BODY_TIMEOUT if self.stage is _BODY else Refusal.HEAD_TIMEOUT))

    def forget(self) -> None:
        """Between requests, keep nothing of the last one."""
        if self.stage is _IDLE:
            self.recall.forget()

    def forget_verdict(self) -> None:
        """What heads are judged by has changed."""
        self.recall.forget()
        if self._template is not None:
            self.renewed(self._template)

    def renewed(self, template: RequestTemplate) -> RequestTemplate:
        """As `RequestHeads.renewed`."""
        return self._heads.renewed(template)

    def _read_head(self) -> Broken | None:
        """Read a head; afterwards `_template` is set if it was whole and good."""
        heads = self._heads
        data = self.buffer
        recall = self.recall
        if recall.match(data):
            template, self._values, length, end = recall.verdict, recall.values, recall.length, recall.end
        else:
            # One empty line before a request line is tolerated (RFC 9112 section 2.2).
            start = 2 if data.startswith(b"\r\n") else 0
            end = data.find(b"\r\n\r\n", start, start + heads.limit) + 4
            if end < 4:
                return self._check_part(data[start:])
            read, self._values, length = heads.read(data[start:end], recall)
            if isinstance(read, Refusal):
                return Broken(Denial(read), None, ())
            template = read
        self._template = template
        if length > self._http.body_limit:
            return self.broken(Denial(Refusal.BODY_TOO_LARGE))
        whole = len(data) - end >= length and not template.chunked
        if template.refusal is not None and not whole:
            # Decided on the head: the answer does not wait for a body, so the next request is not found.
            return self.broken(Denial(template.refusal))
        if self.held:  # For the request before, which is over.
            self._stock.take_back(self.held)
            self.held = 0
        if length > SMALL and not self._hold(length):
            return self.broken(Denial(Refusal.OUT_OF_MEMORY))
        self.buffer = data[end:]
        self._size = self._framing = 0
        self._left = length
        self._chunks = ChunkReader(decode=True) if template.chunked else None
        self.stage = _BODY
        return None

    def _hold(self, size: int) -> bool:
        if self._stock.reserve(size):
            self.held += size
            return True
        return False

    def _check_part(self, data: bytes) -> Broken | None:
        """Check as much as there is of a head."""
        if not data:
            return None  # An empty line between requests is not the beginning of one.
        line_end = data.find(b"\n")
        if line_end == 0 or (line_end > 0 and data[line_end - 1 : line_end] != b"\r"):
            return self.broken(Denial(Refusal.BAD_REQUEST_LINE))
        line = len(data) if line_end < 0 else line_end
        if line > self._http.target_limit + _LONGEST_METHOD_AND_VERSION:
            return self.broken(Denial(Refusal.TARGET_TOO_LONG))
        if len(data) >= self._http.head_limit:
            return self.broken(Denial(Refusal.HEAD_TOO_LARGE))
        self.stage = _HEAD
        return None

    def _read_body(self) -> Request | Broken | None:
        data, self.buffer = self.buffer, b""
        if self._chunks is None:
            part = data[: self._left]
            self._left -= len(part)
            self._size += len(part)
            self._keep(part)
            if self._left:
                return None
            self.buffer = data[len(part) :]
        else:
            excess = self._read_chunks(self._chunks, data)
            if not isinstance(excess, bytes):
                return excess
            self.buffer = excess
        template = self._template
        assert template is not None
        request = Request(template, self._values, b"".join(self._body))
        self._body.clear()
        self._template = None
        self._chunks = None
        self.stage = _IDLE
        return request

    def _read_chunks(self, chunks: ChunkReader, data: bytes) -> bytes | Broken | None:
        """Read on in a chunked body: what follows it, None before its end."""
        for at in range(0, len(data), _STEP):
            piece = data[at : at + _STEP]
            try:
                content = chunks.feed(piece)
            except ChunkError:
                return self.broken(Denial(Refusal.BAD_CHUNK))
            self._size += len(content)
            if self._size > self._http.body_limit:
                return self.broken(Denial(Refusal.BODY_TOO_LARGE))
            if self._size > SMALL and not self._hold(len(content)):
                return self.broken(Denial(Refusal.OUT_OF_MEMORY))
            self._keep(content)
            if chunks.done:
                return chunks.excess + data[at + _STEP :]
            self._framing += len(piece) - len(content)
            if self._framing > _FREE_FRAMING + self._size // _CONTENT_PER_FRAMING:
                return self.broken(Denial(Refusal.BAD_CHUNK, detail="its chunks are too small"))
        return None

    def _keep(self, piece: bytes) -> None:
        self._body.append(piece)
        if len(self._body) > _MOST_PIECES:
            self._body = [b"".join(self._body)]
