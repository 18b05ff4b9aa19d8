"""Calls of tools that are hidden: answered as a server answers that does not have the tool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from shadowcat.errors import Refusal
from shadowcat.mcp.answers import not_run_body, unknown_tool_body
from shadowcat.mcp.envelope import Envelope, Kind
from shadowcat.mcp.eras import Era
from shadowcat.mcp.methods import TOOLS_CALL
from shadowcat.policy.tools import ToolRules
from shadowcat.proxy.clients.denial import Denial

if TYPE_CHECKING:
    from shadowcat.proxy.clients.downstream import ClientConnection
    from shadowcat.proxy.exchanges.exchange import Exchange
    from shadowcat.shm.sessions.table import Session

_REQUEST: Final = Kind.REQUEST


class HiddenTools:
    """The check of a route that hides tools."""

    __slots__ = ("_hides",)

    def __init__(self, rules: ToolRules) -> None:
        self._hides = rules.hides

    def judge(
        self,
        exchange: Exchange,
        client: ClientConnection,
        messages: Sequence[Envelope | None],
        session: Session | None,
    ) -> Denial | None:
        """Why the request is not carried out: the first call that must not get through."""
        for message in messages:
            if message is not None and message.method == TOOLS_CALL:
                name = message.name
                # Where a text is due, some languages take ["delete_all"] for the text in it.
                if name is None:
                    return Denial(Refusal.NOT_A_MESSAGE, detail="tools/call needs params with a name")
                if message.kind is not _REQUEST:
                    return Denial(Refusal.NOT_A_MESSAGE, detail="tools/call needs an id")
                if self._hides(name):
                    return self._unknown(exchange.template.era, messages, session)
        return None

    def _unknown(self, era: Era, messages: Sequence[Envelope | None], session: Session | None) -> Denial:
        """As if no server had the tool. A batch is one message to HTTP: nothing of it is carried out."""
        calls = [each for each in messages if each is not None and each.kind is _REQUEST]
        answers = [self._answer(each, era) for each in calls]
        content = answers[0] if len(messages) == 1 else b"[%b]" % b",".join(answers)
        # SDK servers name the session in each of its answers.
        pin: Any = session.note if session is not None else None  # `find` has seen to it.
        fields = pin.line if pin is not None else b""
        return Denial(Refusal.UNKNOWN_TOOL, fields=fields, content=content)

    def _answer(self, call: Envelope, era: Era) -> bytes:
        name = call.name if call.method == TOOLS_CALL else None
        if name is not None and self._hides(name):
            return unknown_tool_body(name, call.id, era)
        return not_run_body(call.id, era)
