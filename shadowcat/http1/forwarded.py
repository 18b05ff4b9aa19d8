"""The Forwarded field (RFC 7239): what each proxy on a request's way says of its predecessor."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

# Unquoted addresses with a port or in brackets are no tokens (section 6), but common, and have one meaning.
_TEXT: Final = rb"[\t\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff]"
_PAIR: Final = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+)=(?:([!#$%&'*+\-.^_`|~0-9A-Za-z:\[\]]+)|\"((?:" + _TEXT + rb")*)\")"
)
_BLANKS: Final = re.compile(rb"[\t ]*")
_ESCAPE: Final = re.compile(rb"\\(.)", re.DOTALL)
_NODE: Final = re.compile(rb"[0-9A-Za-z._:\[\]\-]+")


class Hop(NamedTuple):
    """What one proxy says of the request it got; empty where it says nothing."""

    node: bytes = b""
    """Who sent it: an address, maybe with a port, "unknown", or a name that hides one."""
    host: bytes = b""
    """Its Host."""
    proto: bytes = b""
    """The scheme by which it came."""


def read_forwarded(lines: Sequence[bytes]) -> list[Hop]:
    """The hops that the field's lines tell of, the nearest proxy's word last.

    Of lines that are malformed, and of all before such a one, nothing is told: a quote that a client left
    open would swallow what the next proxy has added.
    """
    hops: list[Hop] = []
    for line in reversed(lines):
        found = _read_line(line)
        if found is None:
            break
        hops[:0] = found
    return hops


def _read_line(line: bytes) -> list[Hop] | None:
    hops: list[Hop] = []
    pairs: dict[bytes, bytes] = {}
    at = _skip(line, 0)
    while at < len(line):
        if line[at] in b",;":
            if line[at] == 0x2C and pairs:
                hops.append(_hop(pairs))
                pairs = {}
            at = _skip(line, at + 1)
            continue
        pair = _PAIR.match(line, at)
        if pair is None:
            return None
        name = pair[1].lower()
        if name in pairs:
            return None
        pairs[name] = pair[2] if pair[2] is not None else _ESCAPE.sub(rb"\1", pair[3])
        at = _skip(line, pair.end())
        if at < len(line) and line[at] not in b",;":
            return None
    if pairs:
        hops.append(_hop(pairs))
    return hops


def _hop(pairs: dict[bytes, bytes]) -> Hop:
    node = pairs.get(b"for", b"")
    # What is quoted may hold anything, and goes into the list of X-Forwarded-For.
    if node and _NODE.fullmatch(node) is None:
        node = b"unknown"
    return Hop(node, pairs.get(b"host", b""), pairs.get(b"proto", b"").lower())


def _skip(line: bytes, at: int) -> int:
    blanks = _BLANKS.match(line, at)
    return blanks.end() if blanks is not None else at
