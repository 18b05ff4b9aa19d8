"""A batch of a session: judged as the one message that it is to HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from shadowcat.errors import Refusal
from shadowcat.http1.response import Body
from shadowcat.mcp.batch import kind_of, read_batch, split_batch
from shadowcat.mcp.envelope import Envelope, Kind
from shadowcat.policy.sessions import allows_batch
from shadowcat.proxy.exchanges.remember import remember_batch
from shadowcat.proxy.exchanges.session_exchange import SessionExchange
from shadowcat.proxy.upstreams.response_heads import ResponseTemplate
from shadowcat.shm.locks import LockBusyError

if TYPE_CHECKING:
    from shadowcat.shm.sessions.table import Session


class BatchExchange(SessionExchange):
    """Several messages in one body, which one revision allows."""

    __slots__ = ("_batch",)

    _batch: Sequence[Envelope]

    def _go(self, session: Session) -> None:
        """The session is there: see whether it allows this."""
        batch = self.read(session)
        if isinstance(batch, Refusal):
            self._refuse(batch, "")
        else:
            self._batch = batch
            super()._go(session)

    def read(self, session: Session) -> Sequence[Envelope] | Refusal:
        """The messages, or why the session does not allow them."""
        return read_batch(self.body) if allows_batch(session.record.version) else Refusal.BATCH

    @property
    def messages(self) -> Sequence[Envelope]:
        """Those of the batch; none if it was refused."""
        return getattr(self, "_batch", ())

    def open(
        self, head: ResponseTemplate, values: tuple[bytes, ...], body: Body, length: int
    ) -> bytes | None:
        """The answer's head has arrived."""
        if 200 <= head.status < 300:
            remember_batch(self.plane.sessions, self.session, self._batch)
        return super().open(head, values, body, length)

    def answers_whole(self, status: int) -> bool:
        """Never: `open` looks at what was asked."""
        return False

    @property
    def _kind(self) -> Kind:
        return kind_of(self._batch)

    def _may_answer(self) -> bool:
        """Leave out the answers that are not awaited."""
        if self._kind is not Kind.RESPONSE:
            return True
        try:
            awaited = self._take_awaited(self._batch)
        except LockBusyError:
            self._wait_for_lock(partial(self._go, self.session))
            return False
        self._patience = inf
        if not any(awaited):
            self._accept(self._route.meters.answers_dropped)
            return False
        if not all(awaited):
            self.plane.cells[self._route.meters.answers_dropped] += awaited.count(False)
            elements = zip(split_batch(self.body), awaited, strict=True)
            self.body = b"[%b]" % b",".join(element for element, is_awaited in elements if is_awaited)
        return True
