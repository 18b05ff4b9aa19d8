"""What was found out about things that clients choose, and thus may be of any number."""

from __future__ import annotations

from typing import Generic, TypeVar

_KEY = TypeVar("_KEY")
_VALUE = TypeVar("_VALUE")


class Bounded(dict[_KEY, _VALUE], Generic[_KEY, _VALUE]):
    """Begins anew when it is full: what is in use is there again at once."""

    __slots__ = ("_most",)

    def __init__(self, most: int) -> None:
        """`most` is how many there may be."""
        super().__init__()
        self._most = most

    def put(self, key: _KEY, value: _VALUE) -> _VALUE:
        """Remember and return a value."""
        if len(self) >= self._most:
            self.clear()
        self[key] = value
        return value
