"""Session ids, and the handles by which operators name a session.

    id       base64url( slot (3 bytes, big endian) ) ‖ key                        28 visible ASCII characters
    key      base64url( 18 random bytes )                                        24 of them
    handle   <slot in hex>-<first 16 hex digits of sha256(id)>                    useless as a session id

3 and 18 bytes fill their characters exactly, so that the two can be coded apart, and no second spelling of an
id exists (RFC 4648 section 3.5).
"""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Callable
from typing import Final

KEY_BYTES: Final = 18
KEY_CHARS: Final = 24
ID_CHARS: Final = 28
PREFIX_CHARS: Final = 4
"""The characters that spell the slot."""
_SLOT_BYTES: Final = 3
_KEYS_AT_ONCE: Final = 64
_HANDLE_DIGITS: Final = 16

_ALPHABET: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")


def _values(shift: int) -> list[int]:
    return [_ALPHABET.find(character) << shift for character in range(256)]


# What is not in the alphabet is -1, shifted, and so is then the whole sum. Half as long as a2b_base64 takes.
_FIRST: Final = _values(18)
_SECOND: Final = _values(12)
_THIRD: Final = _values(6)
_FOURTH: Final = _values(0)


class Keys:
    """The keys of sessions to come. For one process: it must not be copied by a fork."""

    __slots__ = ("_drawn", "_urandom")

    def __init__(self, urandom: Callable[[int], bytes]) -> None:
        """`urandom` returns as many random bytes as it is asked for."""
        self._urandom = urandom
        self._drawn: list[bytes] = []

    def draw(self) -> bytes:
        """A key that was not drawn before."""
        if not self._drawn:
            # One at a time, the system call would be 0.5 us of each creation.
            drawn = _base64url(self._urandom(KEY_BYTES * _KEYS_AT_ONCE))
            self._drawn = [drawn[at : at + KEY_CHARS] for at in range(0, len(drawn), KEY_CHARS)]
        return self._drawn.pop()


def encode(slot: int, key: bytes) -> bytes:
    """The id of the session with `key` in `slot`."""
    return _base64url(slot.to_bytes(_SLOT_BYTES, "big")) + key


def slot_of(prefix: bytes) -> int:
    """The slot that the first PREFIX_CHARS of an id name; less than 0 if they are malformed."""
    first, second, third, fourth = prefix
    return _FIRST[first] | _SECOND[second] | _THIRD[third] | _FOURTH[fourth]


def _base64url(data: bytes) -> bytes:
    return binascii.b2a_base64(data, newline=False).translate(_TO_URL)


def handle(slot: int, session_id: bytes) -> str:
    """The handle of a session."""
    return f"{slot:x}-{hashlib.sha256(session_id).hexdigest()[:_HANDLE_DIGITS]}"


def handle_slot(text: str) -> int | None:
    """The slot that a handle names; None if it is malformed. Compare the whole handle with the slot's own."""
    slot, dash, digits = text.partition("-")
    if not dash or len(digits) != _HANDLE_DIGITS or not 1 <= len(slot) <= 2 * _SLOT_BYTES:
        return None
    if not all(character in "0123456789abcdef" for character in slot):
        return None
    return int(slot, 16)
