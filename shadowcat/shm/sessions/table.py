"""The session table as one process uses it.

A session is found where its id says: decode the slot, read its version, compare the whole id in
constant time. What was decoded once is kept, and is good for as long as the version word has not changed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from hmac import compare_digest
from typing import Final

from msgspec.structs import replace

from shadowcat.config import model
from shadowcat.shm.locks import LockBusyError, Locks
from shadowcat.shm.region import Region
from shadowcat.shm.sessions import ids
from shadowcat.shm.sessions.blocks import Blocks
from shadowcat.shm.sessions.free import FreeSlots
from shadowcat.shm.sessions.layout import (
    FIXED,
    LAST_SEEN,
    LEASE,
    LENGTH_SHIFT,
    RECORD_LENGTH,
    SLOT_WORDS,
    STREAM,
    SUBSCRIPTIONS,
    VERSION,
    Areas,
)
from shadowcat.shm.sessions.marks import Marks
from shadowcat.shm.sessions.owners import Owners
from shadowcat.shm.sessions.params import NOT_KEPT, Params
from shadowcat.shm.sessions.record import SessionRecord, pack
from shadowcat.shm.sessions.session import Session, decode, session_in
from shadowcat.shm.sessions.slots import Image, Slots
from shadowcat.shm.sessions.subscriptions import Subscriptions
from shadowcat.shm.sessions.upkeep import Upkeep

__all__ = ["LockBusyError", "Session", "SessionTable"]

_PREFIX: Final = ids.PREFIX_CHARS
_NS: Final = 1_000_000_000
_TOUCH: Final = 1_000_000_000
"""Nanoseconds between two notes that a session is in use."""
_TOUCHES: Final = 4
"""At least so many notes in an idle time-out, however short that is."""
_KEPT: Final = 8_192
"""Decoded sessions in each of the two generations of the cache: 1.2 KB each, 20 MB at most."""


class SessionTable(Marks):
    """All sessions of the host. Times are CLOCK_MONOTONIC nanoseconds.

    Where a method raises LockBusyError nothing has changed: call it again from a timer.
    """

    __slots__ = (
        "_blocks", "_free", "_idle_ns", "_keys", "_old", "_owners", "_params",
        "_reclaimed", "_subscriptions", "_touch_ns", "_upkeep", "_young", "capacity", "locks",
    )  # fmt: skip

    def __init__(
        self,
        region: Region,
        areas: Areas,
        section: model.Sessions,
        process: int,
        urandom: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Open the table; for the process that is to use it, after its fork.

        Args:
            region: The shared region.
            areas: Where the table is in it.
            section: The configuration.
            process: The own process number.
            urandom: Source of the ids' random bytes.

        Raises:
            OSError: No descriptor is to be had.
        """
        self.locks = Locks(region)
        """The process's own, on the whole region."""
        super().__init__(Slots(region, areas, self.locks, process))
        self.capacity = areas.capacity
        self._free = FreeSlots(region, areas, self.locks, process)
        self._owners = Owners(region, areas, self.locks)
        self._blocks = Blocks(region, areas, self.locks)
        self._params = Params(self._slots, self._blocks)
        self._subscriptions = Subscriptions(self._slots, self._blocks)
        self._upkeep = Upkeep(self._slots, self._free, self._owners, self._blocks)
        self.configure(section)
        self._keys = ids.Keys(urandom)
        self._young: dict[bytes, Session] = {}
        self._old: dict[bytes, Session] = {}
        self._reclaimed: list[tuple[int, SessionRecord]] = []

    def configure(self, section: model.Sessions) -> None:
        """Go by this `idle_timeout` from now on; all processes have to be told."""
        self._idle_ns = self._upkeep.idle_ns = int(section.idle_timeout * _NS)
        self._touch_ns = min(_TOUCH, self._idle_ns // _TOUCHES)

    def close(self) -> None:
        """Close the descriptor of the locks."""
        self.locks.close()

    # Looking up

    def find(self, session_id: bytes, now_ns: int) -> Session | None:
        """The live session with an id, which counts as a use of it (see `use`).

        Returns:
            None if the id is malformed or unknown, or its session has expired. The caller looks at
            `record.state`: a session whose creation is not complete is returned, too.

        Raises:
            LockBusyError: Its slot is being written by a process that does not get on with it.
        """
        prefix = session_id[:_PREFIX]
        session = self._young.get(prefix) or self._old.get(prefix)
        if (
            session is not None
            and compare_digest(session.id, session_id)
            # As `use` does, whose call would be a quarter of all this.
            and self._words[session.base + VERSION] == session.version
            and (now_ns < session.fresh_until or self._touch(session, now_ns))
        ):
            return session
        if len(session_id) != ids.ID_CHARS:
            return None
        slot = ids.slot_of(prefix)
        if not 0 <= slot < self.capacity:
            return None
        image = self._slots.read(slot)
        if image is None:
            return None
        session = session_in(slot, session_id, image)
        if compare_digest(session.record.key, session_id[_PREFIX:]) and self._touch(session, now_ns):
            self._keep(prefix, session)
            return session
        return None

    def use(self, session: Session, now_ns: int) -> bool:
        """Whether a session is as it was decoded, and has not expired. If so it is in use now."""
        if self._words[session.base + VERSION] != session.version:
            return False
        return now_ns < session.fresh_until or self._touch(session, now_ns)

    def at(self, slot: int) -> Session | None:
        """The session in a slot, expired or not; None if there is none. Not a use of it.

        Raises:
            LockBusyError: The slot is being written by a process that does not get on with it.
        """
        image = self._slots.read(slot)
        return None if image is None else self._decoded(slot, image)

    def expires_at(self, session: Session) -> int:
        """When the session ends if it is not used again."""
        return min(session.hard_end, self.last_seen(session) + self._idle_ns)

    def owned_by(self, owner: str) -> int:
        """How many sessions an owner has."""
        return self._owners.count(self._owners.digest(owner))

    # Creating, changing, ending

    def reserve(self, now_ns: int) -> int | None:
        """A free slot, for `create` or `unreserve`. Expired sessions give way if need be.

        Returns:
            None if the table is full.

        Raises:
            LockBusyError: What all share is locked by a process that does not get on with it.
        """
        slot = self._free.reserve()
        if slot is None and self._reclaim(now_ns):
            slot = self._free.reserve()
        return slot

    def unreserve(self, slot: int) -> None:
        """Give back a slot in which no session was created."""
        self._free.unreserve(slot)

    def reclaimed(self) -> list[tuple[int, SessionRecord]]:
        """The slots and records of expired sessions that `reserve` has ended since the last call."""
        records, self._reclaimed = self._reclaimed, []
        return records

    def create(self, slot: int, record: SessionRecord, params: bytes, expiry_ns: int, now_ns: int) -> Session:
        """Create a session in a slot that this process has reserved.

        Args:
            slot: From `reserve`.
            record: The record; its key is drawn here if it is empty. It comes back as not recoverable if
                `params` cannot be kept.
            params: The body of `params` of `initialize`, for a recovery.
            expiry_ns: When the session ends, however busy it is.
            now_ns: The time.

        Raises:
            LockBusyError: The slot, the count of the owner or the blocks are locked; it stays reserved.
            RecordTooLargeError: The record does not fit into a slot.
        """
        if not self._free.reserved(slot):
            raise ValueError(f"slot {slot} is not reserved by this process")
        if not record.key:
            record = replace(record, key=self._keys.draw())
        owner = self._owners.digest(record.owner or record.principal)
        words = self._words
        base = slot * SLOT_WORDS
        self._slots.lock(slot)  # `held` would cost 0.7 us of the 8 that a creation may take.
        try:
            word = self._params.store(slot, params)
            try:
                if word == NOT_KEPT:
                    record = replace(record, recoverable=False)
                packed, record = pack(record)
                self._owners.add(owner, 1)
            except Exception:
                self._params.drop(word)
                raise
            words[base + LAST_SEEN] = now_ns
            words[base + STREAM] = words[base + STREAM] & ~0xFFFF  # The generation goes on.
            words[base + LEASE] = words[base + SUBSCRIPTIONS] = 0
            version = self._slots.next_version(slot)
            lengths = len(params) << LENGTH_SHIFT | len(packed)
            content = FIXED.pack(expiry_ns, owner, version, version, lengths, word) + packed
            self._slots.fill(slot, version, content)
            self._free.set_used(slot)
        finally:
            self._slots.unlock(slot)
        session = session_in(slot, ids.encode(slot, record.key), (version, content), record)
        self._keep(session.id[:_PREFIX], session)
        return session

    def update(
        self,
        session: Session,
        change: Callable[[SessionRecord], SessionRecord],
        expiry_ns: int | None = None,
        repin: bool = False,
    ) -> Session | None:
        """Change the record of a session.

        Args:
            session: Any version of it.
            change: Gets the present record, which may be newer than `session.record`; returns the new one.
            expiry_ns: A new hard end.
            repin: The record is of another upstream session: what was outstanding at the old one is void.

        Returns:
            The session as it is now, with `note` empty; None if it is gone.

        Raises:
            LockBusyError: The slot is locked.
            RecordTooLargeError: The new record does not fit into a slot.
        """
        slot = session.slot
        with self._slots.held(slot):
            image = self._present(session)
            if image is None:
                return None
            hard_end, owner, born, incarnation, lengths, params = FIXED.unpack_from(image[1])
            packed, record = pack(change(decode(image)))
            version = self._slots.next_version(slot)
            lengths = lengths & ~RECORD_LENGTH | len(packed)
            if expiry_ns is not None:
                hard_end = expiry_ns
            if repin:
                incarnation = version
            content = FIXED.pack(hard_end, owner, born, incarnation, lengths, params) + packed
            self._slots.write(slot, version, content)
        changed = session_in(slot, session.id, (version, content), record)
        self._keep(changed.id[:_PREFIX], changed)
        return changed

    def delete(self, session: Session) -> SessionRecord | None:
        """End a session.

        Returns:
            The record it had at the end; None if it was gone already.

        Raises:
            LockBusyError: The slot is locked.
        """
        slot = session.slot
        with self._slots.held(slot):
            image = self._present(session)
            if image is None:
                return None
            self._end(slot, image)
            return decode(image)

    # What is stored apart

    def params(self, session: Session) -> bytes | None:
        """The body of `params` of `initialize`; None if it was not kept, or the session is gone.

        Raises:
            LockBusyError: The slot is being written by a process that does not get on with it.
        """
        image = self._slots.read(session.slot)
        if image is None:
            return None
        _, _, born, _, lengths, word = FIXED.unpack_from(image[1])
        return self._params.read(session.slot, lengths, word) if born == session.born else None

    def subscriptions(self, session: Session) -> list[bytes]:
        """The URIs of the resources that the client has subscribed to.

        Raises:
            LockBusyError: The slot is locked.
        """
        return self._subscriptions.read(session)

    def subscribe(self, session: Session, uri: bytes) -> bool:
        """Note a subscription; False if it does not fit, and so would be lost by a recovery.

        Raises:
            LockBusyError: The slot or the blocks are locked.
        """
        return self._subscriptions.change(session, uri, add=True)

    def unsubscribe(self, session: Session, uri: bytes) -> None:
        """Forget a subscription.

        Raises:
            LockBusyError: The slot or the blocks are locked.
        """
        self._subscriptions.change(session, uri, add=False)

    # Upkeep

    def sweep(self, first: int, count: int, now_ns: int) -> list[Session]:
        """The expired sessions among slots first..first+count, which stay; mends what dead writers left."""
        return self._sessions(self._upkeep.expired(first, count, now_ns))

    def live(self, first: int, count: int) -> list[Session]:
        """The sessions in slots first..first+count, expired or not; without those just being written."""
        return self._sessions(self._upkeep.occupied(first, count))

    def count(self) -> int:
        """How many sessions there are, expired ones that nobody has ended yet included; 1 ms at a million."""
        return self._free.used_count()

    def recount(self) -> int:
        """Correct the counts per owner and free stray blocks; for the end of a full sweep.

        Returns:
            How many buckets of counts were wrong.

        Raises:
            LockBusyError: Something is locked; what was not reached is left for the next time.
        """
        return self._upkeep.recount()

    def repair(self, process: int) -> None:
        """Repair what a process owned that has been reaped, before it is replaced. Supervisor only.

        A slot that another process has locked at this moment is left to the sweep. A lease in it ends by its
        deadline, and a GET stream is taken over by the next one, which waits 0.5 s for the dead owner.
        """
        self._upkeep.repair(process)

    # Behind it all

    def _touch(self, session: Session, now_ns: int) -> bool:
        at = session.base + LAST_SEEN
        seen = self._words[at]
        if now_ns >= session.hard_end or now_ns >= seen + self._idle_ns:
            return False
        if now_ns > seen:
            self._words[at] = now_ns
        session.touched = now_ns
        session.fresh_until = now_ns + self._touch_ns
        if session.fresh_until > session.hard_end:  # Half as long as min() takes.
            session.fresh_until = session.hard_end
        return True

    def _keep(self, prefix: bytes, session: Session) -> None:
        """Cache a session under the part of its id that spells the slot: one for each slot."""
        young = self._young
        if len(young) >= _KEPT:
            self._old = young
            self._young = young = {}
        young[prefix] = session

    def _decoded(self, slot: int, image: Image) -> Session:
        record = decode(image)
        return session_in(slot, ids.encode(slot, record.key), image, record)

    def _sessions(self, slots: list[int]) -> list[Session]:
        sessions = []
        for slot in slots:
            with contextlib.suppress(LockBusyError):
                if (session := self.at(slot)) is not None:
                    sessions.append(session)
        return sessions

    def _reclaim(self, now_ns: int) -> bool:
        """End expired sessions in the next part of the table; whether there were any."""
        ended = False
        for slot in self._upkeep.next_expired(now_ns):
            with contextlib.suppress(LockBusyError), self._slots.held(slot):
                image = self._slots.present(slot)
                if image is not None and self._upkeep.has_expired(slot, now_ns):
                    self._reclaimed.append((slot, decode(image)))
                    self._end(slot, image)
                    ended = True
        return ended

    def _present(self, session: Session) -> Image | None:
        """The present version of a session whose slot is locked; None if it is gone."""
        image = self._slots.present(session.slot)
        return image if image is not None and FIXED.unpack_from(image[1])[2] == session.born else None

    def _end(self, slot: int, image: Image) -> None:
        """Empty a locked slot, and free all that belonged to its session."""
        _, owner, _, _, _, params = FIXED.unpack_from(image[1])
        subscribed = self._subscriptions.block(slot)
        self._slots.wipe(slot)
        self._params.drop(params)
        if subscribed is not None:
            self._blocks.give_back(subscribed)
        self._free.set_free(slot)
        with contextlib.suppress(LockBusyError):  # The session is over all the same; recount() notices.
            self._owners.add(owner, -1)
