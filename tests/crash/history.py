"""What processes did to the table and what they saw, and whether both can be true.

Each process appends a line before and one after each operation to a file of its own; a line is one write, so
a kill leaves it whole or not at all. Times are CLOCK_MONOTONIC, common to all processes.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

GONE = -1
"""What a read has seen that found no session."""
BUSY = -2
"""What an operation has seen that met a lock: nothing."""
FOREVER = 2**63


class Log:
    """One process's file."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def begin(self, verb: str, session_id: bytes, name: str = "") -> None:
        self._write("begin", verb, session_id, name, 0)

    def end(self, verb: str, session_id: bytes, name: str = "", value: int = 0) -> None:
        self._write("end", verb, session_id, name, value)

    def _write(self, *words: object) -> None:
        text = " ".join(word.decode() if isinstance(word, bytes) else str(word) or "-" for word in words)
        os.write(self.fd, f"{time.monotonic_ns()} {text}\n".encode())


@dataclass
class Operation:
    verb: str
    session_id: str
    begun: int
    ended: int = FOREVER
    """Never, if its process was killed in it."""
    name: str = ""
    value: int = 0


def read_log(path: Path) -> list[Operation]:
    """The operations of one process, in order; only the last may have no end."""
    operations: list[Operation] = []
    for line in path.read_text().splitlines():
        when, edge, verb, session_id, name, value = line.split()
        if edge == "begin":
            operations.append(Operation(verb, session_id, int(when), name=name))
        else:
            last = operations[-1]
            assert (last.verb, last.ended) == (verb, FOREVER)
            last.session_id = session_id
            last.ended, last.name, last.value = int(when), name, int(value)
    return operations


@dataclass
class Life:
    """All that happened to one session."""

    name: str
    created: int
    """When its creation had ended; 0: its creator was killed in it."""
    updates: list[Operation] = field(default_factory=list)
    deletions: list[Operation] = field(default_factory=list)
    reads: list[Operation] = field(default_factory=list)

    def check(self, unborn: set[str]) -> None:
        """Each read has seen this session, at a value it can have had then, or its end if one can have been.

        Every update adds 1 to the value, so a lost or a doubled one shows, too.

        Args:
            unborn: Names of the sessions whose creation was cut short.
        """
        assert self.created or self.name in (*unborn, "-")
        ended = min((one.ended for one in self.deletions if one.value != GONE), default=FOREVER)
        may_end = min((one.begun for one in self.deletions), default=FOREVER)
        for read in (*self.reads, *self.updates):
            if read.ended == FOREVER:  # killed before it saw anything
                continue
            if read.value == GONE:
                assert may_end < read.ended, f"{self.name} was gone, but nobody had deleted it: {read}"
                continue
            assert read.name == self.name, f"another session's record: {read}"
            assert read.begun < ended, f"{self.name} was there after it had been deleted: {read}"
            most = sum(one.begun < read.ended for one in self.updates)
            least = sum(one.ended < read.begun and one.value != GONE for one in self.updates)
            assert least <= read.value <= most, f"{self.name} can be {least}..{most}: {read}"
        done = sorted(one.value for one in self.updates if one.ended != FOREVER and one.value != GONE)
        assert len(done) == len(set(done)), f"two updates of {self.name} made the same value: {done}"


def lives(operations: list[Operation]) -> dict[str, Life]:
    """The operations by session; what met a lock is left out, it has done nothing."""
    found = {
        one.session_id: Life(one.name, one.ended)
        for one in operations
        if one.verb == "create" and one.ended != FOREVER and one.value != BUSY
    }
    for one in operations:
        if one.verb == "create" or one.value == BUSY:
            continue
        # Its creator was killed before it could tell, and somebody came across it.
        life = found.setdefault(one.session_id, Life(one.name, 0))
        if life.name == "-":
            life.name = one.name
        {"read": life.reads, "update": life.updates, "delete": life.deletions}[one.verb].append(one)
    return found
