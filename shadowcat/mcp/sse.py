"""Server-sent events as bytes: where an event ends, and what is in it (HTML Living Standard section 9.2.6).

Lines end with CR, LF or CRLF, and the network may cut anywhere. Nothing is decoded: UTF-8 is the reader's.
"""

from __future__ import annotations

from typing import Final, NamedTuple

_TAIL: Final = 3  # the longest end of a stream that tells whether its last line is blank: LF CR LF
BLANK_LINE_ENDS: Final = (b"\n\n", b"\r\r", b"\n\r", b"\n\r\n", b"\r\r\n")
"""How what ends with a blank line ends, unless it is too short to tell."""
_LF: Final = 0x0A
_CR: Final = 0x0D
_BOM: Final = b"\xef\xbb\xbf"


class Boundary:
    """Follows a relayed stream and knows whether it stands between two events."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b"\n\n"  # before the first byte no event is open

    def feed(self, chunk: bytes) -> None:
        """Take note of the bytes relayed next."""
        self._tail = chunk[-_TAIL:] if len(chunk) >= _TAIL else (self._tail + chunk)[-_TAIL:]

    @property
    def is_between_events(self) -> bool:
        """Whether the last line is blank, so that a comment may be written here.

        After a CR it may turn out that a LF belongs to it. A comment before that LF does no harm: the LF is
        one more blank line, which dispatches nothing.
        """
        return self._tail.endswith(BLANK_LINE_ENDS)


class Event(NamedTuple):
    """One event, or a block that carries an id alone.

    Attributes:
        data: the data lines joined with LF; None without any (a priming event may have none), or when they
            were longer than the scanner's limit.
        id: the id set by this block, which may be empty; None when it sets none.
        name: the event type; empty when not set.
        is_oversize: the data was longer than the limit, and dropped.
    """

    data: bytes | None
    id: bytes | None
    name: bytes
    is_oversize: bool


class EventScanner:
    """Takes a stream in pieces and gives its events.

    An event that the stream's end cuts off is never given, as the standard demands.
    """

    __slots__ = (
        "_after_cr",
        "_data",
        "_event_size",
        "_id",
        "_is_oversize",
        "_limit",
        "_line",
        "_name",
        "is_start",
    )

    def __init__(self, limit: int) -> None:
        """Start at the beginning of a stream.

        Args:
            limit: most bytes that are kept of one event. Of a longer one the data is dropped, and so are the
                id and the type if they come after too much data.
        """
        self._limit = limit
        self.is_start = True
        """Whether a byte order mark may come now. Who leaves out the first events clears it."""
        self._after_cr = False  # the last byte was a CR: a LF right behind it belongs to it
        self._line: list[bytes] = []  # pieces of the unfinished line
        self._event_size = 0
        self._is_oversize = False
        self._data: list[bytes] = []
        self._id: bytes | None = None
        self._name = b""

    def feed(self, chunk: bytes) -> list[Event]:
        """Take the next bytes; give the events they complete."""
        if not chunk:
            return []
        if self._after_cr and chunk[0] == _LF:
            chunk = chunk[1:]
            self._after_cr = False
        if b"\r" in chunk:
            self._after_cr = chunk[-1] == _CR
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        elif chunk:
            self._after_cr = False
        lines = chunk.split(b"\n")
        rest = lines.pop()
        events: list[Event] = []
        for end in lines:
            if self._line:
                self._hold(end)
                end = b"".join(self._line)
                self._line.clear()
            else:
                self._count(end)
            if self.is_start:
                self.is_start = False
                end = end.removeprefix(_BOM)
            if end:
                self._take_field(end)
            else:
                self._finish(events)
        if rest:
            self._hold(rest)
        return events

    def _hold(self, piece: bytes) -> None:
        """Keep a piece of an unfinished line; of an oversize event only that the line is not blank.

        The first line may begin with a byte order mark in up to three pieces, and be blank all the same.
        """
        self._count(piece)
        if not self._is_oversize or not self._line or (self.is_start and len(self._line) <= len(_BOM)):
            self._line.append(piece)

    def _count(self, piece: bytes) -> None:
        """Add to the size of the event; drop what is kept of it when it is too much."""
        self._event_size += len(piece)
        if self._event_size > self._limit and not self._is_oversize:
            self._is_oversize = True
            self._data.clear()

    def _take_field(self, line: bytes) -> None:
        """Interpret a line that is not blank."""
        if self._is_oversize:
            return
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
        elif field == b"id":
            if b"\0" not in value:
                self._id = value
        elif field == b"event":
            self._name = value

    def _finish(self, events: list[Event]) -> None:
        """A blank line: give the event, if there is one, and start the next."""
        if self._data or self._id is not None or self._is_oversize:
            data = b"\n".join(self._data) if self._data else None
            events.append(Event(data, self._id, self._name, self._is_oversize))
        self._data.clear()
        self._event_size = 0
        self._is_oversize = False
        self._id = None
        self._name = b""
