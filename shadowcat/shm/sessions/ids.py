"""Session ids, and the handles by which operators name a session.

    id       base64url( slot (3 bytes, big endian) ‖ key (18 random bytes) )     28 visible ASCII characters
    handle   <slot in hex>-<first 16 hex digits of sha256(id)>                    useless as a session id

21 bytes fill 28 characters exactly, so that no second spelling of an id exists (RFC 4648 section 3.5).
"""

from __future__ import annotations

import binascii
import hashlib
from typing import Final

KEY_BYTES: Final = 18
ID_CHARS: Final = 28
PREFIX_CHARS: Final = 4
"""The characters that spell the slot."""
_SLOT_BYTES: Final = 3
_RAW_BYTES: Final = _SLOT_BYTES + KEY_BYTES
_HANDLE_DIGITS: Final = 16

_a2b: Final = binascii.a2b_base64
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URL: Final = bytes.maketrans(b"-_+/=", b"+/!!!")
"""A2b_base64 skips what is not of its alphabet; the result is then too short, and the id malformed."""


def encode(slot: int, key: bytes) -> bytes:
    """The id of the session with `key` in `slot`."""
    return binascii.b2a_base64(slot.to_bytes(_SLOT_BYTES, "big") + key, newline=False).translate(_TO_URL)


def decode(session_id: bytes) -> tuple[int, bytes] | None:
    """The slot and the key that an id names; None if it is malformed."""
    try:
        raw = _a2b(session_id.translate(_FROM_URL))
    except ValueError:
        return None
    if len(session_id) != ID_CHARS or len(raw) != _RAW_BYTES:
        return None
    return raw[0] << 16 | raw[1] << 8 | raw[2], raw[_SLOT_BYTES:]


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
