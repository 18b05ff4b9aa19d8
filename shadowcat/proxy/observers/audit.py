"""What a worker records in the audit trail: how tool calls went, who was let in or refused, and what became
of sessions and breakers. Never a token, an argument, a query or a session id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from shadowcat.config.model import AuditEvent
from shadowcat.errors import Refusal
from shadowcat.mcp.envelope import Envelope
from shadowcat.mcp.methods import TOOLS_CALL
from shadowcat.policy.bounded import Bounded
from shadowcat.proxy.clients.denial import Denial
from shadowcat.proxy.clients.template import RequestTemplate
from shadowcat.proxy.exchanges.batch_exchange import BatchExchange
from shadowcat.proxy.observers.audit_room import AuditRoom
from shadowcat.proxy.observers.observe import Observation, bounded, tool_or_prompt
from shadowcat.proxy.observers.trace_context import parse_traceparent
from shadowcat.shm.sessions import ids
from shadowcat.shm.sessions.record import SessionRecord, SessionState
from shadowcat.shm.trail import LONGEST_LINE

if TYPE_CHECKING:
    from shadowcat.policy import breaker
    from shadowcat.policy.sessions import Event
    from shadowcat.proxy.clients.downstream import ClientConnection
    from shadowcat.proxy.exchanges.exchange import Exchange
    from shadowcat.proxy.plane import DataPlane
    from shadowcat.shm.sessions.table import Session
    from shadowcat.shm.trail import Trail

_REQUEST_ID: Final = b"x-request-id"
_TRACEPARENT: Final = b"traceparent"
_LONGEST_ID: Final = 64
"""Characters of a JSON-RPC id that are recorded."""
_NULL: Final = b"null"
_CALL: Final = b'"%b"' % TOOLS_CALL.encode()
_UNANSWERED: Final = b'"status":null,"seconds":null'
_MOST_HANDLES: Final = 4096
_MOST_TEXTS: Final = 4096
_TOO_MANY: Final = 429
_FORBIDDEN: Final = 403
_EVENTS: Final[Mapping[Refusal, AuditEvent]] = {
    Refusal.TOKEN_MISSING: "authentication",
    Refusal.TOKEN_INVALID: "authentication",
    Refusal.TOKEN_MALFORMED: "authentication",
    Refusal.TOKEN_IN_QUERY: "authentication",
    Refusal.TOKEN_UNCHECKED: "authentication",
    Refusal.UNKNOWN_TOOL: "policy",
}
"""The event that a refusal is, where its status does not say it."""


_LINE: Final = (
    b'%b"event":"%b","outcome":"%b","reason":%b,"request_id":%b,"trace_id":%b,"rpc_id":%b,'
    b'"session":%b,"principal":%b,"client":%b,"http":%b,"method":%b,"tool":%b,%b,"route":%b,'
    b'"upstream":%b,"worker":%d,"data":null}\n'
)
"""A line of `Trail.record`, as of a message about which there is nothing special to say."""


class _Head(NamedTuple):
    """What is the same for all requests with one head; kept in its template."""

    http: str
    route: str | None
    http_text: bytes
    """In JSON, as the next."""
    route_text: bytes
    has_request_id: bool
    has_trace: bool


def _event_of(refusal: Refusal, *, has_begun: bool) -> AuditEvent | None:
    """What a refused request is, whatever it wanted; None where that depends on what it wanted."""
    if refusal.status == _TOO_MANY:
        return "limit"
    # The scopes of a whole route are asked for before a request begins, those of a rule afterwards.
    if refusal is Refusal.SCOPE_MISSING and not has_begun:
        return "authentication"
    if refusal.status == _FORBIDDEN and has_begun:
        return "policy"
    return _EVENTS.get(refusal)


class Audit:
    """Records what happens in one worker; an Observer, which is told of other things, too."""

    __slots__ = ("_handles", "_plane", "_takes_calls", "_takes_decisions", "_texts", "_trail", "room")

    def __init__(self, plane: DataPlane, trail: Trail, *, refuses: bool) -> None:
        """Record in `trail`; `refuses` where requests that cannot be recorded are not carried out."""
        self._plane = plane
        self._trail = trail
        self.room = AuditRoom(trail) if refuses else None
        """What is asked first of each request, where those that cannot be recorded are not carried out."""
        self._handles: Bounded[bytes, str] = Bounded(_MOST_HANDLES)
        self._texts: Bounded[str | None, bytes] = Bounded(_MOST_TEXTS)
        self._takes_calls = trail.takes("tool_call")
        self._takes_decisions = trail.takes("policy")

    # Requests.

    def observe(self, observation: Observation) -> None:
        """A request was answered, or will not be: record a tool call, or that it was refused."""
        exchange, denial, envelope = observation.exchange, observation.denial, observation.envelope
        calls: Iterable[Envelope] = ()
        if envelope is not None:
            if envelope.method == TOOLS_CALL:
                calls = (envelope,)
            elif isinstance(exchange, BatchExchange):
                calls = [message for message in exchange.messages if message.method == TOOLS_CALL]
        if denial is not None:
            self._refused(observation, denial, calls)
        else:
            for call in calls:
                self._called(observation, call)
        if self.room is not None and exchange is not None:
            self.room.settle(exchange)

    def _called(self, observation: Observation, call: Envelope) -> None:
        """Record how a call went."""
        status, exchange, template = observation.status, observation.exchange, observation.template
        if not self._takes_calls or template is None:
            return
        if not observation.complete or not status:
            outcome = b"incomplete"
        else:
            outcome = b"failed" if status >= 400 else b"ok"
        values, client, upstream = observation.values, observation.client, observation.upstream
        session = getattr(exchange, "session", None)
        went = b'"status":%b,"seconds":%.6f' % (b"%d" % status if status else _NULL, observation.seconds)
        if not self._write(
            b"tool_call", outcome, None, template, values, call, session, client, went, upstream
        ):
            self._request(observation, call, "tool_call", outcome.decode())

    def _write(
        self,
        event: bytes,
        outcome: bytes,
        reason: str | None,
        template: RequestTemplate,
        values: tuple[bytes, ...],
        message: Envelope,
        session: Session | None,
        client: str,
        went: bytes,
        upstream: str | None,
    ) -> bool:
        """Record what happens with most messages, as `Trail.record` would; written piece by piece, it costs a
        third. False if the line is too long for that.
        """
        head = template.audit_note
        if not isinstance(head, _Head):
            head = _head_of(template)
        request_id = trace_id = _NULL
        if head.has_request_id or head.has_trace:
            members = _head_members(template, values)
            request_id = orjson.dumps(members.get("request_id"))
            trace_id = orjson.dumps(members.get("trace_id"))
        text = self._text
        if message.method == TOOLS_CALL:  # Most are.
            method, tool = _CALL, message.name
        else:
            method, tool = text(message.method), tool_or_prompt(message)
        line = _LINE % (
            self._trail.stamp(),
            event,
            outcome,
            _NULL if reason is None else text(reason),
            request_id,
            trace_id,
            _id_text(message.id),
            _NULL if session is None else text(self._handle(session.slot, session.id)),
            text(template.principal),
            text(client),
            head.http_text,
            method,
            text(tool),
            went,
            head.route_text,
            _NULL if upstream is None else text(upstream),
            self._trail.worker,
        )
        if len(line) > LONGEST_LINE:
            return False
        self._trail.put(line)
        return True

    def _refused(self, observation: Observation, denial: Denial, calls: Iterable[Envelope]) -> None:
        refusal = denial.refusal
        if refusal is Refusal.AUDIT_FULL:
            return  # There is no room: that is why.
        has_begun = observation.exchange is not None
        event = _event_of(refusal, has_begun=has_begun)
        outcome = "denied" if event == "policy" else "refused"
        data: dict[str, Any] | None = None
        if denial.data or denial.why:
            data = dict(denial.data or ())
            if denial.why:
                data["why"] = denial.why
        messages: Iterable[Envelope | None] = calls if has_begun else ()
        for message in messages or (observation.envelope,):
            kind = event or ("tool_call" if has_begun and calls else "refusal")
            self._request(
                observation, message, kind, outcome, refusal.name.lower(), data, principal=denial.principal
            )

    def _request(
        self,
        observation: Observation,
        message: Envelope | None,
        event: AuditEvent,
        outcome: str,
        reason: str | None = None,
        data: dict[str, Any] | None = None,
        *,
        principal: str | None = None,
    ) -> None:
        template, exchange = observation.template, observation.exchange
        # Who is refused for a token is nobody, whatever an earlier one with this head had shown.
        if principal is None and template is not None and (exchange is not None or event != "authentication"):
            principal = template.principal
        self._trail.record(
            event,
            outcome,
            reason,
            **_head_members(template, observation.values),
            **_message_members(message),
            session=self._session(exchange),
            principal=principal,
            client=bounded(observation.client),
            status=observation.status or None,
            seconds=round(observation.seconds, 6),
            upstream=observation.upstream,
            data=data,
        )

    def decision(
        self,
        exchange: Exchange,
        client: ClientConnection,
        outcome: str,
        reason: str | None = None,
        *,
        message: Envelope | None,
        session: Session | None = None,
        data: dict[str, Any] | None = None,
    ) -> None:
        """A check has decided something of a message that is not told as a refusal.

        Args:
            exchange: The request.
            client: Whose it is.
            outcome: "allowed", or "would_deny" where nothing is enforced.
            reason: Why, such as the name of the rule.
            message: The message, one of several in a batch.
            session: Its session.
            data: What else there is to say: nothing of what the message has as arguments.
        """
        if not self._takes_decisions:
            return
        template = exchange.template
        name, principal, word = client.name(template), template.principal, outcome.encode()
        if (
            data is None
            and message is not None
            and message.method is not None
            and bounded(principal) is principal
            and self._write(
                b"policy", word, reason, template, exchange.values, message, session, name, _UNANSWERED, None
            )
        ):
            return
        self._trail.record(
            "policy",
            outcome,
            reason,
            **_head_members(template, exchange.values),
            **_message_members(message),
            session=None if session is None else self._handle(session.slot, session.id),
            principal=principal,
            client=bounded(name),
            data=data,
        )

    def authenticated(self, template: RequestTemplate, client: ClientConnection, principal: str) -> None:
        """A token that this worker did not know was found good."""
        self._trail.record(
            "authentication",
            "accepted",
            **_head_members(template, ()),
            principal=principal,
            client=bounded(client.name(template)),
        )

    # Sessions.

    def session_created(self, exchange: Exchange, client: ClientConnection | None, session: Session) -> None:
        """An upstream has opened a session."""
        self._trail.record(
            "session",
            "created",
            **_head_members(exchange.template, exchange.values),
            **_message_members(exchange.envelope),
            session=self._handle(session.slot, session.id),
            principal=session.record.principal,
            client=bounded(client.name(exchange.template)) if client is not None else None,
            upstream=exchange.upstream,
        )

    def session_ended(self, slot: int, record: SessionRecord, event: Event) -> None:
        """A session is over; one that was never open has not begun for the audit, either."""
        if record.state is SessionState.OPEN:
            self._trail.record(
                "session",
                event.name.lower(),
                session=self._handle(slot, ids.encode(slot, record.key)),
                principal=record.principal,
                route=record.route,
                upstream=self._home(record),
            )

    def recovery(
        self, session: Session, outcome: str, reason: str | None = None, upstream: str | None = None
    ) -> None:
        """A session that its upstream has lost is brought back; `upstream`: by whom."""
        record = session.record
        self._trail.record(
            "recovery",
            outcome,
            reason,
            session=self._handle(session.slot, session.id),
            principal=record.principal,
            route=record.route,
            upstream=upstream or self._home(record),
            data={"lost_by": self._home(record)},
        )

    # Upstreams.

    def breaker(
        self, route: str, upstream: str, before: breaker.State, after: breaker.State, why: str
    ) -> None:
        """The breaker of an upstream has changed."""
        self._trail.record(
            "breaker",
            after.name.lower(),
            bounded(why) or None,
            route=route,
            upstream=upstream,
            data={"before": before.name.lower()},
        )

    # As an observer.

    def tick(self) -> None:
        """Nothing is held back."""

    def reopen(self) -> None:
        """The file is control's."""

    def close(self) -> None:
        """What is recorded stays in the ring."""

    def _text(self, text: str | None) -> bytes:
        """A bounded text in JSON."""
        found = self._texts.get(text)
        if found is None:
            whole = None if text is None else bounded(text).encode("utf-8", "replace").decode()
            found = orjson.dumps(whole)
            if text == whole:  # Clients choose some of them, and make them as long as they like.
                self._texts.put(text, found)
        return found

    def _home(self, record: SessionRecord) -> str | None:
        pool = self._plane.sessions.home(record)
        return pool.origin.name if pool is not None else None

    def _session(self, exchange: Exchange | None) -> str | None:
        session = getattr(exchange, "session", None)
        return None if session is None else self._handle(session.slot, session.id)

    def _handle(self, slot: int, session_id: bytes) -> str:
        found = self._handles.get(session_id)
        if found is None:
            found = self._handles.put(session_id, ids.handle(slot, session_id))
        return found


