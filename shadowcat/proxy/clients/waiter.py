"""Requests that wait for control, and the questions that are open."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING

from shadowcat.auth.verify import Unknown
from shadowcat.proxy.clients.denial import Denial
from shadowcat.proxy.clients.exchanger import Lacking, Wish
from shadowcat.proxy.wheel import Timed
from shadowcat.shm.questions import Ask

if TYPE_CHECKING:
    from shadowcat.proxy.clients.admission import Admission
    from shadowcat.proxy.clients.downstream import ClientConnection
    from shadowcat.proxy.clients.template import RequestTemplate


class Waiter(Timed):
    """A request that waits for control."""

    __slots__ = ("_admission", "_decided", "client", "question", "template", "token", "unknown")

    def __init__(
        self,
        admission: Admission,
        template: RequestTemplate,
        unknown: Unknown | Lacking,
        decided: Callable[[Denial | None], None],
        client: ClientConnection,
    ) -> None:
        self.deadline = self.filed = inf
        self.client = client
        self._admission = admission
        self.template = template
        self.unknown = unknown
        self._decided = decided
        self.token = b""
        """That its issuer was asked about: a login may have another one by the time of the answer."""
        self.question: Asked | None = None

    @property
    def cancelled_by_disconnect(self) -> bool:
        """Whether a client that leaves means its request to end."""
        return self.template.cancelled_by_disconnect

    def on_deadline(self, now: float) -> None:
        """Control has not answered."""
        self._admission.give_up(self)

    def decide(self, denial: Denial | None) -> None:
        """Tell the connection; None: it may begin."""
        self.deadline = inf
        self.question = None
        self._decided(denial)

    def cancel(self) -> None:
        """The client has left."""
        self.deadline = inf
        if self.question is not None:
            self.question.forget(self)
            self.question = None


class Asked:
    """A question that is open, and who waits for its answer."""

    __slots__ = ("desk", "kind", "later", "text", "waiters", "wish")

    def __init__(self, kind: Ask, desk: int | None, wish: Wish | None = None, text: bytes = b"") -> None:
        self.kind = kind
        self.desk = desk
        """None: all are taken, so that it is asked as soon as one is free."""
        self.text = text
        """What is to be asked then."""
        self.wish = wish
        """What an exchange is about."""
        self.waiters: dict[Waiter, None] = {}
        self.later: dict[Waiter, None] = {}
        """Who came after it was asked: the keys may be older than their tokens, so for those whose key is not
        among them it is asked once more."""

    def forget(self, waiter: Waiter) -> None:
        """Somebody does not wait any more."""
        self.waiters.pop(waiter, None)
        self.later.pop(waiter, None)
