"""Whether a JSON-RPC body may be forwarded: pure, from the head and the envelope alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from shadowcat.errors import Refusal
from shadowcat.mcp.envelope import Envelope, Kind
from shadowcat.mcp.eras import Era
from shadowcat.mcp.mirrored import Mirrored, find_disagreement


class Objection(NamedTuple):
    """Why a body is not forwarded."""

    refusal: Refusal
    detail: str = ""


_CHARSET: Final = re.compile(rb";[ \t]*charset[ \t]*=[ \t]*\"?([^\s\";]*)", re.IGNORECASE)
_UTF8: Final = frozenset({b"utf-8", b"utf8", b"us-ascii"})


def has_foreign_charset(content_types: Sequence[bytes]) -> bool:
    """Whether a body is announced in another charset than UTF-8.

    A server that believes it would read other keys than the proxy did; in UTF-7, for one, ASCII hides them.
    """
    for value in content_types:
        for charset in _CHARSET.findall(value):
            if charset.lower() not in _UTF8:
                return True
    return False


def inspect(envelope: Envelope, era: Era, mirrored: Mirrored) -> Objection | None:
    """Judge a POST's message.

    What cannot be read for certain is refused: a message that the proxy reads in one way and its upstream in
    another would pass every rule made for it.

    Args:
        envelope: What the body says.
        era: Of the request.
        mirrored: The headers that repeat the body.
    """
    if envelope.fault is not None:
        return Objection(envelope.fault)
    if envelope.kind is Kind.BATCH:
        return Objection(Refusal.BATCH)
    if era is Era.MODERN:
        disagreement = find_disagreement(envelope, mirrored)
        if disagreement is not None:
            return Objection(Refusal.HEADER_DIFFERS, disagreement.value)
    return None
