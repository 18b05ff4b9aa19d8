"""The counters page of one process: its signs of life and its metric cells.

    word    field           writer
    0       pid             its process; 0 by the supervisor once it has reaped it
    1       heartbeat       its process, CLOCK_MONOTONIC ns; 0 by the supervisor: no beat yet
    2       state           its process; NONE by the supervisor
    3       started         its process, CLOCK_MONOTONIC ns
    4       incarnation     its process: how many processes have used this page
    5       version         its process: of the snapshot that it goes by
    6-7     (unused)
    8-      metric cells    its process; gauges 0 by the supervisor

There is one writer at any time: the process while it lives, the supervisor between reaping it and forking its
replacement. Totals are never reset.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from shadowcat.shm.counters import Layout

HEADER: Final = 8
_PID: Final = 0
_HEARTBEAT: Final = 1
_STATE: Final = 2
_STARTED: Final = 3
_INCARNATION: Final = 4
_VERSION: Final = 5


class State(IntEnum):
    """Where a process is in its life."""

    NONE = 0
    """Not running."""
    STARTING = 1
    READY = 2
    DRAINING = 3


class Page:
    """One process's page. `cells` is what Layout numbers."""

    __slots__ = ("_header", "cells")

    def __init__(self, words: memoryview) -> None:
        self._header = words[:HEADER]
        self.cells = words[HEADER:]

    def begin(self, pid: int, now_ns: int) -> None:
        """Take the page over: called by a process right after it was forked, before its first beat."""
        header = self._header
        header[_INCARNATION] += 1
        header[_VERSION] = 0
        header[_STARTED] = now_ns
        header[_HEARTBEAT] = now_ns
        header[_STATE] = State.STARTING
        header[_PID] = pid

    def beat(self, now_ns: int) -> None:
        """Say that the loop is turning. `now_ns` is CLOCK_MONOTONIC, common to all processes."""
        self._header[_HEARTBEAT] = now_ns

    def set_state(self, state: State) -> None:
        """Publish the own state."""
        self._header[_STATE] = state

    def set_version(self, version: int) -> None:
        """Publish by which snapshot of the configuration the process goes."""
        self._header[_VERSION] = version

    def reset_gauges(self, layout: Layout) -> None:
        """Repair the page of a reaped process: levels to 0, totals stay. For the supervisor only."""
        header, cells = self._header, self.cells
        header[_PID] = 0
        header[_STATE] = State.NONE
        header[_HEARTBEAT] = 0
        for cell in layout.gauges:
            cells[cell] = 0

    @property
    def pid(self) -> int:
        """Process id, 0 when none runs."""
        return self._header[_PID]

    @property
    def heartbeat(self) -> int:
        """CLOCK_MONOTONIC ns of the last beat, 0 before the first."""
        return self._header[_HEARTBEAT]

    @property
    def state(self) -> State:
        """What the process last said about itself."""
        return State(self._header[_STATE])

    @property
    def version(self) -> int:
        """Of the snapshot by which the process goes; 0: it has none yet."""
        return self._header[_VERSION]

    @property
    def started(self) -> int:
        """CLOCK_MONOTONIC ns at which the present process began."""
        return self._header[_STARTED]

    @property
    def incarnation(self) -> int:
        """How many processes have begun on this page."""
        return self._header[_INCARNATION]
