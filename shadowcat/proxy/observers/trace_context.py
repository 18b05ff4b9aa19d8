"""The traceparent header: which trace a request belongs to (W3C Trace Context section 3.2)."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_FORM: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_FORBIDDEN_VERSION: Final = b"ff"
_FIRST_VERSION: Final = b"00"


class TraceParent(NamedTuple):
    """The caller's span."""

    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 hexadecimal digits."""
    flags: int


def parse_traceparent(value: bytes | None) -> TraceParent | None:
    """Read the header's value; None if it is absent or not valid, and has to be ignored."""
    found = _FORM.fullmatch(value) if value is not None else None
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    # Later versions may add fields; the first one has none to add (section 3.2.4).
    if version == _FORBIDDEN_VERSION or (version == _FIRST_VERSION and rest is not None):
        return None
    if not trace_id.strip(b"0") or not span_id.strip(b"0"):
        return None
    return TraceParent(trace_id.decode(), span_id.decode(), int(flags, 16))
