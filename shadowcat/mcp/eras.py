"""The published revisions of MCP, and which of its two eras a request belongs to."""

from __future__ import annotations

import re
from enum import Enum
from typing import Final


class Era(Enum):
    """The two ways of speaking MCP over HTTP ("Terms" of basic/versioning, revision 2026-07-28)."""

    LEGACY = "legacy"
    """Sessions: `initialize` comes first, GET opens a stream, DELETE ends the session."""
    MODERN = "modern"
    """Stateless: every POST names its protocol version and mirrors its method in headers."""


# The one table of versions; nothing else in the package spells one.
VERSIONS: Final[dict[bytes, Era]] = {
    b"2024-11-05": Era.LEGACY,
    b"2025-03-26": Era.LEGACY,
    b"2025-06-18": Era.LEGACY,
    b"2025-11-25": Era.LEGACY,
    b"2026-07-28": Era.MODERN,
}

_FIRST_MODERN: Final = min(version for version, era in VERSIONS.items() if era is Era.MODERN)
_DATE: Final = re.compile(rb"[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])")


def era_of(method: bytes, version: bytes | None) -> Era:
    """Decide the era of a request from its head alone.

    A POST that names the first modern revision, or a later date, is modern: revisions newer than the table
    keep their stateless form, and the upstream answers for what it does not support. Everything else is
    legacy: servers read an absent version as 2025-03-26, and GET and DELETE are session operations.

    Args:
        method: the request method as received, for example `b"POST"`.
        version: the value of `MCP-Protocol-Version` without surrounding white space; None when absent.
    """
    if version is None or method != b"POST":
        return Era.LEGACY
    known = VERSIONS.get(version)
    if known is not None:
        return known
    if version > _FIRST_MODERN and _DATE.fullmatch(version):
        return Era.MODERN
    return Era.LEGACY
