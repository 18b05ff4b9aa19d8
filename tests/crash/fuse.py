"""Kills a process between two stores of its own choice, and checks what the others then see."""

from __future__ import annotations

import os
import signal
from typing import Any

from shadowcat.shm.sessions.table import SessionTable

PARTS = 3
"""A store of many bytes is made in so many parts, with a chance to die after each: so torn can it get."""


class Fuse:
    """Counts stores, and lets the process die (or stop) when enough have been made."""

    def __init__(self, stores: int, number: int = signal.SIGKILL) -> None:
        self.left = stores
        self.number = number

    def burn(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)

    def install(self, table: SessionTable) -> None:
        """Wrap everything through which the table stores."""
        seen: set[int] = set()
        todo: list[Any] = [table]
        while todo:
            holder = todo.pop()
            if id(holder) in seen:
                continue
            seen.add(id(holder))
            for name in slots_of(holder):
                value = getattr(holder, name, None)
                if isinstance(value, memoryview):
                    setattr(holder, name, Wired(value, self))
                elif type(value).__module__.startswith("shadowcat.shm.sessions"):
                    todo.append(value)


class Wired:
    """A memoryview whose stores burn a fuse."""

    def __init__(self, view: memoryview, fuse: Fuse) -> None:
        self.view = view
        self.fuse = fuse

    def __getitem__(self, index: Any) -> Any:
        return self.view[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        if not isinstance(index, slice):
            self.view[index] = value
            self.fuse.burn()
            return
        length = len(value)
        step = max(1, -(-length // PARTS))
        for start in range(0, length, step):
            end = min(start + step, length)
            self.view[index.start + start : index.start + end] = value[start:end]
            self.fuse.burn()

    def tobytes(self) -> bytes:
        return self.view.tobytes()

    def cast(self, form: str) -> memoryview:
        return self.view.cast(form)


def slots_of(holder: object) -> list[str]:
    return [name for kind in type(holder).__mro__ for name in getattr(kind, "__slots__", ())]


def was_killed(pid: int) -> bool:
    """Wait for a child: killed, or come to its end."""
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert status == 0, "the child failed; its traceback is above"
    return False
