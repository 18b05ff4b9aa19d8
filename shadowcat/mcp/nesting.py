"""How deep a JSON text is nested."""

from __future__ import annotations

from typing import Final

MAX_DEPTH: Final = 64
"""Deepest nesting of arrays and objects that is let through; a message's outermost object is level 1."""

_NEITHER_BRACKET_NOR_QUOTE: Final = bytes(byte for byte in range(256) if byte not in b'[]{}"')
_BITS: Final = bytes.maketrans(b"[]{}", b"1010")


def _rise(eight: int) -> int:
    """The change of depth over eight brackets, given as bits: 1 opens, 0 closes."""
    return 2 * eight.bit_count() - 8


_RISE: Final = tuple(map(_rise, range(256)))
_PEAK: Final = tuple(max(_rise(byte >> shift << shift) + shift for shift in range(8)) for byte in range(256))


def is_deeper_than_limit(text: bytes) -> bool:
    """Decide whether arrays and objects are nested deeper than `MAX_DEPTH`: linear, without recursion.

    Ordinary messages have too few brackets to be that deep. In others the strings are cut out, the brackets
    become bits, and eight at a time are looked up: 4 MiB of nothing but brackets take 50 ms.

    Args:
        text: what should be JSON. Of broken JSON with more than 64 brackets the answer may be either.
    """
    if text.count(b"{") + text.count(b"[") <= MAX_DEPTH:
        return False
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Two quotes side by side may go: what follows stays inside or outside of a string as it was.
    shape = text.translate(None, _NEITHER_BRACKET_NOR_QUOTE).replace(b'""', b"")
    bits = b"".join(shape.split(b'"')[::2]).translate(_BITS)
    bits += b"0" * (-len(bits) % 8)
    depth = 0
    for eight in int(b"1" + bits, 2).to_bytes(len(bits) // 8 + 1, "big")[1:]:
        if depth + _PEAK[eight] > MAX_DEPTH:
            return True
        depth += _RISE[eight]
    return False
