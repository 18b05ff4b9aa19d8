"""What the host goes by at present, as the control process sees it."""

from __future__ import annotations

from shadowcat.config.seats import Snapshot
from shadowcat.config.urls import upstream_name
from shadowcat.shm.directory import Directory, Labels
from shadowcat.shm.shared import Shared


class Present:
    """The last snapshot, and what follows from it; read anew when there is a newer one."""

    __slots__ = ("_directory", "_rows", "_shared", "_snapshot")

    def __init__(self, shared: Shared) -> None:
        """Read it.

        Raises:
            SnapshotError: It is spoilt.
        """
        self._shared = shared
        self._take(shared.present())

    def _take(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._directory = Directory(self._shared.layout, snapshot)
        self._rows = {
            (seat.row, seat.generation): (path, upstream_name(upstream))
            for path, _, upstream, seat in snapshot.upstreams()
        }

    def _refresh(self) -> None:
        if self._shared.snapshot.version != self._snapshot.version:
            self._take(self._shared.present())

    @property
    def snapshot(self) -> Snapshot:
        """Configuration and numbers."""
        self._refresh()
        return self._snapshot

    @property
    def directory(self) -> Directory:
        """Cells by labels."""
        self._refresh()
        return self._directory

    def upstream(self, row: int, generation: int) -> Labels:
        """Route and name of the upstream that has a row; "-" if that is nobody any more."""
        self._refresh()
        return self._rows.get((row, generation), ("-", "-"))
