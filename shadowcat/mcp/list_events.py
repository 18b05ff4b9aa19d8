"""Takes tools out of the lists in a stream of server-sent events; everything else passes as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from shadowcat.mcp.sse import BLANK_LINE_ENDS
from shadowcat.mcp.tool_lists import ListError, may_list

MAX_EVENT: Final = 16 * 2**20
"""Longest event, in bytes: of one that is not complete it is not known what is in it."""

# The ends of two lines, the second of which is blank. A regex would take 50 times as long to find them.
_BLANKS: Final = (b"\n\n", b"\n\r", b"\r\r")
_BOM: Final = b"\xef\xbb\xbf"


class ListEvents:
    """Takes a stream in pieces, and gives what may pass as soon as its event is complete."""

    __slots__ = ("_filter", "_held", "_is_start", "_size", "_tail")

    def __init__(self, change: Callable[[bytes], bytes]) -> None:
        """`change` gives a message as it may pass; asked of those that may hold a list."""
        self._filter = change
        self._held: list[bytes] = []
        self._size = 0
        self._tail = b""
        """The last byte of what is held."""
        self._is_start = True  # A byte order mark may come now, and only now.

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the content; give those that pass.

        Raises:
            ListError: An event cannot be read, or is too long. Nothing of it was given.
        """
        # Servers write whole events.
        if not self._held and data.endswith(BLANK_LINE_ENDS) and not may_list(data):
            self._is_start = False
            return data
        window = self._tail + data
        end = _end_of_blank(window, max(map(window.rfind, _BLANKS))) - len(self._tail)
        if end <= 0:
            self._hold(data)
            return b""
        complete = b"".join((*self._held, data[:end]))
        self._held.clear()
        self._size = 0
        self._tail = b""
        self._hold(data[end:])
        return self._pass(complete)

    def end(self) -> bytes:
        """The stream has ended; give what was held of an event that has no end, which some clients read.

        Raises:
            ListError: It cannot be read.
        """
        rest = b"".join(self._held)
        self._held.clear()
        return self._pass(rest)

    def _hold(self, data: bytes) -> None:
        if not data:
            return
        self._held.append(data)
        self._size += len(data)
        if self._size > MAX_EVENT:
            raise ListError(f"an event is longer than {MAX_EVENT} bytes")
        self._tail = data[-1:]

    def _pass(self, events: bytes) -> bytes:
        """Complete events as they may pass."""
        is_start, self._is_start = self._is_start, False
        if not may_list(events):
            return events
        at = len(_BOM) if is_start and events.startswith(_BOM) else 0
        pieces = [events[:at]]
        # Most streams have one of them; to look for the others once per event would take long.
        blanks = [blank for blank in _BLANKS if blank in events]
        while end := _end_of_event(events, at, blanks):
            pieces.append(self._changed(events[at:end]))
            at = end
        pieces.append(self._changed(events[at:]))
        return b"".join(pieces)

    def _changed(self, event: bytes) -> bytes:
        """One event as it may pass. Its other fields stay as they are."""
        if not may_list(event):
            return event
        lines = event.splitlines(keepends=True)  # At CR, LF and CRLF, and nowhere else.
        message = b"\n".join(value for line in lines if (value := _data(line)) is not None)
        changed = self._filter(message)
        if changed is message:
            return event
        pieces = []
        for line in lines:
            if _data(line) is None:
                pieces.append(line)
            elif changed:
                ending = line[len(line.rstrip(b"\r\n")) :] or b"\n"
                # A line end in the message is white space of JSON.
                pieces += [b"data: %b%b" % (part, ending) for part in changed.split(b"\n")]
                changed = b""
        return b"".join(pieces)


def _end_of_event(text: bytes, start: int, blanks: Sequence[bytes]) -> int:
    """Behind the first of these blank lines at or behind `start`; 0 if there is none."""
    found = -1
    end = len(text)
    for blank in blanks:
        place = text.find(blank, start, end)
        if place >= 0:
            found = place
            end = place + 1  # Only an earlier one is of interest now.
    return _end_of_blank(text, found)


def _end_of_blank(text: bytes, place: int) -> int:
    """Behind the blank line of which `_BLANKS` was found at `place`; 0 if that is none."""
    if place < 0:
        return 0
    end = place + 2
    # To a CR belongs the LF behind it.
    return end + 1 if text[end - 1 : end + 1] == b"\r\n" else end


def _data(line: bytes) -> bytes | None:
    """The value of a line of data; None for every other line."""
    field, _, value = line.rstrip(b"\r\n").partition(b":")
    return value.removeprefix(b" ") if field == b"data" else None
