"""Exchanges of the modern era where there is a choice: what was issued goes back to who issued it.

start --presents a handle that is known--> to its upstream, and to no other
  +----anything else---------------------> chosen as usual

    the answer passes --> the handles in it are noted, then the client gets it
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from shadowcat.http1.response import Body
from shadowcat.mcp.issued import PRESENTING, REQUEST_STATE, TASK_ID, IssuedHandles
from shadowcat.mcp.methods import LISTEN
from shadowcat.proxy.exchanges.exchange import Exchange
from shadowcat.proxy.exchanges.measured_exchange import MeasuredExchange
from shadowcat.proxy.upstreams.response_heads import ResponseTemplate

if TYPE_CHECKING:
    from shadowcat.proxy.upstreams.pool import Pool


class AffinityExchange(Exchange):
    """A request that may present handles, and whose answer may issue some."""

    __slots__ = ("_handles", "_home", "_is_relayed", "watch")

    _handles: IssuedHandles
    """Where there is something to `watch`."""
    _home: Pool | None
    """The only upstream that can serve it."""
    _is_relayed: bool
    """Whether the answer goes to the client as it comes; if not, it comes in one piece."""

    def start(self) -> None:
        """Go to the upstream that issued what the request presents, or choose one."""
        self.watch = None
        self._is_relayed = False
        envelope = self.envelope
        home = None
        if envelope is not None and (envelope.method in PRESENTING or self.body.find(REQUEST_STATE) >= 0):
            home = self.plane.affinity.home(self._route, self.template.principal, envelope, self.body)
        self._home = home
        if home is None:
            Exchange.start(self)  # `super` takes three times as long.
        else:
            self._choice = self._route.balancer.return_to(home)
            self._go_to(home)

    @property
    def _has_choice(self) -> bool:
        return self._home is None and super()._has_choice

    def _try_next(self) -> None:
        """Another upstream would only deny that there is such a task, and the client would believe it."""
        if self._home is None:
            super()._try_next()
        else:
            self._tried += 1
            self._home.acquire(self, fresh=True)

    def open(
        self, head: ResponseTemplate, values: tuple[bytes, ...], body: Body, length: int
    ) -> bytes | None:
        """The answer's head has arrived: what follows is looked at, if it may issue something."""
        self._is_relayed = True
        envelope = self.envelope
        # On a listen stream the server tells of tasks that the client knows already.
        if 200 <= head.status < 300 and envelope is not None and envelope.method != LISTEN:
            self._handles = self._finder(is_stream=head.event_stream)
            self.watch = self._handles.feed
        return Exchange.open(self, head, values, body, length)

    def end(self, rest: bytes) -> None:
        """Note what the answer has issued, and hand on the last part of it."""
        if self._is_relayed:
            if self.watch is not None:
                self._handles.end()
        elif rest.find(TASK_ID) >= 0 or rest.find(REQUEST_STATE) >= 0:
            head, _, content = rest.partition(b"\r\n\r\n")
            handles = self._finder(is_stream=b"text/event-stream" in head.lower())
            handles.feed(content)
            handles.end()
        Exchange.end(self, rest)

    def _finder(self, *, is_stream: bool) -> IssuedHandles:
        assert self._pool is not None
        note = partial(self.plane.affinity.note, self._route, self.template.principal, self._pool)
        return IssuedHandles(note, is_stream=is_stream)


class MeasuredAffinityExchange(MeasuredExchange, AffinityExchange):
    """The same where the strategy compares loads."""

    __slots__ = ()
