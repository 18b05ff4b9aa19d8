"""The resources that a session's client has subscribed to: what a recovery has to subscribe to again.

They are in a block, as msgpack, in one half of it: a change writes the other half and then switches over with
one store, so that a process killed in between leaves the list as it was.
"""

from __future__ import annotations

from typing import Final

import msgspec

from shadowcat.shm.sessions.blocks import Blocks
from shadowcat.shm.sessions.layout import BLOCK, BORN, SLOT_WORDS, SUBSCRIPTIONS
from shadowcat.shm.sessions.session import Session
from shadowcat.shm.sessions.slots import Slots

LIMIT: Final = BLOCK // 2
"""Bytes of an encoded list."""
_HALF_SHIFT: Final = 31
_LENGTH_SHIFT: Final = 32
_BLOCK: Final = (1 << _HALF_SHIFT) - 1

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[bytes]).decode


class Subscriptions:
    """The subscriptions of all sessions. LockBusyError: see `Slots.lock`."""

    __slots__ = ("_blocks", "_slots", "_words")

    def __init__(self, slots: Slots, blocks: Blocks) -> None:
        self._slots = slots
        self._words = slots.words
        self._blocks = blocks

    def read(self, session: Session) -> list[bytes]:
        """All URIs of a session, in the order of subscription."""
        if not self._words[session.base + SUBSCRIPTIONS]:
            return []
        with self._slots.held(session.slot):
            return self._list(session) if self._lives(session) else []

    def change(self, session: Session, uri: bytes, add: bool) -> bool:
        """Add a URI or take it away; False if it is not in the list afterwards though it should be."""
        at = session.base + SUBSCRIPTIONS
        with self._slots.held(session.slot):
            if not self._lives(session):
                return False
            uris = self._list(session)
            if (uri in uris) is add:
                return True
            if add:
                uris.append(uri)
            else:
                uris.remove(uri)
            content = _encode(uris)
            if len(content) > LIMIT:
                return False
            word = self._words[at]
            if not uris:
                if word:
                    self._words[at] = 0
                    self._blocks.give_back((word & _BLOCK) - 1)
                return True
            block = (word & _BLOCK) - 1 if word else self._blocks.take(session.slot)
            if block is None:
                return False
            half = 1 - (word >> _HALF_SHIFT & 1)
            self._blocks.write(block, half * LIMIT, content)
            self._words[at] = len(content) << _LENGTH_SHIFT | half << _HALF_SHIFT | block + 1
            return True

    def block(self, slot: int) -> int | None:
        """The block in which a slot's subscriptions are; None: it has none."""
        word: int = self._words[slot * SLOT_WORDS + SUBSCRIPTIONS]
        return (word & _BLOCK) - 1 if word else None

    def _list(self, session: Session) -> list[bytes]:
        word = self._words[session.base + SUBSCRIPTIONS]
        if not word:
            return []
        half = word >> _HALF_SHIFT & 1
        return _decode(self._blocks.read((word & _BLOCK) - 1, half * LIMIT, word >> _LENGTH_SHIFT))

    def _lives(self, session: Session) -> bool:
        born: int = self._words[session.base + BORN]
        return born == session.born
