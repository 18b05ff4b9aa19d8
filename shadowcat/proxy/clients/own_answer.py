"""A request that the proxy answers on its own account: what is sent, and what is told about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from shadowcat.errors import Refusal
from shadowcat.mcp.envelope import Envelope, request_id
from shadowcat.mcp.eras import Era
from shadowcat.proxy.clients.answers import answer, document, page, preflight
from shadowcat.proxy.clients.denial import Denial
from shadowcat.proxy.clients.pages import PageAnswer
from shadowcat.proxy.clients.template import RequestTemplate
from shadowcat.proxy.observers.observe import Observation

if TYPE_CHECKING:
    from shadowcat.proxy.exchanges.exchange import Exchange

_DEPENDS: Final = (Refusal.BREAKER_OPEN, Refusal.NO_UPSTREAM)
"""Refusals of which each exchange knows best how long they will last."""


class OwnAnswer(NamedTuple):
    """The answer to one request."""

    denial: Denial | None
    """Why the request is refused; None for what is answered without an upstream: OPTIONS and metadata."""
    template: RequestTemplate | None
    """The request's head; None if it could not be read."""
    body: bytes = b""
    """From which the answer takes the id; empty if it is not whole."""
    values: tuple[bytes, ...] = ()
    """Those of the head's varying fields, as far as they are known."""
    envelope: Envelope | None = None
    exchange: Exchange | None = None
    """The exchange that failed; None if it had not begun."""
    page: PageAnswer | None = None
    """What is shown, where one of the proxy's own pages was called."""

    @classmethod
    def of(
        cls, found: Denial | PageAnswer, template: RequestTemplate, body: bytes, values: tuple[bytes, ...]
    ) -> OwnAnswer:
        """The answer to a request that had to wait for what is `found`."""
        if isinstance(found, Denial):
            return cls(found, template, body, values)
        return cls(None, template, body, values, page=found)

    @property
    def status(self) -> int:
        """The HTTP status."""
        if self.denial is not None:
            return self.denial.refusal.status
        if self.page is not None:
            return self.page.status
        return 204 if self._document is None else 200

    @property
    def _document(self) -> bytes | None:
        template = self.template
        return None if template is None or template.preflight is not None else template.document

    @property
    def closes(self) -> bool:
        """Whether the connection ends with it, for the request's sake or the client's."""
        if self.template is None or not self.template.keep_alive:
            return True
        return self.denial is not None and self.denial.refusal.close

    def render(self, *, close: bool) -> bytes:
        """The whole message; `close` says that the connection ends with it."""
        template = self.template
        denial = self.denial
        fields = template.cors if template is not None else b""
        if fields and denial is None and template is not None:
            fields += template.preflight or b""
        if template is not None and not template.http11 and not close:
            fields += b"Connection: keep-alive\r\n"
        if self.page is not None:
            return page(self.page.status, self.page.fields, self.page.text, fields, close=close)
        if self._document is not None and denial is None:
            return document(self._document, fields, close=close)
        if denial is None:
            return preflight(fields, close=close)
        if denial.retry_after is None and self.exchange is not None and denial.refusal in _DEPENDS:
            denial = denial._replace(retry_after=self.exchange.retry_after)
        return answer(
            denial,
            template.era if template is not None else Era.LEGACY,
            request_id(self.body) if self.body else None,
            upstream=self.exchange.upstream if self.exchange is not None else None,
            fields=fields,
            close=close,
            head=template is not None and template.method == b"HEAD",
        )

    def observation(self, client: str, now: float, sent: int) -> Observation:
        """What the observers are told.

        Args:
            client: The client's address.
            now: The loop's clock, seconds.
            sent: Bytes of the message.
        """
        exchange = self.exchange
        started = exchange.started if exchange is not None else now
        return Observation(
            client=client,
            template=self.template,
            values=self.values,
            envelope=self.envelope,
            upstream=exchange.upstream if exchange is not None else None,
            status=self.status,
            denial=self.denial,
            complete=True,
            started=started,
            seconds=now - started,
            received=len(self.body),
            sent=sent,
            span=exchange.span if exchange is not None else None,
            exchange=exchange,
        )
