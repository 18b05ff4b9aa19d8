"""A host's shared memory as tests see it: cells by labels, and changes of the configuration by hand."""

from __future__ import annotations

import time

from shadowcat.config import seats
from shadowcat.config.model import Config
from shadowcat.shm.counters import family_of
from shadowcat.shm.directory import Directory
from shadowcat.shm.shared import CONTROL, Shared


def cell_of(shared: Shared, family: str, *labels: str) -> int:
    """The first cell of a family's member, such as "pool_idle", "/mcp", "a".

    Raises:
        KeyError: There is no such family, route, upstream or reason.
    """
    directory = Directory(shared.layout, shared.present())
    (cell,) = directory.cells(family_of(family), *labels)
    return cell


def publish(shared: Shared, config: Config) -> None:
    """Have another configuration take the place of the present one, as control does."""
    old = shared.present()
    _write(shared, seats.change(old, config, {}, now_ns=time.monotonic_ns(), taken_up=old.version))


def free_rows(shared: Shared) -> None:
    """Have all upstreams that leave give up their rows, as control does once nobody needs them."""
    old = shared.present()
    _write(shared, seats.settle(old, set(), {one.seat.row for one in old.leaving}))


def _write(shared: Shared, snapshot: seats.Snapshot) -> None:
    shared.snapshot.write(snapshot.version, seats.encode(snapshot))
    shared.board.changed(CONTROL)
