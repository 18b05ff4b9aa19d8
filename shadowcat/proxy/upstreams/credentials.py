"""Credentials of upstreams in one worker: those that control has published, and who vouches for clients."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

import msgspec

from shadowcat.auth.held import Held, decode_holdings
from shadowcat.proxy.upstreams.credentialed import FetchedPool
from shadowcat.shm.mailboxes import Mail
from shadowcat.shm.questions import Ask
from shadowcat.shm.shared import CONTROL, Shared, worker_number
from shadowcat.shm.snapshots import SnapshotError

if TYPE_CHECKING:
    from shadowcat.auth.assertions import KeyDocument
    from shadowcat.proxy.upstreams.pool import Pool

RENEWAL_PAUSE: Final = 5.0
"""Seconds in which this worker asks once that the credential of an upstream be fetched early."""
_log: Final = logging.getLogger(__name__)


class Credentials:
    """Hands credentials to pools."""

    __slots__ = ("_asked", "_clock", "_held", "_pools", "_process", "_shared", "_version", "wall")

    def __init__(
        self, shared: Shared, process: int, clock: Callable[[], float], wall: Callable[[], float]
    ) -> None:
        """`clock` is the loop's; `wall` tells the time of day, in seconds since 1970."""
        self._shared = shared
        self._process = process
        self._clock = clock
        self.wall = wall
        self._held: dict[str, Held] = {}
        self._pools: list[FetchedPool] = []
        self._version = 0
        self._asked: dict[str, float] = {}
        """When each upstream's credential was last asked for."""

    def take_up(self, pools: Iterable[Pool]) -> None:
        """These are the pools from now on."""
        self._pools = [pool for pool in pools if isinstance(pool, FetchedPool)]
        self._asked = {
            pool.place: self._asked[pool.place] for pool in self._pools if pool.place in self._asked
        }
        self._read()
        self._present()

    def refresh(self) -> None:
        """Something may have changed."""
        if self._pools and self._shared.credentials.version != self._version:
            self._read()
            self._present()

    def renew(self, pool: FetchedPool) -> None:
        """Ask control to fetch a credential anew, before it is due."""
        now = self._clock()
        if now < self._asked.get(pool.place, now):
            return
        self._asked[pool.place] = now + RENEWAL_PAUSE
        text = msgspec.msgpack.encode((pool.place, pool.revision))
        # Nobody waits for the answer: the desk is free again once there is one.
        if self._shared.questions.ask(self._process - worker_number(0), Ask.RENEW, text) is not None:
            self._shared.mail.send(self._process, CONTROL, Mail.ASKED)

    def _read(self) -> None:
        snapshots = self._shared.credentials
        if snapshots.version == self._version:
            return
        try:
            version, text = snapshots.read()
            self._held = decode_holdings(text).held
        except (SnapshotError, msgspec.DecodeError) as error:
            # What is known goes on until it is over.
            _log.error("new credentials of upstreams are not taken up: %s", error)
            return
        self._version = version

    def _present(self) -> None:
        for pool in self._pools:
            pool.present(self._held.get(pool.place))


def documents(pools: Iterable[Pool]) -> dict[bytes, KeyDocument]:
    """What the proxy says of its own keys, by path; nothing if it has none."""
    signers = [pool.origin.signer for pool in pools if pool.origin.signer is not None]
    if not any(signer.jwk is not None for signer in signers):
        return {}
    from shadowcat.auth.assertions import JWKS_PATH, KeyDocument

    return {JWKS_PATH.encode(): KeyDocument(signers)}
