"""What the supervisor tells all the others about the host as a whole.

    word        field               meaning
    0           started             CLOCK_MONOTONIC ns at which the supervisor made the region
    1           full start          CLOCK_MONOTONIC ns at which all slots were first being served; 0 before
    2           draining            1 once the host stops
    3           addresses           length of the text below
    4           reloads         how often a reload of the configuration was asked for
    5-7         (unused)
    8 + p       restarts            how often process p has been replaced
    then 2 per  served by           number of the process that accepts for the slot; 0 = nobody
      slot      served since        CLOCK_MONOTONIC ns of the last change of `served by`
    then        addresses (bytes)   JSON, written once before the fork

The supervisor is the only writer of all of it.
"""

from __future__ import annotations

from typing import Final

from shadowcat.shm.region import WORD, Area, Plan, Region

ADDRESSES_LIMIT: Final = 16 * 1024
_STARTED: Final = 0
_FULL_START: Final = 1
_DRAINING: Final = 2
_LENGTH: Final = 3
_RELOADS: Final = 4
_TABLES: Final = 8


class HostFlags:
    """Host-wide facts. Setters are for the supervisor only."""

    __slots__ = ("_served", "_text", "_words", "slots")

    def __init__(self, region: Region, area: Area, slots: int) -> None:
        words = _TABLES + (slots + 2) + 2 * slots
        self.slots = slots
        self._words = region.words(area.offset, words)
        self._served = _TABLES + slots + 2
        self._text = region.view(area.offset + words * WORD, ADDRESSES_LIMIT)

    @staticmethod
    def plan(plan: Plan, slots: int) -> Area:
        """Set the memory aside for a host with `slots` workers."""
        return plan.add((_TABLES + (slots + 2) + 2 * slots) * WORD + ADDRESSES_LIMIT)

    @property
    def started(self) -> int:
        """CLOCK_MONOTONIC ns of the supervisor's start."""
        return self._words[_STARTED]

    def set_started(self, now_ns: int) -> None:
        """Note when the supervisor started."""
        self._words[_STARTED] = now_ns

    @property
    def fully_started(self) -> bool:
        """Whether all slots have been served at some time since the start."""
        return self._words[_FULL_START] != 0

    def set_fully_started(self, now_ns: int) -> None:
        """Note the first moment at which all slots were served."""
        self._words[_FULL_START] = now_ns

    @property
    def draining(self) -> bool:
        """Whether the host is stopping."""
        return self._words[_DRAINING] != 0

    def set_draining(self) -> None:
        """Say that the host is stopping; there is no way back."""
        self._words[_DRAINING] = 1

    @property
    def reloads(self) -> int:
        """How often a reload of the configuration was asked for."""
        return self._words[_RELOADS]

    def ask_for_reload(self) -> None:
        """Ask for one more; control is to be woken by SIGHUP."""
        self._words[_RELOADS] += 1

    def restarts(self, process: int) -> int:
        """How often `process` has been replaced."""
        return self._words[_TABLES + process]

    def count_restart(self, process: int) -> None:
        """Count a replacement of `process`."""
        self._words[_TABLES + process] += 1

    def served_by(self, slot: int) -> int:
        """Number of the process that accepts connections of `slot`; 0 when nobody does."""
        return self._words[self._served + 2 * slot]

    def served_since(self, slot: int) -> int:
        """CLOCK_MONOTONIC ns of the last change of `served_by`; 0 if there was none yet."""
        return self._words[self._served + 2 * slot + 1]

    def set_served(self, slot: int, process: int, now_ns: int) -> None:
        """Say who accepts for `slot`: its own worker, a sibling that adopted it, or nobody (0)."""
        self._words[self._served + 2 * slot + 1] = now_ns
        self._words[self._served + 2 * slot] = process

    def set_addresses(self, text: bytes) -> None:
        """Publish where the host listens, as JSON; written after binding (port 0) and before the fork.

        Raises:
            ValueError: The text is longer than ADDRESSES_LIMIT.
        """
        if len(text) > ADDRESSES_LIMIT:
            raise ValueError(f"{len(text)} bytes of addresses; {ADDRESSES_LIMIT} fit")
        self._text[: len(text)] = text
        self._words[_LENGTH] = len(text)

    def addresses(self) -> bytes:
        """What `set_addresses` was given; empty before."""
        return bytes(self._text[: self._words[_LENGTH]])