def _head_members(template: RequestTemplate | None, values: tuple[bytes, ...]) -> dict[str, Any]:
    """What a line says of a head."""
    if template is None:
        return {}
    head = template.audit_note
    if not isinstance(head, _Head):
        head = _head_of(template)
    members: dict[str, Any] = {"http": head.http, "route": head.route}
    if head.has_request_id:
        value = template.field(_REQUEST_ID, values)
        members["request_id"] = bounded(value.decode("latin-1")) if value is not None else None
    if head.has_trace:
        caller = parse_traceparent(template.field(_TRACEPARENT, values))
        members["trace_id"] = caller.trace_id if caller is not None else None
    return members


def _head_of(template: RequestTemplate) -> _Head:
    name = template.route.name if template.route is not None else None
    method = template.method.decode("latin-1")
    head = template.audit_note = _Head(
        method,
        name,
        orjson.dumps(method),
        orjson.dumps(name),
        template.carries(_REQUEST_ID),
        template.carries(_TRACEPARENT),
    )
    return head


def _id_text(rpc_id: bytes | None) -> bytes:
    """A JSON-RPC id, as it is spelt, in a JSON string."""
    if rpc_id is None:
        return _NULL
    if rpc_id.isdigit() and len(rpc_id) <= _LONGEST_ID:
        return b'"%b"' % rpc_id
    return orjson.dumps(rpc_id[:_LONGEST_ID].decode("utf-8", "replace"))


def _message_members(message: Envelope | None) -> dict[str, Any]:
    """What a line says of a message."""
    if message is None or message.method is None:
        return {}
    rpc_id = message.id
    return {
        "method": bounded(message.method),
        "tool": tool_or_prompt(message),
        "rpc_id": rpc_id[:_LONGEST_ID].decode("utf-8", "replace") if rpc_id is not None else None,
    }
