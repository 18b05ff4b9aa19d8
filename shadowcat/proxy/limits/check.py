"""The limits of a route, and whatever may be under way at a time: asked once its session is known.

All limits admit a request, or it is charged to none. A client's answers and notifications are not counted: a
tool that waits for one would wait for ever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from shadowcat.mcp.envelope import Envelope, Kind
from shadowcat.mcp.methods import DISCOVER, LISTEN, TOOLS_CALL
from shadowcat.policy.bounded import Bounded
from shadowcat.proxy.clients.denial import Denial
from shadowcat.proxy.exchanges.seated import Seated
from shadowcat.proxy.limits.accounts import MOST, Bill, RouteRules, Rule
from shadowcat.proxy.limits.answers import denial_of
from shadowcat.shm.concurrency import Seats
from shadowcat.shm.limiter import Account, Shortage

if TYPE_CHECKING:
    from shadowcat.proxy.clients.downstream import ClientConnection
    from shadowcat.proxy.exchanges.exchange import Exchange
    from shadowcat.proxy.limits.limits import Limits
    from shadowcat.shm.sessions.table import Session

_REQUEST: Final = Kind.REQUEST
_NO_RULES: Final[tuple[Rule, ...]] = ()


class LimitCheck:
    """Asks the limits of one route."""

    __slots__ = (
        "_bills",
        "_by_user",
        "_charge",
        "_clock",
        "_host",
        "_host_has_seats",
        "_limited",
        "_limits",
        "_only",
        "_rules",
        "asks",
        "has_seats",
    )

    def __init__(self, limits: Limits, rules: RouteRules, limited: int) -> None:
        """`limited` is the cell where refusals by the route's first tier are counted; the others follow."""
        self._limits = limits
        self._host = host = limits.host
        self._rules = rules
        self._limited = limited
        own = rules.rules()
        self._host_has_seats = any(
            rule is not None and rule.limit.concurrent for rule in (host.everybody, host.per_ip)
        )
        self.has_seats = self._host_has_seats or any(rule.limit.concurrent for rule in own)
        """Whether there may be something to give back when a request has ended."""
        self.asks = bool(own) or self.has_seats
        """Whether there is anything to ask."""
        self._only = rules.bill(None, None, _NO_RULES) if rules.depend_on_nobody else None
        """What every request is charged to, if that is the same."""
        self._charge = limits.limiter.charge
        self._clock = limits.clock
        self._by_user = not (rules.depend_on_nobody or rules.per_session or rules.patterns)
        """Whether who asks tells by itself what a request is charged to: half of the look-up is saved."""
        self._bills: Bounded[object, Bill] = Bounded(MOST)
        """By who asks, or by all that it depends on."""

    def judge(
        self,
        exchange: Exchange,
        client: ClientConnection,
        messages: Sequence[Envelope | None],
        session: Session | None,
    ) -> Denial | None:
        """Why the request is not carried out; None if it may be.

        Raises:
            LockBusyError: It cannot be told yet; nothing was charged.
        """
        if len(messages) != 1:
            return self._judge_batch(exchange, client, messages, session)
        envelope = messages[0]
        if envelope is not None and envelope.kind is not _REQUEST:
            return None
        bill = self._only
        if bill is None:
            admitted = exchange.template.admitted
            if (
                self._by_user
                and admitted is not None
                and (envelope is None or envelope.method != DISCOVER)
                and (known := self._bills.get(admitted.principal)) is not None
            ):
                bill = known
            else:
                bill = self._bill(exchange, client, envelope, session)
        if self.has_seats and _takes_seat(envelope) and isinstance(exchange, Seated):
            seats = [(each, 1) for each in self._seats(exchange, client, bill)]
            charges = [(account, 1) for account in bill.accounts]
            shortage = self._limits.begin(exchange, seats, charges)
        else:
            shortage = self._charge(bill.accounts, self._clock())
        return None if shortage is None else self._deny(shortage, envelope)

    def _judge_batch(
        self,
        exchange: Exchange,
        client: ClientConnection,
        messages: Sequence[Envelope | None],
        session: Session | None,
    ) -> Denial | None:
        accounts: Counter[Account] = Counter()
        seats: Counter[Seats] = Counter()
        for envelope in messages:
            if envelope is not None and envelope.kind is _REQUEST:
                bill = self._bill(exchange, client, envelope, session)
                accounts.update(bill.accounts)
                if self.has_seats and isinstance(exchange, Seated):
                    seats.update(self._seats(exchange, client, bill))
        shortage = self._limits.begin(exchange, list(seats.items()), list(accounts.items()))
        return None if shortage is None else self._deny(shortage, None)

    def _bill(
        self, exchange: Exchange, client: ClientConnection, envelope: Envelope | None, session: Session | None
    ) -> Bill:
        rules = self._rules
        tools = _NO_RULES
        if rules.patterns and envelope is not None and envelope.method == TOOLS_CALL:
            tools = rules.of_tool(envelope.name or "")
        who = None
        if (rules.per_user is not None or tools) and (envelope is None or envelope.method != DISCOVER):
            template = exchange.template
            admitted = template.admitted
            who = admitted.principal if admitted is not None else self._limits.network(client, template)
        name = session.id if session is not None and rules.per_session is not None else None
        key = who if self._by_user else (who, name, tools)
        bill = self._bills.get(key)
        if bill is None:
            text = None if name is None else name.decode("latin-1")
            bill = self._bills.put(key, rules.bill(who, text, tools))
        return bill

    def _seats(self, exchange: Exchange, client: ClientConnection, bill: Bill) -> tuple[Seats, ...]:
        if not self._host_has_seats:
            return bill.seats
        host = self._host
        network = "" if host.per_ip is None else self._limits.network(client, exchange.template)
        return host.seats(network) + bill.seats

    def _deny(self, shortage: Shortage, envelope: Envelope | None) -> Denial:
        self._limits.cells[self._limited + shortage.tier] += 1
        return denial_of(shortage, discovers=envelope is not None and envelope.method == DISCOVER)


def _takes_seat(envelope: Envelope | None) -> bool:
    """Whether a request is under way in the sense of a limit: a stream that waits for events is not.

    Nor is an exchange that is not `Seated`, made before there was such a limit: it would give nothing back.
    """
    return envelope is not None and envelope.method != LISTEN
