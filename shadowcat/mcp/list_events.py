"""Takes tools out of the lists in a stream of server-sent events; everything else passes as it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from shadowcat.mcp.sse import BLANK_LINE_ENDS
from shadowcat.mcp.tool_lists import ListError, may_list

MAX_EVENT: Final = 16 * 2**20
"""Longest event, in bytes: of one that is not complete it is not known what is in it."""

# The end of a line, and the blank line behind it. A CR may have a LF that belongs to it.
_BLANK: Final = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)")
_LINE: Final = re.compile(rb"([^\r\n]+)(\r\n|\n|\r|\Z)|(\r\n|\n|\r)")
_TAIL: Final = 3  # the longest end of what is held that may be a part of a blank line: LF CR, or CR LF CR
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
        """The end of what is held."""
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
        tail = self._tail
        end = 0
        for blank in _BLANK.finditer(tail + data):
            end = blank.end()
        if not end:
            self._hold(data)
            return b""
        end -= len(tail)
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
        self._tail = (self._tail + data[-_TAIL:])[-_TAIL:]

    def _pass(self, events: bytes) -> bytes:
        """Complete events as they may pass."""
        is_start, self._is_start = self._is_start, False
        if not may_list(events):
            return events
        at = len(_BOM) if is_start and events.startswith(_BOM) else 0
        pieces = [events[:at]]
        for blank in _BLANK.finditer(events):
            pieces.append(self._changed(events[at : blank.end()]))
            at = blank.end()
        pieces.append(self._changed(events[at:]))
        return b"".join(pieces)

    def _changed(self, event: bytes) -> bytes:
        """One event as it may pass. Its other fields stay as they are."""
        if not may_list(event):
            return event
        lines = [(found[1] or b"", found[2] or found[3] or b"\n") for found in _LINE.finditer(event)]
        message = b"\n".join(value for line, _ in lines if (value := _data(line)) is not None)
        changed = self._filter(message)
        if changed is message:
            return event
        pieces = []
        for line, ending in lines:
            if _data(line) is None:
                pieces.append(line + ending)
            elif changed:
                # A line end in the message is white space of JSON.
                pieces += [b"data: %b%b" % (part, ending) for part in changed.split(b"\n")]
                changed = b""
        return b"".join(pieces)


def _data(line: bytes) -> bytes | None:
    """The value of a line of data; None for every other line."""
    field, _, value = line.partition(b":")
    return value.removeprefix(b" ") if field == b"data" else None
