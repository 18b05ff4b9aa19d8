"""A client's answers to what the server asked: taken once, in the incarnation that asked."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from shadowcat.mcp.envelope import Envelope
from shadowcat.mcp.server_requests import digest_of
from shadowcat.proxy.exchanges.plight import Plight

if TYPE_CHECKING:
    from shadowcat.proxy.sessions.sessions import Sessions
    from shadowcat.shm.sessions.table import Session


def take_awaited(
    sessions: Sessions, session: Session, answers: Sequence[Envelope], plight: Plight
) -> list[bool]:
    """Which of these answers are awaited; from now on they are not.

    Args:
        sessions: Of the worker.
        session: To which the answers belong.
        answers: Of one request.
        plight: The request's; remembers what was taken for it.

    Raises:
        LockBusyError: Some of them may have been taken: call it again.
    """
    found = []
    for each in answers:
        digest = digest_of(each.id) if each.id is not None else 0
        if digest and digest not in plight.awaited:
            if sessions.table.answered(session, digest):
                plight.awaited.append(digest)
            else:
                digest = 0
        found.append(bool(digest))
    return found


def await_again(sessions: Sessions, session: Session, plight: Plight) -> None:
    """The answers were not sent: the client may try again."""
    for digest in plight.awaited:
        sessions.persist(partial(sessions.table.expect, session, digest))
    plight.awaited.clear()
