"""The members of a JSON-RPC message, of its params and of its `_meta`: every key, as often as it is there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from shadowcat.mcp.nesting import is_deeper_than_limit

MAX_MEMBERS: Final = 1024
"""Most members of the message, of params or of `_meta`; SDK clients send fewer than 20."""

# The stdlib parser sees every key but builds every value: fastest for short texts, 10 to 40 times slower than
# msgspec for long ones, of which it may read only so many values (0.1 us each, up to 0.3 with the garbage).
_LONG: Final = 2048
_MAX_TOKENS: Final = 65_536

_INNER: Final = frozenset({"params", "_meta"})


class DepthError(Exception):
    """The text is nested deeper than `nesting.MAX_DEPTH`."""


class ComplexityError(Exception):
    """Checking the text would hold the event loop for too long."""


def _refuse_constant(word: str) -> None:
    """NaN and the infinities are no JSON (RFC 8259 section 6), though the stdlib reads them."""
    raise ValueError(word)


_decode_unique: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_text: Final = msgspec.json.Decoder(str).decode
_encode: Final = msgspec.json.Encoder().encode
# Objects become tuples of pairs and arrays stay lists; numbers become bytes, as spelled: int() is quadratic
# in the digits, and refuses more than 4,300 of them.
_decode_pairs: Final = json.JSONDecoder(
    object_pairs_hook=tuple, parse_int=str.encode, parse_float=str.encode, parse_constant=_refuse_constant
).decode


def read_members(text: bytes) -> Any:
    """Read a JSON text far enough to see all keys of a message, of its params and of its `_meta`.

    Returns:
        An object as a tuple of (key, value) pairs, a string as str (it may hold lone surrogates), a number as
        bytes, an array as a list, null as None. Values that no envelope needs may be None as well.

    Raises:
        DepthError: nested too deep.
        ComplexityError: too many members, or too many values in a text that only the slow parser can read.
        ValueError: not JSON, or not UTF-8.
    """
    if is_deeper_than_limit(text):
        raise DepthError
    decoded = text.decode()
    if len(text) > _LONG:
        try:
            return _read_unique(msgspec.json.format(text, indent=-1))
        except msgspec.DecodeError:
            # Repeated or escaped keys, a lone surrogate, an array, broken JSON: the slow parser will tell.
            if sum(map(text.count, (b"{", b"[", b","))) > _MAX_TOKENS:
                raise ComplexityError from None
    return _decode_pairs(decoded)


def _read_unique(compact: bytes) -> tuple[tuple[str, Any], ...]:
    """Read an object whose keys are all different.

    Args:
        compact: JSON without white space between tokens.

    Raises:
        msgspec.DecodeError: no object, or no proof that the keys are different.
    """
    members = _decode_unique(compact)
    # Written again, the object is as long as before only if no key was dropped or shortened: see `peek`.
    if len(_encode(members)) != len(compact):
        raise msgspec.DecodeError
    if len(members) > MAX_MEMBERS:
        raise ComplexityError
    return tuple((key, _read_value(key, bytes(raw))) for key, raw in members.items())


def _read_value(key: str, raw: bytes) -> Any:
    """Read one value, if an envelope may need it."""
    first = raw[:1]
    if first == b'"':
        return _decode_text(raw)
    if first == b"{":
        return _read_unique(raw) if key in _INNER else ()
    if first == b"[":
        return []
    return None if first in b"ntf" else raw


def is_ambiguous(
    members: tuple[tuple[str, Any], ...], spelling: Mapping[str, str], usual: frozenset[str]
) -> bool:
    """Whether two keys differ in letter case at most, or a watched one is not spelled as it must be.

    Go's encoding/json, for one, reads "Method" (and "taskId" with a Kelvin sign) as if spelled correctly.

    Args:
        members: an object as `read_members` gives it.
        spelling: folded key -> the right spelling, of the keys to watch.
        usual: well-spelled keys of which no two fold alike; if there are no others, nothing needs folding.
    """
    keys = {key for key, _ in members}
    if len(keys) < len(members):
        return True
    if keys <= usual:
        return False
    return len({fold(key) for key in keys}) < len(keys) or any(
        spelling.get(fold(key), key) != key for key in keys
    )


def fold(key: str) -> str:
    """The form in which keys are equal for the most lenient of case-blind parsers.

    Case folding takes the long s for an s and the Kelvin sign for a k, as Go does; the dotted and the dotless
    i are taken for an i, as Java's equalsIgnoreCase does.
    """
    if key.isascii():
        return key.lower()
    return key.replace("\u0130", "i").replace("\u0131", "i").casefold()
