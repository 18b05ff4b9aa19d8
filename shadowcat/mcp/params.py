"""The parameters of a message, for those who decide by what is in them."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import msgspec

from shadowcat.mcp.members import fold

_LONGEST: Final = 20
"""Characters of an integer of 64 bits."""


class AmbiguousError(ValueError):
    """Two parsers may read the text in different ways."""


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise AmbiguousError
    if len(members) > 1 and len({fold(key) for key in members}) < len(members):
        raise AmbiguousError
    return members


def _integer(digits: str) -> int | float:
    # Beyond 64 bits most parsers read a double (RFC 8259 section 6); and int() is quadratic in the digits.
    value = int(digits) if len(digits) <= _LONGEST else None
    return value if value is not None and -(2**63) <= value < 2**63 else float(digits)


def _refuse_constant(word: str) -> None:
    raise ValueError(word)


_decode_fast: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode
_TO_ZERO: Final = bytes.maketrans(b"123456789", b"000000000")
_LONG_NUMBER: Final = b"0" * 19
_NUL: Final = rb"\u0000"
_ESCAPED_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_decode: Final = json.JSONDecoder(
    object_pairs_hook=_members, parse_int=_integer, parse_constant=_refuse_constant
).decode


def _read_plain(message: bytes) -> Any:
    """The message, if a parser that is five times as fast surely reads the same; else None."""
    if message.translate(_TO_ZERO).find(_LONG_NUMBER) >= 0:
        return None
    try:
        value = _decode_fast(message)
        if _is_canonical(fold(message.decode()).encode()):
            return value
    except (msgspec.DecodeError, RecursionError):
        return None
    # It drops what is there twice. Without that, and without colons in texts, there is a colon per member.
    return value if _count(value) == message.count(b":") else None


def _is_canonical(folded: bytes) -> bool:
    """Whether a message, folded as a whole, is as this parser's own writer writes it, white space apart.

    It writes no key of an object twice, so that no two keys fold alike: folding goes by characters, and of
    escapes only those are written so that stand for what no folding changes.
    """
    again = _encode(_decode_fast(folded))
    return again == folded or again == msgspec.json.format(folded, indent=-1)


def _count(value: Any) -> int:
    """The members of all objects in a value."""
    if isinstance(value, dict):
        count = len(value)
        if count > 1:
            # Of ASCII keys `fold` makes nothing else.
            form = str.lower if "".join(value).isascii() else fold
            if len({*map(form, value)}) < count:
                raise AmbiguousError
        for item in value.values():
            if isinstance(item, (dict, list)):
                count += _count(item)
        return count
    count = 0
    if isinstance(value, list):
        for item in value:
            if isinstance(item, (dict, list)):
                count += _count(item)
    return count


def read_params(message: bytes) -> dict[str, Any]:
    """Read the params of a message; empty if there are none.

    Args:
        message: What `peek` has accepted: it has vouched for UTF-8, and bounded the depth.

    Raises:
        AmbiguousError: An object, wherever it is, has a key twice, or two that differ in letter case alone:
            the server may go by the other one. Or there is a NUL in a text, which for some is its end.
        ValueError: The params are no object.
    """
    # `in` takes twice as long: it first asks bytes whether they are a number.
    if message.find(_NUL) >= 0 and _ESCAPED_NUL.search(message):
        raise AmbiguousError
    value = _read_plain(message)
    if value is None:
        value = _decode(message.decode())
    params = value.get("params", {}) if isinstance(value, dict) else None
    if not isinstance(params, dict):
        raise ValueError("the params are no object")
    return params
