"""Takes tools out of the lists that servers send: results of `tools/list`, wherever they turn up.

What has to go is cut out of the text. The rest is not written anew: numbers, orders and unknown members stay
as the server spelled them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final

MAX_LIST: Final = 4 * 2**20
"""Longest message that is taken apart, in bytes. No model could read a longer list."""

# No server library writes escapes into its own keys, but one that did would be understood by every client.
_KEY: Final = re.compile(
    rb'"(?:t|\\u0074)(?:o|\\u006[fF])(?:o|\\u006[fF])(?:l|\\u006[cC])(?:s|\\u0073)"', re.DOTALL
)
_SPACE: Final = re.compile(r"[ \t\n\r]*")
_SCOPE: Final = "cacheScope"
_PRIVATE: Final = "private"

Shows = Callable[[str], bool]
"""Whether the tool of this name is shown."""


class ListError(ValueError):
    """What may be a list of tools cannot be read, so it is not known what is in it."""


def _refuse_constant(word: str) -> None:
    """NaN and the infinities are no JSON (RFC 8259 section 6), though the stdlib reads them."""
    raise ValueError(word)


# The stdlib parser tells where a value ends, and takes lone surrogates, which texts that were cut off hold.
# Objects become tuples of pairs, so that no repeated key is lost; int() would be quadratic in the digits.
_decode: Final = json.JSONDecoder(
    object_pairs_hook=tuple, parse_int=str.encode, parse_float=str.encode, parse_constant=_refuse_constant
).raw_decode


def may_list(text: bytes) -> bool:
    """Whether a text may hold a list of tools. Never wrong when it says no."""
    if b'"tools"' in text or b"\0" in text:  # JSON in UTF-16 is none, and some clients read it all the same.
        return True
    return b"\\u00" in text and _KEY.search(text) is not None


def filter_message(text: bytes, shows: Shows, *, is_private: bool) -> bytes:
    """Cut the tools that are not shown out of a JSON-RPC message, or out of each message of a batch.

    Args:
        text: The message; anything else if it holds no list.
        shows: Decides. A tool without a name is not shown.
        is_private: Whether a list that passes is marked as one that must not be shared with other callers
            (`cacheScope` of revision 2026-07-28, SEP-2549).

    Returns:
        `text` itself if nothing had to be changed.

    Raises:
        ListError: It is no JSON in UTF-8, or longer than `MAX_LIST`.
    """
    if not may_list(text):
        return text
    if len(text) > MAX_LIST:
        raise ListError(f"a message with a list of tools is longer than {MAX_LIST} bytes")
    try:
        reader = _Reader(text.decode(), shows, is_private=is_private)
        reader.read()
    except (ValueError, IndexError, RecursionError):
        raise ListError("what may be a list of tools is not JSON") from None
    return reader.written().encode() if reader.edits else text


class _Reader:
    """Goes once through a text, and notes what has to be changed."""

    __slots__ = ("_is_private", "_shows", "_text", "edits")

    def __init__(self, text: str, shows: Shows, *, is_private: bool) -> None:
        self._text = text
        self._shows = shows
        self._is_private = is_private
        self.edits: list[tuple[int, int, str]] = []
        """Ranges of the text, in order, and what takes their place."""

    def read(self) -> None:
        """Read the whole text.

        Raises:
            ValueError, IndexError, RecursionError: It is not JSON, or nested too deep.
        """
        at = self._skip(0)
        is_batch = self._text[at] == "["
        end = self._elements(at, self._message) if is_batch else self._message(at)
        if self._skip(end) != len(self._text):
            raise ValueError("something follows")

    def written(self) -> str:
        """The text with all changes."""
        pieces: list[str] = []
        at = 0
        for start, end, new in sorted(self.edits):
            pieces += (self._text[at:start], new)
            at = end
        pieces.append(self._text[at:])
        return "".join(pieces)

    # Each of these reads what begins at a place, and gives the place behind it.

    def _message(self, at: int) -> int:
        if self._text[at] != "{":
            return self._value(at)[1]
        return self._members(at, lambda key, start: self._result(start) if key == "result" else None)

    def _result(self, at: int) -> int | None:
        if self._text[at] != "{":
            return None
        has_tools = False
        scopes: list[tuple[int, int]] = []

        def member(key: str, start: int) -> int | None:
            nonlocal has_tools
            if key == "tools" and self._text[start] == "[":
                has_tools = True
                return self._tools(start)
            if key == _SCOPE:
                value, end = self._value(start)
                scopes.append((start, end))
                if value == _PRIVATE:
                    scopes[-1] = (start, start)
                return end
            return None

        end = self._members(at, member)
        if has_tools and self._is_private:
            if not scopes:
                self.edits.append((at + 1, at + 1, f'"{_SCOPE}":"{_PRIVATE}",'))
            self.edits += [(start, end, f'"{_PRIVATE}"') for start, end in scopes if start != end]
        return end

    def _tools(self, at: int) -> int:
        shown: list[str] = []
        count = 0

        def tool(start: int) -> int:
            nonlocal count
            count += 1
            value, end = self._value(start)
            if self._is_shown(value):
                shown.append(self._text[start:end])
            return end

        end = self._elements(at, tool)
        if len(shown) < count:
            self.edits.append((at, end, f"[{','.join(shown)}]"))
        return end

    def _is_shown(self, tool: Any) -> bool:
        """Which of two names a client goes by is not known."""
        names = [value for key, value in tool if key == "name"] if isinstance(tool, tuple) else []
        return bool(names) and all(isinstance(name, str) and self._shows(_encodable(name)) for name in names)

    # JSON.

    def _skip(self, at: int) -> int:
        """Behind white space."""
        found = _SPACE.match(self._text, at)
        assert found is not None
        return found.end()

    def _value(self, at: int) -> tuple[Any, int]:
        found: tuple[Any, int] = _decode(self._text, at)
        return found

    def _elements(self, at: int, element: Callable[[int], int]) -> int:
        """Read an array; `element` reads one element."""
        text = self._text
        at = self._skip(at + 1)
        if text[at] == "]":
            return at + 1
        while True:
            at = self._skip(element(at))
            if text[at] == "]":
                return at + 1
            at = self._comma(at)

    def _members(self, at: int, member: Callable[[str, int], int | None]) -> int:
        """Read an object; `member` reads the value of a key, or does not, and says so by None."""
        text = self._text
        at = self._skip(at + 1)
        if text[at] == "}":
            return at + 1
        while True:
            key, at = self._value(at)
            at = self._skip(at)
            if not isinstance(key, str) or text[at] != ":":
                raise ValueError("no member")
            at = self._skip(at + 1)
            end = member(key, at)
            at = self._skip(self._value(at)[1] if end is None else end)
            if text[at] == "}":
                return at + 1
            at = self._comma(at)

    def _comma(self, at: int) -> int:
        if self._text[at] != ",":
            raise ValueError("no comma")
        return self._skip(at + 1)


def _encodable(name: str) -> str:
    """A name as it is read from a call of the tool: a lone surrogate is U+FFFD there."""
    return (
        name if name.isascii() else name.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    )
