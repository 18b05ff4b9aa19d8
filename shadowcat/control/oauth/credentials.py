"""Credentials of upstreams that all clients share: fetched here alone, published to all workers.

    due, at four fifths of its life, or an upstream does not accept it --> fetched --> snapshot, epoch
                                                             |
                                                             +-- not to be had: the one before stays in
                                                                 use, until it is over

A control process that takes another's place goes on with what that one has published.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

from shadowcat.auth.held import (
    Held,
    Holdings,
    decode_holdings,
    encode_holdings,
    fingerprint,
    place,
    usable_for,
)
from shadowcat.config.credentials import fetched
from shadowcat.config.model import OAuthClient
from shadowcat.config.seats import Snapshot
from shadowcat.config.urls import upstream_name
from shadowcat.control.oauth.fetch import FetchError
from shadowcat.control.oauth.tokens import TokenResponse
from shadowcat.log import LOGGER
from shadowcat.shm.shared import CONTROL, Shared
from shadowcat.shm.snapshots import SnapshotTooLargeError

EARLY: Final = 10.0
"""Seconds from one fetch to the next that an upstream causes by not accepting what it is sent."""
_SHARE: Final = 0.8
_JITTER: Final = 0.05
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 30.0
"""After failures."""
_NS: Final = 1_000_000_000

Grant = Callable[[OAuthClient], Awaitable[TokenResponse]]
"""Gets a token for a section, or raises a FetchError."""


class CredentialKeeper:
    """Keeps the credentials of all upstreams that the configuration wants one for."""

    def __init__(
        self,
        shared: Shared,
        grant: Grant,
        clock: Callable[[], int] = time.monotonic_ns,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Prepare; `configure` begins. `clock` tells monotonic ns, `chance` a number from 0 to 1."""
        self._shared = shared
        self.grant = grant
        self.clock = clock
        self.chance = chance
        snapshots = shared.credentials
        self._held = dict(decode_holdings(snapshots.read()[1]).held) if snapshots.version else {}
        self._sources: dict[str, _Source] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def configure(self, snapshot: Snapshot) -> None:
        """Keep those of this snapshot's upstreams from now on, and no others; to be called in the loop."""
        wanted: dict[str, tuple[str, OAuthClient]] = {}
        for path, _, upstream, seat in snapshot.upstreams():
            section = fetched(upstream)
            if section is not None:
                name = f"{upstream_name(upstream)} of {path}"
                wanted[place(seat.row, seat.generation)] = name, section
        for key in self._sources.keys() - wanted.keys():
            del self._sources[key]
            self._tasks.pop(key).cancel()
        good = {
            key: held
            for key, held in self._held.items()
            if key in wanted and held.section == fingerprint(wanted[key][1])
        }
        if good.keys() != self._held.keys():
            self._publish(good)
        for key, (name, section) in wanted.items():
            if key in self._sources:
                self._sources[key].change(section)
            else:
                source = self._sources[key] = _Source(self, key, name, section)
                self._tasks[key] = asyncio.get_running_loop().create_task(source.run())

    def renew(self, key: str, revision: int) -> None:
        """An upstream does not accept this one: fetch another one soon, if it is still the one in use."""
        source, held = self._sources.get(key), self._held.get(key)
        if source is not None and held is not None and held.revision == revision:
            source.hurry()

    def wake(self, section: OAuthClient) -> None:
        """Something has changed, so that there may be a credential for this section now."""
        for source in self._sources.values():
            source.wake(section)

    def known(self, key: str) -> Held | None:
        """What is published for an upstream."""
        return self._held.get(key)

    def publish(self, key: str, section: OAuthClient, token: TokenResponse, fetched_ns: int) -> bool:
        """Publish what was fetched; whether there was room for it.

        Args:
            key: The upstream's place.
            section: What it was fetched for.
            token: What was fetched.
            fetched_ns: When it was asked for, on the keeper's clock.
        """
        until = fetched_ns + int(usable_for(token.lifetime) * _NS)
        before = self._held.get(key)
        revision = max(fetched_ns, 1 if before is None else before.revision + 1)
        held = Held(revision, fingerprint(section), token.access_token, fetched_ns, until)
        return self._publish(self._held | {key: held})

    async def stop(self) -> None:
        """Fetch no more."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _publish(self, held: dict[str, Held]) -> bool:
        snapshots = self._shared.credentials
        try:
            snapshots.write(snapshots.version + 1, encode_holdings(Holdings(held)))
        except SnapshotTooLargeError as error:
            LOGGER.error("upstreams have too long credentials: %s; those before stay", error)
            return False
        self._held = held
        self._shared.board.changed(CONTROL)
        return True


def present_fields(shared: Shared, key: str, now_ns: int) -> dict[str, str]:
    """What the upstream at a place is sent at this moment; nothing if there is nothing that is good."""
    snapshots = shared.credentials
    held = decode_holdings(snapshots.read()[1]).held.get(key) if snapshots.version else None
    return {"Authorization": f"Bearer {held.token}"} if held is not None and now_ns < held.until_ns else {}


class _Source:
    """The credential of one upstream."""

    def __init__(self, keeper: CredentialKeeper, key: str, name: str, section: OAuthClient) -> None:
        self._keeper = keeper
        self._key = key
        self._name = name
        self._section = section
        self._woken = asyncio.Event()
        self._failures = 0
        self._tried_ns = 0
        self._draw()

    def _draw(self) -> None:
        """Many that were fetched together are not all due together."""
        self._share = _SHARE + (2 * self._keeper.chance() - 1) * _JITTER

    def change(self, section: OAuthClient) -> None:
        """Go by this section."""
        if section != self._section:
            self._section = section
            self._failures = 0
            self._woken.set()

    def hurry(self) -> None:
        """Fetch one before it is due."""
        if self._keeper.clock() - self._tried_ns >= EARLY * _NS:
            self._woken.set()

    def wake(self, section: OAuthClient) -> None:
        """Fetch one now, if it is for this section."""
        if section == self._section:
            self._woken.set()

    async def run(self) -> None:
        """Fetch when it is due; until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._due()):
                    await self._woken.wait()
            self._woken.clear()
            went_well = False
            try:
                went_well = await self._fetch()
            except Exception:  # noqa: BLE001  the next fetch must be possible
                # Without the exception's own text: there may be something of a token in it.
                LOGGER.error("no credential for %s: an unexpected error", self._name)
            self._failures = 0 if went_well else self._failures + 1
            self._draw()

    def _due(self) -> float:
        """Seconds until the next fetch."""
        if self._failures:
            pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * float(2 ** min(self._failures - 1, 8)))
            return pause * (1 + self._keeper.chance() / 2)
        known = self._keeper.known(self._key)
        if known is None:
            return 0
        at = known.fetched_ns + (known.until_ns - known.fetched_ns) * self._share
        return max(0.0, (at - self._keeper.clock()) / _NS)

    async def _fetch(self) -> bool:
        section = self._section
        keeper = self._keeper
        begun = self._tried_ns = keeper.clock()
        try:
            token = await keeper.grant(section)
        except FetchError as error:
            known = keeper.known(self._key)
            left = 0 if known is None else max(0, known.until_ns - keeper.clock()) // _NS
            LOGGER.warning(
                "no new credential for %s: %s; %s",
                self._name,
                error,
                f"the one before is good for {left} s" if left else "requests to it are refused",
            )
            return False
        # Another section may have come meanwhile: it has woken this source, and this token is not its own.
        return section == self._section and keeper.publish(self._key, section, token, begun)
