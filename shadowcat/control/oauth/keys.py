"""The keys of all issuers: fetched here alone, once for all workers, and published to them.

    due, or a worker lacks one --at most one fetch in a while--> fetched --> snapshot, epoch
                                                             |
                                                             +-- not to be had: those before stay in use,
                                                                 until they are too old

A control process that takes another's place goes on with what that one has published.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final, Protocol

from msgspec.structs import replace

from shadowcat.auth.keys import (
    Jwk,
    Publication,
    PublishedKeys,
    decode_publication,
    encode_publication,
    source_of,
)
from shadowcat.config.access import authenticates
from shadowcat.config.model import Issuer
from shadowcat.config.seats import Snapshot
from shadowcat.config.units import Duration
from shadowcat.control.oauth.fetch import FetchError
from shadowcat.log import LOGGER
from shadowcat.shm.shared import CONTROL, Shared
from shadowcat.shm.snapshots import SnapshotTooLargeError

PAUSE: Final = 3.0
"""Seconds from one fetch that workers ask for to the next, however many tokens have unknown keys."""
BURST: Final = 6
"""So many are not delayed, after some quiet: a request waits for a new key for 2 s only. One rotation takes
up to two: workers ask each for itself, and not at the same moment."""
_FIRST_PAUSE: Final = 1.5
_LONGEST_PAUSE: Final = 30.0
"""After failures."""
_NS: Final = 1_000_000_000


class KeyFetcher(Protocol):
    """Gets keys; see fetch.py."""

    async def keys(self, issuer: Issuer) -> list[Jwk]:
        """The present keys, or a FetchError."""
        ...


class KeyKeeper:
    """Keeps the keys of all issuers that the configuration names."""

    def __init__(
        self, shared: Shared, fetcher: KeyFetcher, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """Prepare; `configure` begins. `clock` tells monotonic ns."""
        self._shared = shared
        self.fetcher = fetcher
        self.clock = clock
        snapshots = shared.keys
        self._published = decode_publication(snapshots.read()[1]).sources if snapshots.version else {}
        self._sources: dict[str, _Source] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._warned: set[str] = set()

    def configure(self, snapshot: Snapshot) -> None:
        """Keep the keys of this snapshot's issuers from now on, and no others; to be called in the loop."""
        wanted: dict[str, Issuer] = {}
        for route in snapshot.config.routes:
            if route.auth is None:
                continue
            if not authenticates(route):
                self._warn(route.path)
                continue
            for issuer in route.auth.issuers:
                source = source_of(issuer)
                if source is not None:
                    wanted[source] = _stricter(wanted.get(source), issuer)
        for name in self._sources.keys() - wanted.keys():
            self._sources.pop(name).end()
            self._tasks.pop(name).cancel()
        if self._published.keys() - wanted.keys():
            self._publish({name: keys for name, keys in self._published.items() if name in wanted})
        for name, issuer in wanted.items():
            if name in self._sources:
                self._sources[name].change(issuer)
            else:
                source_ = self._sources[name] = _Source(self, name, issuer)
                self._tasks[name] = asyncio.get_running_loop().create_task(source_.run())

    async def renew(self, name: str) -> bool:
        """Have a source's keys fetched; returns when a fetch that has begun after the call is over.

        Returns:
            Whether it went well.
        """
        source = self._sources.get(name)
        return False if source is None else await source.renew()

    async def stop(self) -> None:
        """Fetch no more."""
        for source in self._sources.values():
            source.end()
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def known(self, name: str) -> PublishedKeys | None:
        """What is published of a source."""
        return self._published.get(name)

    def publish(self, name: str, keys: list[Jwk], stale: float) -> bool:
        """Publish what was fetched; whether there was room for it."""
        now = self.clock()
        before = self._published.get(name)
        revision = before.revision if before is not None and before.keys == keys else now
        published = PublishedKeys(revision, now, now + int(stale * _NS), keys)
        return self._publish(self._published | {name: published})

    def _publish(self, sources: dict[str, PublishedKeys]) -> bool:
        snapshots = self._shared.keys
        try:
            snapshots.write(snapshots.version + 1, encode_publication(Publication(sources)))
        except SnapshotTooLargeError as error:
            LOGGER.error("issuers have too many keys: %s; those before stay", error)
            return False
        self._published = sources
        self._shared.board.changed(CONTROL)
        return True

    def _warn(self, path: str) -> None:
        if path not in self._warned:
            self._warned.add(path)
            LOGGER.warning(
                "%s passes its clients' tokens on to the upstream (auth.mode: passthrough): only right if the"
                " upstream is the very resource that they were issued for",
                path,
            )


