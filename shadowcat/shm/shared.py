"""All shared areas together: made once by the supervisor before the fork, inherited by everyone.

area        writers                                         module
host        supervisor                                      host.py
pages       one per process: that process                   page.py, counters.py
mail        one ring per (sender, receiver): its sender     mailboxes.py
"""

from __future__ import annotations

import time
from typing import Final, Protocol

from shadowcat.config.model import Config
from shadowcat.shm.counters import Layout
from shadowcat.shm.host import HostFlags
from shadowcat.shm.mailboxes import Mailboxes
from shadowcat.shm.page import HEADER, Page
from shadowcat.shm.region import PAGE, WORD, Plan, Region

SUPERVISOR: Final = 0
CONTROL: Final = 1
_FIRST_WORKER: Final = 2


def worker_number(slot: int) -> int:
    """The process number of the worker in `slot`."""
    return _FIRST_WORKER + slot


class Lifeline(Protocol):
    """A child's tie to the supervisor. End of file on it means that the supervisor is gone: exit at once."""

    def fileno(self) -> int:
        """Descriptor to watch for end of file."""
        ...

    def ready(self) -> None:
        """Tell the supervisor that this process serves."""
        ...

    def failed(self, message: str) -> None:
        """Tell the supervisor why this process cannot start."""
        ...


class Shared:
    """Every shared area, by name."""

    __slots__ = ("_pages", "_region", "host", "layout", "mail")

    def __init__(self, config: Config) -> None:
        processes = worker_number(config.workers)
        self.layout = Layout(config)
        plan = Plan()
        host = HostFlags.plan(plan, config.workers)
        mail = Mailboxes.plan(plan, processes)
        words = HEADER + self.layout.size
        pages = [plan.add(words * WORD, PAGE) for _ in range(processes)]
        self._region = region = Region(plan.size)
        self.host = HostFlags(region, host, config.workers)
        self._pages = tuple(Page(region.words(area.offset, words)) for area in pages)
        dropped = self.layout.cell("mail_dropped_total")
        self.mail = Mailboxes(region, mail, [page.cells[dropped : dropped + 1] for page in self._pages])

    @classmethod
    def create(cls, config: Config) -> Shared:
        """Allocate everything at the sizes that `config` asks for.

        Raises:
            StartError: The memory is not to be had.
        """
        shared = cls(config)
        shared.host.set_started(time.monotonic_ns())
        return shared

    @property
    def processes(self) -> int:
        """How many process numbers there are: supervisor, control and the workers."""
        return len(self._pages)

    def page(self, process: int) -> Page:
        """The counters page of `process`."""
        return self._pages[process]

    def close(self) -> None:
        """Close the descriptors; the memory itself goes when the last process has ended."""
        self.mail.close()
        self._region.close()
