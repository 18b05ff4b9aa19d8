"""Puts configurations to work: the snapshot that all workers take up at their next request.

file, API --> checked --> numbers given out --> written --> epoch --> every worker has taken it up
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from shadowcat.config import changes as edits
from shadowcat.config import seats
from shadowcat.config.load import check_files
from shadowcat.config.model import Config
from shadowcat.config.seats import Snapshot
from shadowcat.control.admin.changes import BY_API, Applied
from shadowcat.control.present import Present
from shadowcat.errors import ConfigError
from shadowcat.log import LOGGER
from shadowcat.shm.breakers import Breakers
from shadowcat.shm.locks import LockBusyError
from shadowcat.shm.page import State
from shadowcat.shm.shared import CONTROL, Shared, worker_number
from shadowcat.shm.snapshots import SnapshotTooLargeError
from shadowcat.shm.trail import Trail, as_many

_PATIENCE: Final = 1.0
"""Seconds for which a change waits until all workers have taken it up."""
_LOOK_EVERY: Final = 0.005
_NS: Final = 1_000_000_000
_MOST_TOLD: Final = 1000
"""Characters of a change's keys in the audit file."""


class Publisher:
    """The one writer of the snapshot. See `Changes` for what it does for the API."""

    def __init__(
        self,
        shared: Shared,
        present: Present,
        breakers: Breakers,
        source: Callable[[], Config] | None,
        watchers: list[Callable[[Snapshot], None]],
        trail: Trail | None = None,
    ) -> None:
        """Prepare.

        Args:
            shared: All shared areas.
            present: What holds now.
            breakers: Those of the control process.
            source: Reads the configuration anew from where it came from; None if that is not possible.
            watchers: Are called after each change, with what holds from now on.
            trail: Where changes are recorded.
        """
        self._shared = shared
        self._present = present
        self._breakers = breakers
        self._source = source
        self._watchers = watchers
        self._trail = trail

    def current(self) -> Config:
        """What all workers go by, or are about to."""
        return self._present.snapshot.config

    async def apply(
        self, config: Config, *, drain: Mapping[tuple[str, str], float] = {}, by: str = BY_API
    ) -> Applied:
        """Put a configuration to work, as far as that is possible without a restart.

        Args:
            config: A valid one.
            drain: Upstreams that begin to drain, by route path and name: for so many seconds.
            by: Who asked for it.

        Raises:
            ConfigError: It cannot be put to work; nothing has changed.
        """
        old = self._present.snapshot
        restart = edits.needs_restart(old.config, config)
        changed = [path for path in edits.differences(old.config, config) if path not in restart]
        changed += [f"routes[{path}].upstreams[{name}].drain" for path, name in drain]
        config = edits.applicable(old.config, config)
        check_files(config)
        now = time.monotonic_ns()
        drains = {target: now + round(seconds * _NS) for target, seconds in drain.items()}
        self.publish(seats.change(old, config, drains, now_ns=now, taken_up=self._taken_up(old.version)))
        version = self._present.snapshot.version
        LOGGER.info("configuration %d: changed %s", version, ", ".join(changed) or "nothing")
        if self._trail is not None:
            # Which keys, and never their values.
            data = {"version": version, "changed": as_many(changed, _MOST_TOLD)}
            self._trail.record("config", "applied", by, data=data)
        if restart:
            LOGGER.warning("these changes need a restart: %s", ", ".join(restart))
        await self._wait_for(version)
        return Applied(version, restart, changed)

    async def reload(self, *, by: str = BY_API) -> Applied:
        """Read the configuration again from where it came from.

        Raises:
            ConfigError: It cannot be used, or there is no file; nothing has changed.
        """
        try:
            if self._source is None:
                raise ConfigError("there is no configuration file to read again")
            return await self.apply(self._source(), by=by)
        except ConfigError:
            if self._trail is not None:
                # Without what is wrong: there may be a value in it.
                self._trail.record("config", "rejected", by)
            raise

    def publish(self, snapshot: Snapshot) -> None:
        """Write a snapshot, which follows the present one.

        Raises:
            ConfigError: It is too large; nothing has changed.
        """
        board, cells = self._shared.board, self._shared.page(CONTROL).cells
        known = {(seat.row, seat.generation) for _, _, _, seat in self._present.snapshot.upstreams()}
        for _, _, _, seat in snapshot.upstreams():
            if (seat.row, seat.generation) not in known:
                board.clear(seat.row)
                with suppress(LockBusyError):  # Else it begins as the one before has ended.
                    self._breakers.replace(seat.row, time.monotonic_ns())
                for cell in self._shared.layout.row(seat.row):
                    cells[cell] = 0
        try:
            self._shared.snapshot.write(snapshot.version, seats.encode(snapshot))
        except SnapshotTooLargeError as error:
            raise ConfigError(f"the configuration is too large: {error}") from None
        board.changed(CONTROL)
        for watcher in self._watchers:
            watcher(snapshot)

    @property
    def is_taken_up(self) -> bool:
        """Whether all workers go by the present snapshot, and have told since what they have under way."""
        version = self._present.snapshot.version
        return self._taken_up(version) >= version

    def _workers(self) -> list[int]:
        """The workers that carry traffic: those that start take up whatever is there then."""
        numbers = map(worker_number, range(self._shared.host.slots))
        return [each for each in numbers if self._shared.page(each).state is not State.NONE]

    def _taken_up(self, version: int) -> int:
        """The version that all workers have taken up."""
        return min((self._shared.page(each).version for each in self._workers()), default=version)

    async def _wait_for(self, version: int) -> None:
        deadline = time.monotonic() + _PATIENCE
        while self._taken_up(version) < version:
            if time.monotonic() >= deadline:
                LOGGER.warning(
                    "not all workers have taken up configuration %d; they do so before their next request",
                    version,
                )
                return
            await asyncio.sleep(_LOOK_EVERY)
