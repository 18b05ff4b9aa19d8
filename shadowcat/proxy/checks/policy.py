"""Whether the policy of a route lets a request through.

Judged is what asks for something: each request, alone or in a batch, GET and DELETE, and notifications that
are none of the protocol's own. Those, and what a client answers to its server, belong to what was judged.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

from shadowcat.auth.principal import ANONYMOUS
from shadowcat.config import model
from shadowcat.config.access import authenticates
from shadowcat.errors import Refusal
from shadowcat.mcp.batch import split_batch
from shadowcat.mcp.envelope import Envelope, Kind
from shadowcat.mcp.methods import OWN_NOTIFICATIONS, TOOLS_CALL
from shadowcat.mcp.params import read_params
from shadowcat.policy.asked import Asked, Caller, Verdict
from shadowcat.policy.rules import RuleSet
from shadowcat.proxy.clients.denial import Denial

if TYPE_CHECKING:
    from shadowcat.proxy.clients.downstream import ClientConnection
    from shadowcat.proxy.exchanges.exchange import Exchange
    from shadowcat.proxy.plane import DataPlane
    from shadowcat.proxy.route import Route
    from shadowcat.shm.sessions.table import Session

_REQUEST: Final = Kind.REQUEST
_LINES: Final = 10
"""Lines per second, of each worker and route, about what would have been refused."""
_LONGEST: Final = 200
"""Characters of a name in such a line: clients choose them."""
_log: Final = logging.getLogger(__name__)


Decision = Literal["allow", "deny", "dry_run"]
"""What a verdict has led to; dry_run: the rules refuse it, and it is carried out."""


class PolicyCheck:
    """The rules of one route."""

    __slots__ = (
        "_anybody",
        "_audit",
        "_by_address",
        "_by_name",
        "_cells",
        "_clock",
        "_limit",
        "_lines",
        "_meters",
        "_omitted",
        "_route",
        "_rules",
        "_second",
        "_tolerates",
    )

    def __init__(self, plane: DataPlane, route: Route, section: model.Route) -> None:
        """`section` has rules."""
        policy = section.policy
        assert policy is not None
        self._audit = plane.audit
        self._cells = plane.cells
        self._clock = plane.clock
        self._route = route
        scopes = section.auth.scopes if section.auth is not None else ()
        self._rules = rules = RuleSet(section.path, policy, scopes)
        self._by_name = rules.looks_at_names
        self._by_address = rules.looks_at_address
        self._anybody = None if authenticates(section) else rules.anybody(ANONYMOUS)
        self._limit = int(policy.arguments_limit)
        self._tolerates = policy.dry_run
        self._meters = route.meters
        self._second = 0
        self._lines = self._omitted = 0

    def judge(
        self,
        exchange: Exchange,
        client: ClientConnection,
        messages: Sequence[Envelope | None],
        session: Session | None,
    ) -> Denial | None:
        """Why the request is not carried out; None if it may be."""
        caller = self._anybody
        if caller is None:
            admitted = exchange.template.admitted
            if admitted is None or admitted.claims is None:
                # The rules are newer than the verdict on its token: with the next request both are known.
                return Denial(Refusal.TOKEN_UNCHECKED)
            caller = admitted.caller
            if caller is None or caller.rules is not self._rules:
                caller = self._rules.caller(admitted.principal, admitted.scopes, admitted.claims)
                admitted.caller = caller
        # Most requests are one message about which the same was asked before.
        if len(messages) == 1 and (only := messages[0]) is not None and only.kind is _REQUEST:
            method = only.method
            key: object = method
            if self._by_name:
                # What the property finds for most requests, without calling it.
                params = only.params
                key = method, params.name if params is not None and method == TOOLS_CALL else only.name
            verdict = caller.verdicts.get(key)
            if verdict is not None and verdict.allow and not self._by_address:
                self._meters.policy_allowed += 1
                if self._audit is not None:
                    self._audit.decision(
                        exchange, client, "allowed", verdict.rule, message=only, session=session
                    )
                return None
        refused: Verdict | None = None
        scopes: dict[str, None] = {}
        for number, envelope in enumerate(messages):
            if (
                envelope is not None
                and envelope.kind is not _REQUEST
                and (envelope.kind is Kind.RESPONSE or envelope.method in OWN_NOTIFICATIONS)
            ):
                continue
            verdict = self._verdict(caller, exchange, client, envelope, number)
            if verdict.allow:
                decision: Decision = "allow"
            elif self._tolerates:
                decision = "dry_run"
            else:
                decision = "deny"
                # If something is refused for good, more scopes would not help.
                if refused is None or (refused.scopes and not verdict.scopes):
                    refused = verdict
                scopes |= dict.fromkeys(verdict.scopes)
            self._decided(decision, verdict, caller, exchange, client, envelope, session)
        return self._denial(refused, scopes, exchange) if refused is not None else None

    def _verdict(
        self,
        caller: Caller,
        exchange: Exchange,
        client: ClientConnection,
        envelope: Envelope | None,
        number: int,
    ) -> Verdict:
        """What the rules say about one message, or about a request without any."""
        template = exchange.template
        address = client.name(template) if self._by_address else ""
        key: object
        if envelope is None:
            key = template.method
        elif self._by_name:
            key = (envelope.method, envelope.name)
        else:
            key = envelope.method
        if address:
            key = (key, address)
        verdict = caller.verdicts.get(key)
        if verdict is None:
            asked = Asked(
                template.method.decode("latin-1"),
                (envelope.method or "") if envelope is not None else "",
                (envelope.name or "") if envelope is not None else "",
                lambda: address,
                partial(self._read, exchange, envelope, number),
            )
            verdict = self._rules.decide(asked, caller)
            if asked.is_usual:
                caller.verdicts.put(key, verdict)
        return verdict

    def _read(self, exchange: Exchange, envelope: Envelope | None, number: int) -> dict[str, Any]:
        """The params of a message.

        Raises:
            ValueError: They cannot be read reliably.
        """
        if envelope is None:
            return {}
        whole = exchange.envelope
        is_batch = whole is not None and whole.kind is Kind.BATCH
        message = split_batch(exchange.body)[number] if is_batch else exchange.body
        if len(message) > self._limit:
            raise ValueError("the message is too long to be looked into")
        return read_params(message)

    def _decided(
        self,
        decision: Decision,
        verdict: Verdict,
        caller: Caller,
        exchange: Exchange,
        client: ClientConnection,
        envelope: Envelope | None,
        session: Session | None,
    ) -> None:
        """Something was decided: tell whoever wants to know."""
        meters = self._meters
        if decision == "allow":
            meters.policy_allowed += 1
        else:
            self._cells[meters.policy_denied if decision == "deny" else meters.policy_tolerated] += 1
        if self._audit is not None and decision != "deny":  # That is told as a refusal.
            outcome = "allowed" if decision == "allow" else "would_deny"
            self._audit.decision(exchange, client, outcome, verdict.rule, message=envelope, session=session)
        if decision == "dry_run" and self._may_log():
            _log.warning(
                "%s: without dry_run, %s of %s would be refused (rule %s%s); principal %s",
                self._route.name,
                (envelope.method if envelope is not None else None) or exchange.template.method.decode(),
                repr((envelope.name or "")[:_LONGEST] if envelope is not None else ""),
                verdict.rule,
                f", scopes needed: {' '.join(verdict.scopes)}" if verdict.scopes else "",
                caller.facts["principal"],
            )

    def _may_log(self) -> bool:
        second = int(self._clock())
        if second != self._second:
            if self._omitted:
                _log.warning("%s: %d more would have been refused", self._route.name, self._omitted)
            self._second, self._lines, self._omitted = second, 0, 0
        self._lines += 1
        if self._lines > _LINES:
            self._omitted += 1
        return self._lines <= _LINES

    def _denial(self, verdict: Verdict, scopes: dict[str, None], exchange: Exchange) -> Denial:
        access = self._route.access
        if verdict.scopes and access is not None:
            denial = access.ask_for(tuple(scopes), exchange.template.base)
            return denial._replace(why=verdict.rule)
        return Denial(Refusal.POLICY_DENIED, data={"rule": verdict.rule}, why=verdict.rule)
