"""The request target: which forms are accepted, and what path they mean (RFC 9112 section 3.2)."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from shadowcat.errors import Refusal

# RFC 3986 path and query characters. Brackets are not in its grammar but common in queries; quotes, angle
# brackets, backslash, braces, pipe, caret, backtick and "#" are refused because servers disagree on them.
_ORIGIN: Final = re.compile(rb"(/[A-Za-z0-9\-._~%!$&'()*+,;=:@/]*)(\?[A-Za-z0-9\-._~%!$&'()*+,;=:@/?\[\]]*)?")
_ABSOLUTE: Final = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?#@]+)(/[^#]*|\?[^#]*)?")
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
# Segments that one server resolves and the next one does not: "..", ".", empty, and their encodings, also
# with a parameter behind them ("..;x", which servlet containers cut off first); an encoded slash or
# backslash; an encoded NUL, which ends the path for C programs.
_AMBIGUOUS: Final = re.compile(rb"//|/(?:\.|%2[eE]){1,2}(?:[/;]|\Z)|%2[fF]|%5[cC]|%00")

_HOST: Final = re.compile(
    rb"(?:[A-Za-z0-9\-._~!$&'()*+;=%]{1,255}|\[[0-9A-Fa-f:.]{2,45}(?:%25[A-Za-z0-9._~\-]+)?\])(?::[0-9]{1,5})?"
)
"""host [":" port] without userinfo. A comma is legal in RFC 3986 names but means a folded list here."""


class Target(NamedTuple):
    """A request target, taken apart but not decoded."""

    path: bytes
    query: bytes
    """Including its question mark; empty if there is none."""
    authority: bytes | None
    """Of an absolute-form target."""


def parse_target(method: bytes, raw: bytes) -> Target | Refusal:
    """Take a target apart, or say why it is refused."""
    authority = None
    if not raw.startswith(b"/"):
        if raw == b"*":
            return Target(b"*", b"", None) if method == b"OPTIONS" else Refusal.BAD_TARGET
        absolute = _ABSOLUTE.fullmatch(raw)
        if absolute is None or not is_host(absolute[1]):
            return Refusal.BAD_TARGET
        authority = absolute[1]
        raw = absolute[2] or b"/"
        if raw.startswith(b"?"):
            raw = b"/" + raw
    origin = _ORIGIN.fullmatch(raw)
    if origin is None:
        return Refusal.BAD_TARGET
    if b"%" in raw and _BAD_ESCAPE.search(raw):
        return Refusal.BAD_TARGET
    path: bytes = origin[1]
    if _AMBIGUOUS.search(path):
        return Refusal.AMBIGUOUS_PATH
    return Target(path, origin[2] or b"", authority)


def is_host(value: bytes) -> bool:
    """Whether a Host value is one host with an optional port."""
    return _HOST.fullmatch(value) is not None
