"""Quantities as a configuration writes them: durations (``30s``) and sizes (``10MiB``)."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

_DURATION_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_UNITS: Final = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
# 18 digits: enough for every 64-bit number, and no arithmetic on them overflows a float.
_QUANTITY: Final = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", re.ASCII)


class Duration(float):
    """A length of time in seconds; written ``250ms``, ``30s``, ``10m``, ``24h`` or ``7d``.

    In Python it is made of such a text, or of a number of seconds: ``Duration("30s") == Duration(30)``.
    """

    __slots__ = ()

    def __new__(cls, value: str | float = 0.0) -> Duration:
        """Read text as `parse` does; take a number as it is.

        Raises:
            ValueError: The text is no duration.
        """
        return cls.parse(value) if isinstance(value, str) else super().__new__(cls, value)

    @classmethod
    def parse(cls, text: str | float) -> Duration:
        """Read a duration. A bare number means seconds.

        Raises:
            ValueError: The text is no duration; the message says what is accepted.
        """
        seconds = _parse(text, _DURATION_UNITS, "s", "a duration such as 250ms, 30s, 10m or 24h")
        return cls(seconds)

    def __str__(self) -> str:
        return _format(float(self), _DURATION_UNITS)


class Size(int):
    """A number of bytes; written ``512B``, ``64KiB``, ``10MiB``, or decimal ``10MB``.

    In Python it is made of such a text, or of a number: ``Size("4KiB") == Size(4096)``.
    """

    __slots__ = ()

    def __new__(cls, value: str | int = 0) -> Size:
        """Read text as `parse` does; take a number as it is.

        Raises:
            ValueError: The text is no size, or not a whole number of bytes.
        """
        return cls.parse(value) if isinstance(value, str) else super().__new__(cls, value)

    @classmethod
    def parse(cls, text: str | float) -> Size:
        """Read a size. A bare number means bytes.

        Raises:
            ValueError: The text is no size, or not a whole number of bytes.
        """
        size = _parse(text, _SIZE_UNITS, "B", "a size such as 64KiB, 10MiB or 512B")
        if size != int(size):
            raise ValueError(f"{text!r} is not a whole number of bytes")
        return cls(int(size))

    def __str__(self) -> str:
        return _format(int(self), {u: f for u, f in _SIZE_UNITS.items() if u == "B" or u.endswith("iB")})


def _parse(text: object, units: dict[str, float] | dict[str, int], default: str, wanted: str) -> float:
    if isinstance(text, bool):
        raise ValueError(f"expected {wanted}, got {str(text).lower()}")
    if isinstance(text, (int, float)):
        if not 0 <= text < 10**18:
            raise ValueError(f"expected {wanted}, got {text}")
        return text
    match = _QUANTITY.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"expected {wanted}, got {text!r}")
    factor = units.get(match[2] or default)
    if factor is None:
        raise ValueError(f"unknown unit {match[2]!r} in {text!r}: use one of {', '.join(units)}")
    number = match[1]
    # Whole numbers stay whole: 9007199254740993B must not lose its last digit to a float.
    return (float(number) if "." in number else int(number)) * factor


def _format(value: float, units: dict[str, float] | dict[str, int]) -> str:
    """The largest unit that keeps the value a whole number, so that parse(str(x)) == x."""
    for unit, factor in sorted(units.items(), key=lambda item: -item[1]):
        count = round(value / factor)
        if count and count * factor == value:
            return f"{count}{unit}"
    if value == 0:
        return f"0{min(units, key=lambda unit: units[unit])}"
    # repr() writes 0.00001 as 1e-05, which is no quantity.
    return f"{Decimal(repr(value)):f}{'s' if 's' in units else 'B'}"
