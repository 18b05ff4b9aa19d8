"""Input cut into reads: which bytes came together must never matter."""

from __future__ import annotations

import zlib
from itertools import pairwise
from random import Random
from typing import Final

_MOST_CUTS: Final = 6
_MOST_SINGLE: Final = 64


def cut_somewhere(data: bytes) -> list[bytes]:
    """The bytes in a few pieces, the same ones for the same bytes."""
    random = Random(zlib.crc32(data))
    at = sorted(random.randrange(len(data) + 1) for _ in range(random.randint(1, _MOST_CUTS)))
    return [data[start:end] for start, end in pairwise([0, *at, len(data)]) if start < end]


def cut_bytewise(data: bytes) -> list[bytes]:
    """Every byte alone, as far as that is worth its time."""
    pieces = [data[at : at + 1] for at in range(min(len(data), _MOST_SINGLE))]
    return [*pieces, data[_MOST_SINGLE:]] if len(data) > _MOST_SINGLE else pieces


def all_cuts(data: bytes) -> list[list[bytes]]:
    """The bytes whole, in pieces, and one by one."""
    return [[data] if data else [], cut_somewhere(data), cut_bytewise(data)]
