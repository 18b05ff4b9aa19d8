"""Quantities as a configuration writes them: durations (``30s``), sizes (``10MiB``), limits (``100/min``)."""

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

_SECOND: Final = 10**9
_PERIODS: Final = {
    "s": _SECOND, "m": 60 * _SECOND, "min": 60 * _SECOND, "h": 3600 * _SECOND, "d": 86_400 * _SECOND,
}  # fmt: skip
_SHOWN: Final = [(name, _PERIODS[name]) for name in ("d", "h", "min", "s")]
_LIMIT: Final = re.compile(
    r"\s*(?:([0-9]{1,9})\s*/\s*([0-9]{1,9})?\s*(s|m|min|h|d)(?=\s|$))?"
    r"(?:\s*\bburst\s+([0-9]{1,9})(?=\s|$))?(?:\s*\bconcurrent\s+([0-9]{1,9}))?\s*",
    re.ASCII,
)
_SHORTEST_INTERVAL: Final = 1000
"""Nanoseconds between two of a rate, which are rounded up: a thousandth is the most that this may be off."""
_LONGEST_SPAN: Final = 366 * _PERIODS["d"]


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


class Limit:
    """How much of something may be done: a rate, how many at once, or both.

    Written ``100/s``, ``100/min burst 10``, ``100/min concurrent 5`` or ``concurrent 5``; a rate is a number
    for a time such as ``s``, ``min``, ``h``, ``d`` or ``10s``. In Python it is made of such a text.
    """

    __slots__ = ("burst", "concurrent", "count", "period")

    def __init__(self, text: object) -> None:
        """Read a limit.

        Raises:
            ValueError: The text is none; the message says what is accepted.
        """
        match = _LIMIT.fullmatch(text) if isinstance(text, str) else None
        if match is None or not match[0].strip():
            raise ValueError(f"expected a limit such as 100/s, 5/min burst 2 or concurrent 10, got {text!r}")
        count, number, unit, burst, concurrent = match.groups()
        self.count = int(count or 0)
        """How often; 0 if any rate will do."""
        self.period = int(number or 1) * _PERIODS[unit] if unit else 0
        """In how long, nanoseconds."""
        self.burst = int(burst) if burst else self.count
        """How often at once, after a time of quiet; by default as often as the rate says."""
        self.concurrent = int(concurrent or 0)
        """How many at a time; 0 for any number."""
        self._check(match[0], [part for part in match.groups() if part is not None and part.isdigit()])

    def _check(self, text: str, numbers: list[str]) -> None:
        if any(int(number) == 0 for number in numbers):
            raise ValueError(f"{text!r} lets nothing through: write numbers of 1 or more")
        if self.burst and not self.count:
            raise ValueError(f"{text!r} has a burst, but no rate: write the rate, such as 100/s, before it")
        if self.count and self.period // self.count < _SHORTEST_INTERVAL:
            raise ValueError(f"{text!r} is more than a million per second: leave it out")
        if self.burst * self.period > _LONGEST_SPAN * max(self.count, 1) or self.period > _LONGEST_SPAN:
            raise ValueError(f"{text!r} goes back more than a year: write a shorter time, or a smaller burst")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Limit) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __repr__(self) -> str:
        return f"Limit({str(self)!r})"

    @property
    def rate(self) -> str:
        """The rate alone; empty without one."""
        if not self.count:
            return ""
        unit = next(name for name, length in _SHOWN if self.period % length == 0)
        number = self.period // _PERIODS[unit]
        return f"{self.count}/{number if number > 1 else ''}{unit}"

    def __str__(self) -> str:
        parts = [self.rate] if self.count else []
        if self.burst != self.count:
            parts.append(f"burst {self.burst}")
        if self.concurrent:
            parts.append(f"concurrent {self.concurrent}")
        return " ".join(parts)


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
