"""Which upstream gets the next exchange. Pure: the caller knows who is to be had and does the I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

_Candidate = TypeVar("_Candidate")


class RoundRobin:
    """Each in turn, in the order of the configuration."""

    __slots__ = ("_next",)

    def __init__(self, start: int) -> None:
        """`start` sets the workers of a host apart, so that their first exchanges do not all go to one."""
        self._next = start

    def choose(self, candidates: Sequence[_Candidate]) -> _Candidate:
        """Pick one of `candidates`, which are not empty."""
        chosen = candidates[self._next % len(candidates)]
        self._next += 1
        return chosen
