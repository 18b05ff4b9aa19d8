"""Messages are written by formatting: what stays is the format, what changes are its arguments."""

from __future__ import annotations


def as_format(text: bytes) -> bytes:
    """Text, from whomever, as it stands for itself in a bytes format."""
    return text.replace(b"%", b"%%")
