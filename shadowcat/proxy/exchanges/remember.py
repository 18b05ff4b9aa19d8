"""What a recovery has to say again besides `initialize`: noted when the upstream has taken it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from shadowcat.mcp.envelope import Envelope
from shadowcat.mcp.initialize import read_param
from shadowcat.shm.sessions.record import RecordTooLargeError, SessionRecord

if TYPE_CHECKING:
    from shadowcat.proxy.sessions.sessions import Sessions
    from shadowcat.shm.sessions.table import Session

INITIALIZED_NOTE: Final = "notifications/initialized"
_SET_LEVEL: Final = "logging/setLevel"
_SUBSCRIBE: Final = "resources/subscribe"
_UNSUBSCRIBE: Final = "resources/unsubscribe"
_LONGEST_LEVEL: Final = 16
"""Characters; the longest level of RFC 5424 is `emergency`."""

WITH_RESULT: Final = frozenset({_SET_LEVEL, _SUBSCRIBE, _UNSUBSCRIBE})
"""Requests that count once they were answered with a result."""
NOTED: Final = WITH_RESULT | {INITIALIZED_NOTE}

_Change = Callable[[SessionRecord], SessionRecord]


def remember(sessions: Sessions, session: Session, method: str, body: bytes) -> None:
    """The upstream has taken a message of a method that is `NOTED`."""
    if method == INITIALIZED_NOTE:
        if not session.record.initialized:
            _update(sessions, session, lambda record: replace(record, initialized=True))
    elif method == _SET_LEVEL:
        level = read_param(body, "level")
        if level is None or len(level) > _LONGEST_LEVEL:
            _give_up(sessions, session)
        elif session.record.log_level != level:
            _update(sessions, session, lambda record: replace(record, log_level=level))
    else:
        uri = read_param(body, "uri")
        if uri is None:
            _give_up(sessions, session)
        else:
            raw = uri.encode("utf-8", "replace")
            sessions.persist(partial(_subscribe, sessions, session, raw, is_on=method == _SUBSCRIBE))


def remember_batch(sessions: Sessions, session: Session, batch: Sequence[Envelope]) -> None:
    """The upstream has taken a batch, whose answers are not read: what it changed would be lost."""
    methods = {envelope.method for envelope in batch}
    if INITIALIZED_NOTE in methods:
        remember(sessions, session, INITIALIZED_NOTE, b"")
    if methods & WITH_RESULT:
        _give_up(sessions, session)


def _subscribe(sessions: Sessions, session: Session, uri: bytes, *, is_on: bool) -> None:
    if not is_on:
        sessions.table.unsubscribe(session, uri)
    elif not sessions.table.subscribe(session, uri):
        _give_up(sessions, session)


def _give_up(sessions: Sessions, session: Session) -> None:
    """The session can no longer be recovered as it is."""
    _update(sessions, session, lambda record: replace(record, recoverable=False))


def _update(sessions: Sessions, session: Session, change: _Change) -> None:
    def work() -> None:
        # Too large even without what only a recovery needs: then it cannot be recovered anyway.
        with contextlib.suppress(RecordTooLargeError):
            sessions.table.update(session, change)

    sessions.persist(work)
