"""What is remembered about a session, as it is encoded into its slot."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import msgspec
from msgspec import Struct

from shadowcat.errors import ShadowcatError

RECORD_LIMIT: Final = 512
"""Bytes of an encoded record."""


class SessionState(IntEnum):
    """How far the creation of a session has come."""

    OPENING = 0
    """The head of the upstream's 2xx answer to `initialize` was seen, its JSON-RPC result not yet."""
    OPEN = 1


class SessionRecord(Struct, array_like=True, frozen=True, gc=False):
    """A session. Times are CLOCK_MONOTONIC nanoseconds."""

    key: bytes
    """The random part of the session's id, as it is spelt there; empty before the table has drawn it."""
    principal: str
    owner: str
    """Whom caps count against: the client's address where nobody authenticates; empty for the principal."""
    route: str
    """Path of the route; the id is good on that one only."""
    row: int
    """The upstream, in the order of the config."""
    generation: int
    """Of the row."""
    upstream_id: bytes
    """The upstream's own session id."""
    created_ns: int
    state: SessionState
    version: str = ""
    """The negotiated protocol version."""
    capabilities: tuple[str, ...] = ()
    """Dotted paths of the server's capabilities: what a recovery must offer again."""
    declared: int = 0
    """What the client can be asked for, as bits: SAMPLING 1, ELICITATION 2, ROOTS 4."""
    initialized: bool = False
    """Whether `notifications/initialized` was passed on."""
    log_level: str = ""
    """Of the last `logging/setLevel` that succeeded."""
    recoverable: bool = True
    recoveries: tuple[int, ...] = ()
    """When the session was given to another upstream session, within the last hour."""
    suffix: bytes = b""
    """What followed the route's own path where the session was opened: there it is recovered and ended."""


class RecordTooLargeError(ShadowcatError):
    """A record does not fit into a slot, even without what only a recovery needs."""


_encode = msgspec.msgpack.Encoder().encode
unpack = msgspec.msgpack.Decoder(SessionRecord).decode


def pack(record: SessionRecord) -> tuple[bytes, SessionRecord]:
    """Encode a record.

    Returns:
        The bytes, and the record that they encode: one that is too large loses `capabilities`, and with them
        its recovery; if need be `suffix`, too.

    Raises:
        RecordTooLargeError: Even so it takes more than RECORD_LIMIT bytes.
    """
    packed = _encode(record)
    if len(packed) <= RECORD_LIMIT:
        return packed, record
    for shorter in (
        msgspec.structs.replace(record, capabilities=(), recoverable=False),
        msgspec.structs.replace(record, capabilities=(), recoverable=False, suffix=b""),
    ):
        packed = _encode(shorter)
        if len(packed) <= RECORD_LIMIT:
            return packed, shorter
    raise RecordTooLargeError(
        f"a session takes {len(packed)} bytes; {RECORD_LIMIT} fit: shorten the route's path"
    )
