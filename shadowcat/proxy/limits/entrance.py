"""Whether a request may begin: what the host admits at all, then whose token it has.

A message is charged as soon as its head is there, and before anything is done about its token: who guesses
tokens is limited, too. Nothing is given back, and nothing is charged twice, whatever is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from shadowcat.auth.verify import Unknown
from shadowcat.errors import Refusal
from shadowcat.mcp.batch import split_batch
from shadowcat.mcp.envelope import Kind, peek
from shadowcat.mcp.methods import DISCOVER
from shadowcat.policy.bounded import Bounded
from shadowcat.proxy.clients.admission import Admission
from shadowcat.proxy.clients.denial import Denial
from shadowcat.proxy.clients.exchanger import Lacking
from shadowcat.proxy.clients.waiter import Waiter
from shadowcat.proxy.limits.accounts import MOST
from shadowcat.proxy.limits.answers import denial_of
from shadowcat.proxy.limits.limits import Limits
from shadowcat.shm.limiter import Account, Shortage
from shadowcat.shm.locks import PATIENCE, RETRY, LockBusyError

if TYPE_CHECKING:
    from shadowcat.proxy.clients.downstream import ClientConnection
    from shadowcat.proxy.clients.pages import PageRequest, Visit
    from shadowcat.proxy.clients.template import RequestTemplate

_OBJECT: Final = b"{"
Decided = Callable[[Denial | None], None]


class Busy(Enum):
    """The limiter cannot tell yet."""

    BUSY = "busy"


class _Paid(Enum):
    """How much of a message was charged already."""

    HEAD = "one, on its head"
    WHOLE = "all of it"


class LockWaiter:
    """A request that waits for a lock of the limiter."""

    __slots__ = ("_decided", "_entrance", "_loop", "_request", "_timer", "_until")

    def __init__(
        self,
        entrance: Entrance,
        loop: asyncio.AbstractEventLoop,
        request: tuple[ClientConnection, RequestTemplate, bytes],
        decided: Decided,
    ) -> None:
        self._entrance = entrance
        self._loop = loop
        self._request = request
        self._decided = decided
        self._until = loop.time() + PATIENCE
        self._timer = loop.call_later(RETRY, self._try)

    @property
    def cancelled_by_disconnect(self) -> bool:
        """Whether a client that leaves means its request to end."""
        return self._request[1].cancelled_by_disconnect

    def cancel(self) -> None:
        """The client has left."""
        self._timer.cancel()

    def _try(self) -> None:
        try:
            denial = self._entrance.charge(*self._request)
        except LockBusyError:
            if self._loop.time() < self._until:
                self._timer = self._loop.call_later(RETRY, self._try)
                return
            denial = Denial(Refusal.LIMITER_BUSY)
        self._entrance.go_on(self._request[0], self._decided, denial)


class Entrance:
    """Judges the requests of one worker."""

    __slots__ = (
        "_admission",
        "_cells",
        "_charge",
        "_clock",
        "_direct",
        "_known",
        "_limits",
        "_loop",
        "_paid",
        "is_limited",
    )

    def __init__(
        self, limits: Limits, admission: Admission, loop: asyncio.AbstractEventLoop, cells: memoryview
    ) -> None:
        self._limits = limits
        self._admission = admission
        self._loop = loop
        self._cells = cells
        self.is_limited = False
        """Whether the host has limits that are charged here."""
        self._charge = limits.limiter.charge
        self._clock = limits.clock
        self._known: Bounded[str, tuple[Account, ...]] = Bounded(MOST)
        self._direct: Bounded[bytes, tuple[Account, ...]] = Bounded(MOST)
        """The same by the address of a client that speaks for itself."""
        self._paid: dict[ClientConnection, _Paid] = {}
        """Whose present message was charged, in part or as a whole, and has not begun yet."""

    def take_up(self, *, is_limited: bool) -> None:
        """The limits are others now."""
        self.is_limited = is_limited
        if not is_limited:
            self._paid.clear()  # Nobody would, when the bodies come.
        self._known.clear()
        self._direct.clear()

    def judge(
        self, client: ClientConnection, template: RequestTemplate, body: bytes | None
    ) -> Denial | Unknown | Lacking | Busy | None:
        """Whether a request may begin; None: it may.

        Args:
            client: Whose it is.
            template: Its head.
            body: Its body; None if that is not there yet, and it will be judged again.
        """
        if self.is_limited and template.refusal is None and template.route is not None:
            try:
                denial = self.charge(client, template, body)
            except LockBusyError:
                return Busy.BUSY
            if denial is not None:
                return denial
        return self._admission.judge(template, client)

    def charge(
        self, client: ClientConnection, template: RequestTemplate, body: bytes | None
    ) -> Denial | None:
        """Charge what has not been charged of a message.

        Raises:
            LockBusyError: It cannot be told yet; all that was charged is remembered.
        """
        limits = self._limits
        paid = self._paid.pop(client, None) if self._paid else None
        if paid is _Paid.WHOLE:
            return None
        network = limits.network(client, template)
        accounts = self._known.get(network)
        if accounts is None:
            accounts = self._known.put(network, limits.host.accounts(network))
        if not template.chain:
            self._direct.put(client.address, accounts)
        shortage = None
        if paid is None:
            shortage = limits.limiter.charge(accounts, limits.clock())
        if shortage is None:
            if body is None:
                self._paid[client] = _Paid.HEAD
                return None
            if body[:1] == _OBJECT or not template.is_post:
                return None
            rest = _messages(body) - 1
            if rest <= 0:
                return None
            try:
                charges = [(account, rest) for account in accounts]
                shortage = limits.limiter.charge_many(charges, limits.clock())
            except LockBusyError:
                self._paid[client] = _Paid.HEAD
                raise
            if shortage is not None:
                # One of them was charged before: what is final shows in all of them only.
                final = next((account for account in accounts if rest >= account.limit.burst), None)
                if final is not None:
                    shortage = Shortage(final.tier, final.limit, shortage.wait, 0, is_final=True)
        return None if shortage is None else self._deny(shortage, template, body)

    def _deny(self, shortage: Shortage, template: RequestTemplate, body: bytes | None) -> Denial:
        if template.route is not None:  # The proxy's own pages have none.
            self._cells[template.route.meters.limited + shortage.tier] += 1
        if body:
            discovers = peek(body).method == DISCOVER
        else:
            discovers = template.is_modern and template.plain_method in (None, DISCOVER)
        return denial_of(shortage, discovers=discovers)

    def admit(
        self, client: ClientConnection, template: RequestTemplate, values: tuple[bytes, ...], body: bytes
    ) -> Waiter | LockWaiter | Visit | Denial | None:
        """Let a whole request in, or not.

        Args:
            client: Whose it is.
            template: Its head.
            values: Those of the head's varying fields.
            body: Its body.

        Returns:
            None if it may begin; why it may not; or what waits until the client is told by `decided`.
        """
        page = template.page
        if page is not None:
            return self._visit(page, client, template, values, body)
        if self.is_limited and not self._paid and not template.chain and body[:1] == _OBJECT:
            # The short way, for one message from an address that is known.
            accounts = self._direct.get(client.address)
            if accounts is not None:
                try:
                    shortage = self._charge(accounts, self._clock())
                except LockBusyError:
                    return self._wait(client, template, values, body, Busy.BUSY)
                if shortage is None:
                    route: Any = template.route
                    if route.access is None:
                        return None
                    verdict = self._admission.judge(template, client)
                    if verdict is None or isinstance(verdict, Denial):
                        return verdict
                    return self._wait(client, template, values, body, verdict)
                return self._deny(shortage, template, body)
        if self.is_limited:
            found = self.judge(client, template, body)
        else:
            found = self._admission.judge(template, client)
        if found is None or isinstance(found, Denial):
            return found
        return self._wait(client, template, values, body, found)

    def _visit(
        self,
        page: PageRequest,
        client: ClientConnection,
        template: RequestTemplate,
        values: tuple[bytes, ...],
        body: bytes,
    ) -> LockWaiter | Visit | Denial:
        """Charged like everything that somebody without a token may ask for: control has to work for it."""
        if self.is_limited:
            try:
                denial = self.charge(client, template, body)
            except LockBusyError:
                decided = partial(client.decided, template, values, body)
                return LockWaiter(self, self._loop, (client, template, body), decided)
            if denial is not None:
                return denial
        unknown = page.judge(template, client)
        return page.wait(template, unknown, partial(client.decided, template, values, body), client)

    def _wait(
        self,
        client: ClientConnection,
        template: RequestTemplate,
        values: tuple[bytes, ...],
        body: bytes,
        verdict: Unknown | Lacking | Busy,
    ) -> Waiter | LockWaiter | Denial:
        decided = partial(client.decided, template, values, body)
        if isinstance(verdict, Busy):
            return LockWaiter(self, self._loop, (client, template, body), decided)
        return self._admission.wait(template, verdict, partial(self.go_on, client, decided), client)

    def go_on(self, client: ClientConnection, decided: Decided, denial: Denial | None) -> None:
        """A request that has waited is decided: if it begins, it has been charged."""
        if denial is None and self.is_limited:
            self._paid[client] = _Paid.WHOLE
        decided(denial)

    def forget(self, client: ClientConnection) -> None:
        """A client is gone."""
        if self._paid:
            self._paid.pop(client, None)


def _messages(body: bytes) -> int:
    """How many messages a body has that need not be a single one."""
    if peek(body).kind is not Kind.BATCH:
        return 1
    try:
        return len(split_batch(body))
    except (ValueError, RecursionError):
        return 1