class _Source:
    """One place that keys come from."""

    def __init__(self, keeper: KeyKeeper, name: str, issuer: Issuer) -> None:
        self._keeper = keeper
        self._name = name
        self.issuer = issuer
        self._woken = asyncio.Event()
        self._waiting: list[asyncio.Future[bool]] = []
        self._failures = 0
        self._allowance = float(BURST)
        """How many fetches may be asked for now; grows by one with each pause."""
        self._counted = keeper.clock()

    async def renew(self) -> bool:
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._woken.set()
        return await future

    def change(self, issuer: Issuer) -> None:
        """Go by this section; what it says of times holds at once."""
        if issuer != self.issuer:
            self.issuer = issuer
            self._woken.set()

    async def run(self) -> None:
        """Fetch when it is due, or asked for; until cancelled."""
        while True:
            if not self._woken.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._due()):
                        await self._woken.wait()
            if self._woken.is_set():
                pause = self._take()
                if pause > 0:
                    await asyncio.sleep(pause)
            self._woken.clear()
            waiting, self._waiting = self._waiting, []
            went_well = False
            try:
                went_well = await self._fetch()
            except Exception:  # noqa: BLE001  the next fetch must be possible
                LOGGER.exception("keys of %s cannot be fetched", self.issuer.issuer)
            finally:
                _tell(waiting, went_well)
            self._failures = 0 if went_well else self._failures + 1

    def end(self) -> None:
        """Nobody needs the keys any more."""
        _tell(self._waiting, False)

    def _take(self) -> float:
        """Take one fetch from the allowance; the seconds until it may begin."""
        now = self._keeper.clock()
        grown = self._allowance + (now - self._counted) / _NS / PAUSE
        self._allowance, self._counted = min(grown, float(BURST)) - 1, now
        return -self._allowance * PAUSE

    def _due(self) -> float:
        """Seconds until the next fetch."""
        refresh = float(self.issuer.refresh)
        if self._failures:
            return min(refresh, _LONGEST_PAUSE, _FIRST_PAUSE * float(2 ** min(self._failures, 8)))
        known = self._keeper.known(self._name)
        return 0 if known is None else max(0.0, refresh - (self._keeper.clock() - known.fetched_ns) / _NS)

    async def _fetch(self) -> bool:
        try:
            keys = await self._keeper.fetcher.keys(self.issuer)
        except FetchError as error:
            known = self._keeper.known(self._name)
            left = 0 if known is None else max(0, known.until_ns - self._keeper.clock()) // _NS
            LOGGER.warning(
                "keys of %s cannot be fetched: %s; %s",
                self.issuer.issuer,
                error,
                f"those before are good for {left} s" if left else "its tokens cannot be checked",
            )
            return False
        if not keys:
            LOGGER.warning("%s has no key that tokens can be verified with", self.issuer.issuer)
        return self._keeper.publish(self._name, keys, self.issuer.stale)


def _tell(waiting: list[asyncio.Future[bool]], went_well: bool) -> None:
    for future in waiting:
        if not future.done():
            future.set_result(went_well)


def _stricter(one: Issuer | None, other: Issuer) -> Issuer:
    """What two routes want of one source: fetched as often as either says, and dropped as soon."""
    if one is None:
        return other
    return replace(
        other,
        refresh=Duration(min(one.refresh, other.refresh)),
        stale=Duration(min(one.stale, other.stale)),
    )
